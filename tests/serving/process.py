"""A real server as a process of its own, over a tiny random model, and a client for it."""

import contextlib
import http.client
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]

_PROGRAM = """
import ast, json, logging, pathlib, sys
from jax_prompt.inference.batching import Shapes
from jax_prompt.serving.server import serve
from jax_prompt.serving.settings import ServerSettings
from tests.inference.many_prompts import open_tiny

logging.basicConfig(level=logging.INFO, stream=sys.stderr)
model, prompts, settings, shapes = sys.argv[1:]
serve(open_tiny(pathlib.Path(model)), prompts, ServerSettings(**json.loads(settings)),
      Shapes(**ast.literal_eval(shapes)), announce=lambda address: print(address, flush=True))
"""

#: Few, since each is compiled before a test can begin.
SHAPES = dict(batch_sizes=(8,), lengths=(32,), labels=((8, 4),), targets=(16,), shared_labels=1)
TOKEN = 'a-token-for-tests'


class Server:
    """A running server."""

    def __init__(self, process: subprocess.Popen, address: str, log: pathlib.Path):
        self.process, self.address, self.log = process, address, log
        self.port = int(address.rpartition(':')[2])

    def connect(self, timeout: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection('127.0.0.1', self.port, timeout=timeout)

    def ask(self, method: str, path: str, body=None, token: str | None = None, **headers):
        """Return (status, what the JSON or text of the answer holds, its headers)."""
        connection = self.connect()
        try:
            return ask(connection, method, path, body, token, **headers)
        finally:
            connection.close()

    def wait_until_ready(self, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while self.ask('GET', '/readyz')[:2] != (200, {'status': 'ready', 'programs_left': 0}):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def wait_for_prompt(self, name: str, there: bool = True, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while (self.ask('GET', f'/v1/prompts/{name}')[0] == 200) != there:
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(120)


def ask(connection: http.client.HTTPConnection, method: str, path: str, body=None,
        token: str | None = None, **headers):
    """Send one request over a connection that is kept."""
    if token is not None:
        headers['Authorization'] = f'Bearer {token}'
    if isinstance(body, dict | list):
        body, headers['Content-Type'] = json.dumps(body).encode(), 'application/json'
    headers = {name.replace('_', '-'): value for name, value in headers.items()}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.headers.get('content-type') == 'application/json':
        content = json.loads(content)
    return answer.status, content, answer.headers


@contextlib.contextmanager
def running(model: pathlib.Path, prompts: pathlib.Path, ready: bool = True, shapes=SHAPES,
            **settings):
    """Start a server on a free port of this machine; it is killed if it does not end."""
    settings = {'port': 0, 'token': TOKEN, 'poll': 0.1, 'drain': 0.2, **settings}
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder) / 'log'
        with open(log, 'w') as stderr:
            process = subprocess.Popen(
                [sys.executable, '-c', _PROGRAM, str(model), str(prompts), json.dumps(settings),
                 repr(shapes)],
                env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT)
        try:
            address = process.stdout.readline().strip()
            assert address, log.read_text()
            server = Server(process, address, log)
            if ready:
                server.wait_until_ready()
            yield server
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
