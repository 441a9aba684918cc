"""A real server: answers as offline, many clients, bad ones too, and an orderly end."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.beam import BeamSettings
from jax_prompt.inference.calibration import contextual_calibration
from jax_prompt.inference.decodings import beam_search
from jax_prompt.inference.engine import Engine
from jax_prompt.prompts.file import save_prompt
from jax_prompt.prompts.registry import Registry
from jax_prompt.serving.settings import ServerSettings
from tests.inference.many_prompts import prefixed, prompt_file, prompts, requests
from tests.prompts.test_registry import KILLS
from tests.serving.process import ROOT, SHAPES, TOKEN, ask, running


@pytest.fixture(scope='module')
def offline(opened):
    """Answer without a server."""
    engine = Engine(opened, Shapes(**SHAPES))
    for name, file in prompts(opened).items():
        engine.add(name, file)
    return lambda name, inputs: engine.run([engine.row(name, inputs)])[0]


def post(name, inputs, labels=True):
    """Return what asks for a task's answer."""
    return ('POST', '/v1/classify' if labels else '/v1/generate',
            {'prompt': name, 'inputs': inputs})


def check(answer, expected):
    if expected.scores is None:
        assert answer['text'] == expected.text
        return
    assert answer['label'] == expected.text
    np.testing.assert_allclose([answer['scores'][word] for word in expected.scores],
                               list(expected.scores.values()), rtol=1e-5, atol=1e-5)


def test_answers_are_those_of_the_engine(server, offline):
    for name, inputs in requests(16):
        expected = offline(name, inputs)
        status, answer, _ = server.ask(*post(name, inputs, expected.scores is not None))
        assert status == 200 and answer['prompt'] == f'{name}@1'
        check(answer, expected)


def test_the_plain_model_and_the_requests_own_labels_are_served(server):
    status, plain, _ = server.ask('POST', '/v1/generate', {'inputs': 'film', 'max_tokens': 3})
    assert status == 200 and plain['prompt'] is None
    body = {'inputs': 'film', 'labels': ['great', 'cold plot', 'dull']}
    status, answer, _ = server.ask('POST', '/v1/classify', body)
    assert status == 200 and set(answer['probabilities']) == set(body['labels'])
    assert sum(answer['probabilities'].values()) == pytest.approx(1, abs=1e-5)


def test_a_seed_gives_the_same_text_again_and_another_one_another(server):
    def text(seed):
        return server.ask('POST', '/v1/generate', {
            'prompt': 'title', 'inputs': 'film', 'temperature': 3, 'seed': seed})[1]['text']

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(6)}) > 1


def test_beams_are_searched_on_request(server, opened):
    engine = Engine(opened, Shapes(**SHAPES), decodings={'beam': beam_search(2)})
    engine.add('title', prompts(opened)['title'])
    for text, alpha in (('film', 1.0), ('the warm hero', -2.0), ('a plot', 5.0)):
        expected, = engine.run(engine.rows_of(engine.prompt('title'), [text], decoding='beam',
                                              options=BeamSettings(alpha)))
        status, answer, _ = server.ask('POST', '/v1/generate', {
            'prompt': 'title', 'inputs': text, 'num_beams': 2, 'length_penalty': alpha})
        assert status == 200 and answer['text'] == expected.text
    for wrong, status, detail in (
            ({'num_beams': 3}, 422, 'num_beams'), ({'num_beams': 1.5}, 422, 'num_beams'),
            ({'num_beams': 2, 'temperature': 1}, 409, 'a beam search draws nothing')):
        found, answer, _ = server.ask('POST', '/v1/generate', {'inputs': 'film', **wrong})
        assert found == status and detail in answer['detail']


def test_probabilities_are_calibrated_on_request(server, opened):
    engine = Engine(opened, Shapes(**SHAPES))
    engine.add('mood', prompts(opened)['mood'])
    prompt = engine.prompt('mood')
    for own in (None, ['film', 'warm plot', 'hero']):
        labels = prompt.labels if own is None else engine.label_set(own)
        options = contextual_calibration(engine, prompt, labels, 0.5)
        expected, = engine.run(engine.rows_of(prompt, ['a film'], labels=labels, options=options))
        body = {'prompt': 'mood', 'inputs': 'a film', 'labels': own, 'temperature': 0.5}
        status, answer, _ = server.ask('POST', '/v1/classify', {**body, 'calibrate': True})
        assert status == 200 and answer['label'] == expected.text
        assert answer['probabilities'] == pytest.approx(expected.probabilities, abs=1e-5)
        plain = server.ask('POST', '/v1/classify', body)[1]
        assert plain['scores'] == pytest.approx(answer['scores'], abs=1e-5)
        assert plain['probabilities'] != pytest.approx(answer['probabilities'], abs=1e-2)
    status, answer, _ = server.ask('POST', '/v1/classify', {
        'prompt': 'mood', 'inputs': 'film', 'temperature': 0})
    assert status == 422 and 'temperature' in answer['detail']


