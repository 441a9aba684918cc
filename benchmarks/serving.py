"""The server under many clients with mixed tasks, against bulk prediction at the same batch size.

    python -m benchmarks.serving [--clients=64] [--seconds=60] [--batch_size=32] [--writing=0]
                                 [--share=0.8] [--model=SOURCE] [--dtype=DTYPE]

A real server runs as a process of its own; each client keeps a connection and asks again as soon
as it is answered. Texts are as long as reviews are, tasks are eight random prompts, of which some
may write texts of up to 16 tokens instead of ranking two labels (`--writing`). Every answer is
compared with the offline one. Bulk prediction of the same requests by the same shapes runs
before, with the machine to itself; so do the clients' requests, apart from the clients.

Clients that wait for their answers come slower to a slow server. So there is an open loop behind
it: requests come at random moments (Poisson), at a share of the rate that the clients reached,
however many are unanswered, and their times count from the moment that each was due.
"""

import argparse
import asyncio
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.mixed_tasks import DEMO_MODEL, LABELS, random_prompt
from benchmarks.results import record
from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.engine import Engine
from jax_prompt.models.open import open_model
from jax_prompt.predict.bulk import BulkSettings, LineSettings, predict_file
from jax_prompt.prompts.file import save_prompt

WORDS = ('a film that one remembers for long and would see again with pleasure although its plot '
         'is thin the cast plays as if it were not and the camera finds what others miss').split()
LENGTHS = (32, 48, 64, 96)

_PROGRAM = """
import sys
from jax_prompt.models.open import open_model
from jax_prompt.serving.server import serve
from jax_prompt.serving.settings import ServerSettings
from benchmarks.serving import shapes
model, dtype, prompts, batch_size = sys.argv[1:]
settings = ServerSettings(port=0, batch_size=int(batch_size), warm_up_length=96, time_limit=300)
serve(open_model(model, dtype=dtype or None), prompts, settings, shapes(int(batch_size)),
      announce=lambda address: print(address, flush=True))
"""


def shapes(batch_size):
    """Return what both the server and bulk prediction run at."""
    return Shapes.for_batches_of(batch_size, lengths=LENGTHS, labels=((2, 2),), targets=(16,),
                                 shared_labels=1)


def labels_of(number, writing):
    """Return the labels of a task; None for the last ones, which write."""
    return None if number >= len(LABELS) - writing else LABELS[number]


def draw_requests(count, writing):
    draw, requests = np.random.default_rng(0), []
    for _ in range(count):
        number = int(draw.integers(len(LABELS)))
        requests.append({
            'task': str(number), 'text': ' '.join(draw.choice(WORDS, draw.integers(4, 40))),
            'route': 'classify' if labels_of(number, writing) else 'generate'})
    return requests


def measure_bulk(opened, folder, requests, batch_size, writing):
    """Return lines a second of bulk prediction, and its answers."""
    engine = Engine(opened, shapes(batch_size))
    for number in range(len(LABELS)):
        prompt = random_prompt(opened, 20, number, labels_of(number, writing))
        engine.add(str(number), prompt)
        save_prompt(folder / 'prompts' / f'{number}.safetensors', prompt)
    engine.warm_up(longest=LENGTHS[-1])
    (folder / 'in').write_text(''.join(json.dumps(request) + '\n' for request in requests))
    start = time.perf_counter()
    predict_file(engine, folder / 'in', folder / 'out',
                 BulkSettings(lines=LineSettings(prompt_column='task')))
    rate = len(requests) / (time.perf_counter() - start)
    return rate, [json.loads(line) for line in (folder / 'out').read_text().splitlines()]


async def ask(connection, request):
    """Ask a request; return status and answer."""
    reader, writer = connection
    body = json.dumps({'prompt': request['task'], 'inputs': request['text']}).encode()
    writer.write(b'POST /v1/%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: '
                 b'application/json\r\nContent-Length: %d\r\n\r\n'
                 % (request['route'].encode(), len(body)) + body)
    head = (await reader.readuntil(b'\r\n\r\n')).decode().lower()
    length = int(head.split('content-length: ')[1].split('\r\n')[0])
    return int(head.split()[1]), json.loads(await reader.readexactly(length))


async def client(port, requests, number, clients, end, outcomes):
    """Ask one request after the other; note (request, status, seconds, answer)."""
    connection = await asyncio.open_connection('127.0.0.1', port)
    while time.monotonic() < end:
        start, number = time.perf_counter(), number % len(requests)
        status, answer = await ask(connection, requests[number])
        outcomes.append((number, status, time.perf_counter() - start, answer))
        number += clients
    connection[1].close()