def test_a_text_that_was_cut_says_so(server):
    assert server.ask(*post('short', 'film ' * 9))[1]['truncated']
    assert not server.ask(*post('short', 'film'))[1]['truncated']


@pytest.mark.parametrize('body, status, detail', [
    ({'inputs': 'x', 'prompt': 'nobody'}, 404, "no prompt 'nobody' in use"),
    ({'inputs': 'x', 'prompt': 'mood@7'}, 404, "'mood' has no version '7'; there are: 1"),
    ({'inputs': 'x', 'prompt': '../mood'}, 422, 'body.prompt: String should match'),
    ({'inputs': 'x', 'prompt': 'mood@1/../..'}, 422, 'body.prompt: String should match'),
    ({'inputs': 'x'}, 409, 'the plain model has no labels'),
    ({'inputs': 'x', 'prompt': 'pair'}, 409, 'reads 2 columns'),
    ({'inputs': {'text': 'x'}, 'prompt': 'pair'}, 409, "column 'first' is not there"),
    ({'inputs': 'x', 'labels': ['a']}, 422, 'at least 2 items'),
    ({'inputs': 'x', 'labels': ['film', 'film']}, 409, 'have the same tokens'),
    ({'inputs': 'x', 'labels': ['film ' * 9, 'plot']}, 409, 'expected at most 8 of 4'),
    ({'inputs': 'x' * 5001, 'prompt': 'mood'}, 422, 'at most 5000 characters'),
    ({'inputs': 'x', 'prompt': 'mood', 'label': []}, 422, 'Extra inputs are not permitted'),
    ({'prompt': 'mood'}, 422, 'body.inputs: Field required'),
    ({'inputs': True, 'prompt': 'mood'}, 422, 'body.inputs'),
    ({'inputs': 'x', 'two\nlines': 1}, 422, 'body.two lines: Extra inputs'),
    ([], 422, 'body'),
])
def test_what_is_wrong_is_said_in_one_line(server, body, status, detail):
    found, answer, _ = server.ask('POST', '/v1/classify', body)
    assert (found, '\n' in answer['detail']) == (status, False), answer
    assert detail in answer['detail']


@pytest.mark.parametrize('body', [
    b'{"inputs": ', b'\xff', b'{"inputs": "\\ud800", "prompt": "mood"}', b'[' * 9000, b'null', b'',
    b'{"inputs": NaN}'], ids=['torn', 'bytes', 'surrogate', 'deep', 'null', 'empty', 'nan'])
def test_malformed_bodies_are_refused(server, body):
    status, answer, _ = server.ask('POST', '/v1/classify', body, Content_Type='application/json')
    assert status in (400, 422) and answer['detail']


def test_limits_of_generation_are_kept(server):
    for wrong in ({'max_tokens': 17}, {'max_tokens': 0}, {'temperature': -1}, {'top_p': 2},
                  {'seed': 2**32}, {'top_k': 1.5}):
        status, answer, _ = server.ask('POST', '/v1/generate', {'inputs': 'film', **wrong})
        assert status == 422 and next(iter(wrong)) in answer['detail']


def test_a_body_that_is_too_large_is_refused_by_its_length_and_by_its_size(server):
    # Larger than what buffers on the way hold: who sends it all before it reads gets its answer.
    big = json.dumps({'inputs': 'film ' * 1_000_000}).encode()
    status, answer, headers = server.ask('POST', '/v1/classify', big)
    assert status == 413 and 'expected at most 20000' in answer['detail']
    assert headers['connection'] == 'close'
    status, answer, _ = server.ask('POST', '/v1/classify', iter([big]))  # in chunks, unannounced
    assert status == 413 and 'more than 20000 bytes' in answer['detail']
    status, answer, _ = server.ask('PUT', '/v1/prompts/mood@9', big, token='wrong-token')
    assert status == 401
    status, answer, _ = server.ask('PUT', '/', b'x' * 5000)  # only prompts are uploaded
    assert status == 413 and 'expected at most 4096' in answer['detail']


def test_prompts_are_listed_described_and_read_by_their_nearest_words(server, opened):
    _, listed, _ = server.ask('GET', '/v1/prompts')
    assert listed['model'] == 'tiny' and len(listed['prompts']) == 8
    _, one, _ = server.ask('GET', '/v1/prompts/mood')
    assert one in listed['prompts'] and one['default'] and one['labels'] == ['negative', 'positive']
    status, nearest, _ = server.ask('GET', '/v1/prompts/one@1/nearest?count=3')
    assert status == 200 and nearest['prompt'] == 'one@1'
    table = np.asarray(opened.frozen['token_embedder']['embedding'])
    row = prompts(opened)['one'].prompt.rows[0]
    cosines = table @ row / np.linalg.norm(table, axis=1) / np.linalg.norm(row)
    best = np.argsort(-cosines)[:3]
    np.testing.assert_allclose([one['cosine'] for one in nearest['rows'][0]], cosines[best],
                               rtol=1e-4)
    assert server.ask('GET', '/v1/prompts/mood/nearest?count=0')[0] == 422


def test_states_metrics_and_the_document_are_there(server):
    assert server.ask('GET', '/healthz')[:2] == (200, {'status': 'alive'})
    assert server.ask('GET', '/readyz')[:2] == (
        200, {'status': 'ready', 'programs_left': 0})
    server.ask(*post('mood', 'film'))
    metrics = server.ask('GET', '/metrics')[1].decode()
    assert 'jax_prompt_requests_total{code="200",route="/v1/classify"}' in metrics
    assert 'jax_prompt_prompts 8.0' in metrics and 'jax_prompt_batch_rows_count' in metrics
    document = server.ask('GET', '/openapi.json')[1]
    assert {'/v1/classify', '/v1/generate', '/v1/prompts'} <= set(document['paths'])
    assert server.ask('GET', '/docs')[0] == 404  # they would fetch from the internet


def test_every_answer_has_the_headers_that_keep_other_pages_out(server):
    for path in ('/', '/page.js', '/v1/prompts', '/nowhere'):
        headers = server.ask('GET', path)[2]
        assert "default-src 'none'" in headers['content-security-policy']
        assert headers['x-content-type-options'] == 'nosniff'


@pytest.mark.parametrize('host', [
    'evil.example', 'localhost.evil.example:80', '127.0.0.1.evil', ''])
def test_other_names_for_this_machine_are_refused(server, host):
    assert server.ask('GET', '/v1/prompts', Host=host)[0] == 403
    for good in ('localhost', 'LOCALHOST:80', '127.0.0.1', '[::1]:8000', '[::1]'):
        assert server.ask('GET', '/v1/prompts', Host=good)[0] == 200


@pytest.mark.parametrize('path', [
    '/v1/prompts/..%2f..%2fetc%2fpasswd', '/v1/prompts/%2e%2e', '/v1/prompts/mood%00',
    '/../../../etc/passwd', '/page.js/../../settings.py', '/v1/prompts/mood@1%2f..%2f..'])
def test_no_path_leads_out(server, path):
    status, content, _ = server.ask('GET', path)
    assert status in (400, 404, 422) and 'root:' not in str(content)


@pytest.mark.parametrize('token', [None, '', 'wrong', TOKEN + 'x', TOKEN[:-1], 'Bearer'])
@pytest.mark.parametrize('method', ['PUT', 'DELETE'])
def test_changing_prompts_needs_the_token(server, method, token):
    status, _, headers = server.ask(method, '/v1/prompts/mood', b'x', token)
    assert status == 401 and headers['www-authenticate'] == 'Bearer'
    assert server.ask('GET', '/v1/prompts/mood')[0] == 200


@pytest.mark.parametrize('method, path, allowed', [
    ('OPTIONS', '/v1/prompts/mood', 'DELETE, GET, PUT'), ('PUT', '/v1/prompts/mood/nearest', 'GET'),
    ('DELETE', '/v1/prompts', 'GET'), ('GET', '/v1/classify', 'POST')])