async def load(port, requests, clients, seconds):
    outcomes, end = [], time.monotonic() + seconds
    await asyncio.gather(*(client(port, requests, number, clients, end, outcomes)
                           for number in range(clients)))
    return outcomes


async def open_load(port, requests, rate, seconds):
    """Ask at random moments, so many a second; note as `client` does."""
    draw = np.random.default_rng(1)
    moments = np.cumsum(draw.exponential(1 / rate, int(rate * seconds)))
    start, outcomes, idle = time.perf_counter(), [], []

    async def one(number, due):
        while idle and idle[-1][0].at_eof():  # the server lets go of what is idle for long
            idle.pop()
        connection = idle.pop() if idle else await asyncio.open_connection('127.0.0.1', port)
        status, answer = await ask(connection, requests[number])
        outcomes.append((number, status, time.perf_counter() - due, answer))
        idle.append(connection)

    async with asyncio.TaskGroup() as group:
        for place, moment in enumerate(moments):
            due = start + moment
            await asyncio.sleep(max(0, due - time.perf_counter()))
            group.create_task(one(place % len(requests), due))
    for _, writer in idle:
        writer.close()
    return outcomes


async def until_compiled(port):
    """Wait for all programs: the server answers from the first one on."""
    while True:
        reader, writer = await asyncio.open_connection('127.0.0.1', port)
        writer.write(b'GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n')
        answer = await reader.read()
        writer.close()
        if answer.startswith(b'HTTP/1.1 200 ') and b'"programs_left":0' in answer:
            return
        await asyncio.sleep(0.5)


def measure_server(args, folder, requests):
    """Return what the clients saw, how long it took, and what was seen in an open loop."""
    process = subprocess.Popen(
        [sys.executable, '-c', _PROGRAM, args.model, args.dtype or '', str(folder / 'prompts'),
         str(args.batch_size)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': os.getcwd()})
    try:
        port = int(process.stdout.readline().rpartition(':')[2])
        asyncio.run(until_compiled(port))
        asyncio.run(load(port, requests, args.clients, min(5, args.seconds)))
        start = time.perf_counter()
        outcomes = asyncio.run(load(port, requests, args.clients, args.seconds))
        seconds = time.perf_counter() - start
        rate = args.share * len(outcomes) / seconds
        opened = asyncio.run(open_load(port, requests, rate, args.seconds))
        process.send_signal(signal.SIGTERM)
        print(f'the server ended with {process.wait(60)}')
    finally:
        process.kill()
        process.wait()
    return outcomes, seconds, opened


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--clients', type=int, default=64)
    parser.add_argument('--seconds', type=float, default=60)
    parser.add_argument('--batch_size', type=int, default=32)
    parser.add_argument('--requests', type=int, default=1024)
    parser.add_argument('--writing', type=int, default=0)
    parser.add_argument('--share', type=float, default=0.8, help='of capacity, in the open loop')
    parser.add_argument('--model', default=DEMO_MODEL)
    parser.add_argument('--dtype')
    args = parser.parse_args()
    requests = draw_requests(args.requests, args.writing)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        bulk, expected = measure_bulk(open_model(args.model, dtype=args.dtype), folder, requests,
                                      args.batch_size, args.writing)
        outcomes, seconds, opened = measure_server(args, folder, requests)
    rate = len(outcomes) / seconds
    report(f'{args.clients} clients, {seconds:.0f} s', outcomes, expected)
    print(f'server {rate:.1f} answers/s, bulk {bulk:.1f} lines/s, batch size {args.batch_size}, '
          f'ratio {rate / bulk:.2f}')
    record(f'server, {args.clients} clients, {args.writing} of 8 tasks write', 'answers/s',
           {'jax_prompt': rate, 'bulk prediction': bulk})
    report(f'open loop, {args.share * rate:.1f} requests/s', opened, expected)


def report(what, outcomes, expected):
    """Print what clients saw against what prediction has answered."""
    wrong = sum(status != 200 for _, status, _, _ in outcomes)
    answered = [(answer, expected[number]) for number, status, _, answer in outcomes
                if status == 200]
    differs = max((abs(answer['scores'][word] - score) for answer, wanted in answered
                   for word, score in wanted.get('scores', {}).items()), default=0.0)
    texts = [answer['text'] == wanted['prediction'] for answer, wanted in answered
             if 'text' in answer]
    times = sorted(1000 * taken for _, _, taken, _ in outcomes)
    cuts = statistics.quantiles(times, n=100)
    print(f'{what}: {len(outcomes)} answers, {wrong} errors, '
          f'scores differ from offline by at most {differs:.1e}, '
          f'{texts.count(False)} of {len(texts)} texts differ')
    print(f'p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms: {cuts[98] / cuts[49]:.2f} times')


if __name__ == '__main__':
    main()