def test_a_method_that_a_path_lacks_is_answered_with_those_that_it_has(server, method, path,
                                                                       allowed):
    status, _, headers = server.ask(method, path)
    assert status == 405 and headers['allow'] == allowed


def test_prompts_are_uploaded_used_and_removed_while_it_serves(server, all_prompts, opened,
                                                               tmp_path):
    contents = []
    for seed in (1, 2):
        save_prompt(tmp_path / 'new.safetensors', prompt_file(
            opened, 6, seed=seed, labels=['film', 'plot']))
        contents.append((tmp_path / 'new.safetensors').read_bytes())
    assert server.ask('PUT', '/v1/prompts/new', contents[0], TOKEN)[:2] == (
        201, {'name': 'new', 'version': '1', 'default': True})
    first = server.ask(*post('new', 'a great film'))[1]
    assert server.ask('PUT', '/v1/prompts/new', contents[1], TOKEN)[1]['version'] == '2'
    second = server.ask(*post('new', 'a great film'))[1]
    assert (first['prompt'], second['prompt']) == ('new@1', 'new@2')
    assert first['scores'] != second['scores']
    assert server.ask(*post('new@1', 'a great film'))[1] == first
    assert server.ask('PUT', '/v1/prompts/new@2', contents[1], TOKEN)[0] == 200
    assert server.ask('PUT', '/v1/prompts/new@2', contents[0], TOKEN)[0] == 409
    assert server.ask('PUT', '/v1/prompts/bad', b'not a prompt', TOKEN)[0] == 409
    assert server.ask('DELETE', '/v1/prompts/new@2', None, TOKEN)[1] == {'removed': ['new@2']}
    assert server.ask(*post('new', 'a great film'))[1] == first
    assert server.ask('DELETE', '/v1/prompts/new', None, TOKEN)[0] == 200
    assert server.ask('DELETE', '/v1/prompts/new', None, TOKEN)[0] == 404
    assert server.ask(*post('new', 'a great film'))[0] == 404
    # Files that appear in the folder, and go, are noticed.
    shutil.copy(tmp_path / 'new.safetensors', all_prompts / 'new@7.safetensors')
    server.wait_for_prompt('new@7')
    assert server.ask(*post('new', 'film'))[1]['prompt'] == 'new@7'
    os.unlink(all_prompts / 'new@7.safetensors')
    server.wait_for_prompt('new@7', there=False)


def test_promotions_under_load_are_served_within_two_seconds_and_fail_no_request(
        server, all_prompts, opened, tmp_path):
    registry, stop, outcomes = Registry(all_prompts), threading.Event(), []
    for seed in (1, 2):
        save_prompt(tmp_path / 'life.safetensors', prompt_file(opened, 6, seed=seed,
                                                               labels=['film', 'plot']))
        registry.add(tmp_path / 'life.safetensors', 'life')
    registry.promote('life', '1')
    server.wait_for_prompt('life@2')

    def client():
        connection = server.connect()
        while not stop.is_set():
            sent = time.monotonic()
            status, answer, _ = ask(connection, *post('life', 'a great film'))
            outcomes.append((sent, status, answer))
        connection.close()

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client) for _ in range(8)]
        promoted = []  # (when it was, its full name)
        for change in (lambda: registry.promote('life', '2'), lambda: registry.rollback('life'),
                       lambda: registry.promote('life', '2')):
            time.sleep(0.4)
            change()
            promoted.append((time.monotonic(), f'life@{registry.promoted("life")}'))
            while outcomes[-1][2]['prompt'] != promoted[-1][1]:
                assert time.monotonic() - promoted[-1][0] < 2
                time.sleep(0.01)
        stop.set()
        for one in clients:
            one.result()
    assert {status for _, status, _ in outcomes} == {200}
    # Each version answers with its own numbers, whatever was promoted meanwhile.
    assert len({(answer['prompt'], *answer['scores'].values()) for _, _, answer in outcomes}) <= 4
    described = {one['version']: one for one in server.ask('GET', '/v1/prompts')[1]['prompts']
                 if one['name'] == 'life'}
    assert [(described[one]['promoted'], described[one]['default']) for one in '12'] == [
        (False, False), (True, True)]
    status, answer, _ = server.ask('DELETE', '/v1/prompts/life@2', None, TOKEN)
    assert status == 409 and 'life@2 is promoted; promote another' in answer['detail']
    assert server.ask('DELETE', '/v1/prompts/life', None, TOKEN)[0] == 200


@pytest.mark.slow
def test_kills_of_who_changes_versions_leave_the_server_serving(model, folder, opened, tmp_path):
    (tmp_path / 'new').mkdir()
    for seed in range(40):
        save_prompt(tmp_path / 'new' / f'{seed:02}.safetensors', prompt_file(
            opened, 5, seed=100 + seed, labels=['film', 'plot']))
    stop, outcomes = threading.Event(), []
    with running(model, folder) as server, ThreadPoolExecutor(2) as pool:

        def client():
            while not stop.is_set():
                outcomes.append(server.ask(*post('mood', 'a great film'))[:2])

        clients = [pool.submit(client) for _ in range(2)]
        done = subprocess.run([sys.executable, '-c', KILLS, str(folder), '20'], text=True,
                              capture_output=True, cwd=ROOT, timeout=120)
        end, meant = time.monotonic() + 2, Registry(folder).find('mood').full_name
        while outcomes[-1][1]['prompt'] != meant and time.monotonic() < end:
            time.sleep(0.01)
        last = outcomes[-1][1]['prompt']
        stop.set()
        for one in clients:
            one.result()
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20 and Registry(folder).verify() == []
    assert {status for status, _ in outcomes} == {200} and last == meant
    assert len({answer['prompt'] for _, answer in outcomes}) > 1


@pytest.mark.slow
def test_without_a_token_prompts_cannot_be_changed(model, folder):
    with running(model, folder, ready=False, token=None) as server:
        status, answer, _ = server.ask('DELETE', '/v1/prompts/mood', None, TOKEN)
        assert status == 403 and 'without a token' in answer['detail']
        document = server.ask('GET', '/openapi.json')[1]
        assert '401' not in document['paths']['/v1/prompts/{name}']['delete']['responses']


def test_one_connection_too_many_is_told_so_and_the_others_go_on(model, folder):
    with running(model, folder, ready=False, max_connections=20) as server:
        early = [server.connect() for _ in range(20)]
        assert [ask(one, 'GET', '/healthz')[0] for one in early] == [200] * 20
        status, _, headers = server.ask('GET', '/healthz')
        assert status == 503 and headers['connection'] == 'close'
        with ThreadPoolExecutor(20) as pool:  # who is let in is not one too many by being quick
            asked = [pool.submit(lambda one=one: {ask(one, 'GET', '/healthz')[0]
                                                  for _ in range(50)}) for one in early]
            assert [one.result() for one in asked] == [{200}] * 20
        for one in early:
            one.close()


@pytest.mark.slow
def test_a_signal_before_it_is_ready_ends_it_in_order(model, all_prompts):
    with running(model, all_prompts, ready=False, drain=0.0, host='0.0.0.0', num_beams=4) as server:
        assert server.ask('GET', '/readyz')[1]['status'] == 'starting'
        assert server.stop() == 0
        assert 'terminate called' not in server.log.read_text()


async def _client(server, jobs, outcomes):
    """Send job after job over a kept connection, noting (job, status, answer, when it was sent).

    The status is None where the connection ended without an answer, and 'half' where it ended
    within one.
    """
    reader = writer = None
    while jobs:
        job, head = jobs.pop(), ''
        method, path, body = post(*job[:2], job[2])
        content = json.dumps(body).encode()
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection('127.0.0.1', server.port)
            writer.write(f'{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: '
                         f'application/json\r\nContent-Length: {len(content)}\r\n\r\n'.encode()
                         + content)
            sent = time.monotonic()
            head = (await reader.readuntil(b'\r\n\r\n')).decode().lower()
            length = int(head.split('content-length: ')[1].split('\r\n')[0])
            answer = json.loads(await reader.readexactly(length))
            outcomes.append((job, int(head.split()[1]), answer, sent))
            if 'connection: close' in head:
                writer.close()
                writer = None
        except (asyncio.IncompleteReadError, OSError) as error:
            status = 'half' if head or getattr(error, 'partial', b'') else None
            outcomes.append((job, status, error, time.monotonic()))
            writer = None
            if isinstance(error, ConnectionRefusedError):  # it has ended
                return
            await asyncio.sleep(0.01)
    if writer is not None:
        writer.close()


def crowd(server, jobs, clients=64):
    """Let many clients work through the jobs; return the outcomes."""
    outcomes, jobs = [], list(jobs)

    async def run():
        await asyncio.gather(*(_client(server, jobs, outcomes) for _ in range(clients)))

    asyncio.run(run())
    return outcomes


def test_64_clients_with_mixed_tasks_get_what_they_get_offline(server, offline):
    asked = [(name, inputs, offline(name, inputs)) for name, inputs in requests(64)]
    jobs = [(name, inputs, expected.scores is not None, expected)
            for name, inputs, expected in asked] * 6
    outcomes = crowd(server, jobs)
    assert len(outcomes) == len(jobs) and {status for _, status, _, _ in outcomes} == {200}
    for job, _, answer, _ in outcomes:
        check(answer, job[3])
    metrics = server.ask('GET', '/metrics')[1].decode()
    rows, batches = (float(metrics.split(f'jax_prompt_batch_rows_{what} ')[1].split()[0])
                     for what in ('sum', 'count'))
    assert rows / batches > 1.5


@pytest.mark.slow
def test_prefixed_and_plain_prompts_are_served_side_by_side(model, folder, opened):
    files = {'all': prefixed(opened, 1, ('encoder', 'decoder', 'cross'), 3,
                             labels=['warm', 'cold']),
             'both': prefixed(opened, 2, ('encoder',), 5, rows=4, targets_length=6),
             **{name: prompts(opened)[name] for name in ('mood', 'title')}}
    engine = Engine(opened, Shapes(**SHAPES))
    for name, file in files.items():
        save_prompt(folder / f'{name}@1.safetensors', file)
        engine.add(name, file)
    jobs = []
    for number, (_, text) in enumerate((name, text) for name, text in requests(64)
                                       if isinstance(text, str)):
        name = list(files)[number % len(files)]
        jobs.append((name, text, name in ('all', 'mood'), engine.run([engine.row(name, text)])[0]))
    with running(model, folder) as server:
        outcomes = crowd(server, jobs, clients=16)
    assert len(outcomes) == len(jobs) and {status for _, status, _, _ in outcomes} == {200}
    for job, _, answer, _ in outcomes:
        check(answer, job[3])


@pytest.mark.slow
def test_answers_are_right_at_every_shape_compiled_or_not(model, folder, offline):
    shapes = {**SHAPES, 'batch_sizes': (4, 16), 'lengths': (16, 48)}
    asked = [(name, inputs, offline(name, inputs)) for name, inputs in requests(128)
             if name in ('mood', 'title')]
    jobs = [(name, inputs, name == 'mood', expected) for name, inputs, expected in asked]
    with running(model, folder, shapes=shapes, warm_up_length=16, max_wait=0.1) as server:

        def metric(name):
            text = server.ask('GET', '/metrics')[1].decode()
            return float(text.split(f'\njax_prompt_{name} ')[1].split()[0])

        compiled = metric('compiled_programs')
        outcomes = crowd(server, jobs * 3, clients=48)
        assert metric('compiled_programs') > compiled  # for the longer ones
        assert metric('batch_rows_sum') / metric('batch_rows_count') > 4
    assert len(outcomes) == 3 * len(jobs)
    for job, status, answer, _ in outcomes:
        assert status == 200
        check(answer, job[3])


@pytest.mark.parametrize('number', [
    signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_under_load_loses_no_request_until_the_drain_ends(model, folder, number):
    with running(model, folder, drain=2.0) as server:
        jobs = [(name, inputs, name == 'mood') for name, inputs in requests(256)
                if name in ('mood', 'title')] * 60
        signalled = []

        def stop():
            time.sleep(0.5)
            signalled.append(time.monotonic())
            server.process.send_signal(number)

        thread = threading.Thread(target=stop)
        thread.start()
        outcomes = crowd(server, jobs)
        thread.join()
        assert server.process.wait(30) == 0
    before = [status for _, status, _, sent in outcomes if sent < signalled[0]]
    draining = [status for _, status, _, sent in outcomes if 0 < sent - signalled[0] < 1.5]
    assert len(before) >= 64 and draining and {*before, *draining} == {200}
    # Later ones are answered or turned away, never answered by half.
    assert {status for _, status, _, _ in outcomes} <= {200, 503, None}


def test_slow_dropped_and_malformed_connections_leave_it_serving(server):
    def connect():
        return socket.create_connection(('127.0.0.1', server.port), timeout=20)

    head = b'POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n'
    with contextlib.ExitStack() as stack:
        # Held open: nothing, half a head, a body that does not come, a byte now and then.
        slow = [stack.enter_context(connect()) for _ in range(40)]
        for number, one in enumerate(slow):
            one.sendall([b'', head, head + b'Content-Length: 50\r\n\r\n{"inp',
                         b'GET / HT'][number % 4])
        for _ in range(40):  # hung up in the middle of a request, or before its answer
            with connect() as one:
                one.sendall(head + b'Content-Length: 50\r\n\r\n{"inp')
            with connect() as one:
                body = json.dumps({'prompt': 'mood', 'inputs': 'film'}).encode()
                one.sendall(head + b'Content-Length: %d\r\n\r\n' % len(body) + body)
        for wrong in (b'\0' * 100, b'GET\r\n\r\n', b'GET / HTTP/9.9\r\n\r\n', b'x' * 100_000,
                      head + b'Content-Length: -5\r\n\r\n', head + b'Content-Length: 1e9\r\n\r\n',
                      head + b'Transfer-Encoding: chunked\r\n\r\nzz\r\n',
                      b'GET / HTTP/1.1\r\n' + b'X: y\r\n' * 20_000 + b'\r\n',
                      b'GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n'):
            with connect() as one, contextlib.suppress(ConnectionError):
                one.sendall(wrong)
                one.settimeout(5)
                found = one.recv(1000)
                assert found == b'' or found.startswith(b'HTTP/1.1 4'), (wrong[:50], found)
        status, answer, _ = server.ask(*post('mood', 'film'))
        assert status == 200
        for one in slow[2::4]:  # whose bodies do not come
            assert b' 408 ' in one.recv(1000)
    assert server.ask(*post('mood', 'film'))[1] == answer
    metrics = server.ask('GET', '/metrics')[1].decode()
    assert 'jax_prompt_unanswered_rows 0.0' in metrics


def test_requests_sent_one_behind_the_other_are_answered_in_turn(server):
    with socket.create_connection(('127.0.0.1', server.port), timeout=20) as connection:
        connection.sendall(b'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n' * 20)
        found = b''
        while found.count(b'{"status":"alive"}') < 20:
            found += connection.recv(10_000)
        assert found.count(b'HTTP/1.1 200') == 20


@pytest.mark.slow
def test_a_full_queue_and_a_late_answer_are_said(model, folder):
    with running(model, folder, max_queue=1, max_wait=1.0, time_limit=0.3) as server:
        job = ('mood', 'film', True)
        outcomes = crowd(server, [job] * 8, clients=8)
        statuses = sorted(status for _, status, _, _ in outcomes)
        assert set(statuses) == {503, 504} and statuses.count(504) >= 1
        busy = next(answer for _, status, answer, _ in outcomes if status == 503)
        assert 'requests are waiting; try again later' in busy['detail']


@pytest.mark.parametrize('wrong, message', [
    (dict(host='0.0.0.0'), 'host 0.0.0.0 can be reached from other machines, so a token is needed'),
    (dict(host='example.org'), 'a token is needed; set JAX_PROMPT_TOKEN'),
    (dict(token='short'), 'fewer than 8 characters'),
    (dict(token='with a space'), 'a header cannot carry'),
    (dict(max_queue=0), 'max_queue=0 for the server; expected more than 0'),
    (dict(drain=-1), 'drain=-1 for the server; expected 0 or more'),
    (dict(max_labels=1), 'max_labels=1 for the server; expected at least 2'),
])
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ServerSettings(**wrong)


@pytest.mark.parametrize('host, expected', [
    ('127.0.0.1', True), ('127.1.2.3', True), ('::1', True), ('localhost', True),
    ('0.0.0.0', False), ('::', False), ('10.0.0.1', False), ('example.org', False)])
def test_loopback_is_known(host, expected):
    assert ServerSettings(host=host, token=TOKEN).is_loopback == expected


def test_an_address_in_use_is_said_in_one_line():
    from jax_prompt.serving.server import listen

    with listen('127.0.0.1', 0) as one:
        with pytest.raises(OSError, match='cannot listen on 127.0.0.1:[0-9]+: Address already'):
            listen('127.0.0.1', one.getsockname()[1])
