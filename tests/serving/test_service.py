"""The service and its routes without connections: states, limits, and whose fault an error is."""

import asyncio
import contextlib
import dataclasses
import json
import logging
import threading
import time
import types

import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.predict import Runner
from jax_prompt.prompts.file import save_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.serving.app import create_app, prompts_of
from jax_prompt.serving.limits import OPEN_PATHS, Limits
from jax_prompt.serving.service import DRAINING, READY, STARTING, Refused, Service
from jax_prompt.serving.settings import ServerSettings
from tests.inference.many_prompts import prompt_file, prompts
from tests.serving.process import SHAPES, TOKEN


@pytest.fixture
def mood(folder):
    """A folder with that prompt alone: there is little to compile."""
    (folder / 'title@1.safetensors').unlink()
    return folder


@pytest.fixture(scope='module')
def service(opened, tmp_path_factory):
    """A service with a prompt that has labels, and one whose place is marked in its texts."""
    folder = tmp_path_factory.mktemp('prompts')
    save_prompt(folder / 'mood@1.safetensors', prompts(opened)['mood'])
    save_prompt(folder / 'marked@1.safetensors', prompt_file(
        opened, 3, Layout('marker'), labels=['great', 'dull']))
    with started(opened, folder) as service:
        yield service


def make(opened, folder, shapes=None, **settings):
    return Service(opened, folder, ServerSettings(port=0, token=TOKEN, poll=0.1, **settings),
                   Shapes(**{**SHAPES, **(shapes or {})}))


@contextlib.contextmanager
def started(*args, **settings):
    with make(*args, **settings) as service:
        wait_until(lambda: service.programs_left == 0)
        assert service.state == READY
        yield service


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


async def until(condition, seconds=20):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def ask(service, method, path, body=None, host='localhost', token=TOKEN):
    """Return (status, what the JSON or text of the answer holds)."""
    kind = b'application/octet-stream' if isinstance(body, bytes) else b'application/json'
    if not isinstance(body, bytes):
        body = b'' if body is None else json.dumps(body).encode()
    messages = [{'type': 'http.request', 'body': body, 'more_body': False}]
    sent = []

    async def receive():
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {'type': 'http', 'method': method, 'path': path, 'query_string': b'', 'headers': [
        (b'host', host.encode()), (b'content-type', kind),
        (b'authorization', f'Bearer {token}'.encode())]}
    with contextlib.suppress(ValueError):  # what a route fails with is passed on to uvicorn
        await Limits(create_app(service), service)(scope, receive, send)
    content = b''.join(one.get('body', b'') for one in sent)
    is_json = (b'content-type', b'application/json') in sent[0]['headers']
    return sent[0]['status'], json.loads(content) if is_json else content


def classify(service, **body):
    return ask(service, 'POST', '/v1/classify', {'prompt': 'mood', 'inputs': 'film', **body})


def test_while_it_starts_a_prompt_is_not_missing_but_not_there_yet(opened, folder):
    service = make(opened, folder)  # not entered, so it never gets further
    for state in (STARTING, DRAINING):
        assert asyncio.run(ask(service, 'GET', '/readyz')) == (503, {'status': state})
        assert asyncio.run(ask(service, 'GET', '/healthz'))[0] == 200
        for status, answer in (
                asyncio.run(classify(service)),
                asyncio.run(classify(service, prompt=None, labels=['film', 'plot'])),
                asyncio.run(ask(service, 'POST', '/v1/generate', {'inputs': 'film'})),
                asyncio.run(ask(service, 'PUT', '/v1/prompts/mood', b'')),
                asyncio.run(ask(service, 'DELETE', '/v1/prompts/mood')),
                asyncio.run(ask(service, 'GET', '/v1/prompts/mood'))):
            assert status == 503 and 'still compiling' in answer['detail']
        service.drain()


def test_calibration_waits_in_the_queue_and_is_remembered(service, monkeypatch):
    engine, batcher, go, batches = service.engine, service.batcher, threading.Event(), []
    start = engine.start

    def start_later(rows, parts):
        batches.append(len(rows))
        go.wait(20)
        return start(rows, parts)

    monkeypatch.setattr(batcher, '_max_queue', 5)
    monkeypatch.setattr(engine, 'start', start_later)
    monkeypatch.setattr(engine, 'run', lambda rows: pytest.fail('passed by the queue'))

    async def run():
        first = asyncio.ensure_future(classify(service, calibrate=True))
        await until(lambda: (batcher.unanswered, batcher.waiting) == (3, 0))
        other = asyncio.ensure_future(classify(service, labels=['film', 'plot'], calibrate=True))
        await until(lambda: batcher.waiting == 3)
        status, answer = await classify(service, labels=['film', 'hero'], calibrate=True)
        assert status == 503 and '5 requests are waiting' in answer['detail']
        assert batcher.waiting == 3
        other.cancel()  # nobody waits for that one any more
        await asyncio.wait([other])
        await until(lambda: batcher.waiting == 0)
        go.set()
        status, answer = await first
        assert status == 200 and sum(batches) == 3 + 1
        assert (await classify(service, calibrate=True))[1] == answer
        assert sum(batches) == 3 + 1 + 1

    asyncio.run(run())


def test_making_rows_is_limited_in_time_and_number(service, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(service, 'settings', dataclasses.replace(
        service.settings, max_queue=2, time_limit=0.3))
    monkeypatch.setattr(service.engine, 'rows_of', lambda *_, **__: go.wait(20))

    async def run():
        made = [asyncio.ensure_future(classify(service)) for _ in range(2)]
        await until(lambda: service._making == 2)
        status, answer = await classify(service)
        assert status == 503 and '2 requests are waiting' in answer['detail']
        for status, answer in await asyncio.gather(*made):
            assert status == 504 and 'within 0.3 seconds' in answer['detail']
        go.set()

    asyncio.run(run())


def test_what_a_request_generates_by_itself_was_compiled_before_it_is_ready(opened, folder):
    (folder / 'mood@1.safetensors').unlink()
    with started(opened, folder, {'targets': (4, 16)}, max_tokens=2, prompt_rows=64) as service:
        assert service.engine.table.capacity == 64
        compiled = service.engine.compilations
        prompt, _ = service.prompt('title')
        assert prompt.task.targets_length == 6  # compiled for 16; the limit would be for 4
        status, answer = asyncio.run(ask(service, 'POST', '/v1/generate', {
            'prompt': 'title', 'inputs': 'film'}))
        full, = service.engine.run([service.engine.row('title@1', 'film')])
        assert status == 200 and service.engine.compilations == compiled
        assert full.text.startswith(answer['text']) and full.text != answer['text']


def test_beams_that_the_model_cannot_have_are_refused_at_once(opened, folder):
    with pytest.raises(ValueError, match='^num_beams=500; expected from 2 to .*vocabulary.*$'):
        make(opened, folder, num_beams=500)


def test_an_error_of_the_server_is_not_laid_at_the_requests_door(service, monkeypatch, caplog):
    def fail(*_):
        raise ValueError('operands could not be broadcast')

    for body in ({'labels': ['film', 'film']}, {
            'prompt': 'marked', 'inputs': 'a <extra_id_99> film', 'calibrate': True}):
        status, answer = asyncio.run(classify(service, **body))
        assert status == 409, answer
    assert 'the input without content' in answer['detail']
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    monkeypatch.setattr(service.engine, 'start', fail)
    monkeypatch.setattr(service, 'nearest', fail)
    for asked in (classify(service), ask(service, 'GET', '/v1/prompts/mood/nearest')):
        status, answer = asyncio.run(asked)
        assert status == 500 and 'its log says how' in answer['detail']
        assert 'operands could not be broadcast' in caplog.text
        caplog.clear()


def test_a_prompt_that_is_removed_meanwhile_is_described(service, monkeypatch):
    monkeypatch.setattr(service.folder, 'versions', dict)
    status, answer = asyncio.run(ask(service, 'GET', '/v1/prompts/mood'))
    assert status == 200 and answer['default'] is False


def test_where_others_can_reach_it_everything_of_value_needs_the_token(opened, folder):
    service = make(opened, folder, host='0.0.0.0')
    for path in OPEN_PATHS:
        assert asyncio.run(ask(service, 'GET', path, token='wrong'))[0] in (200, 503)
    for path in ('/v1/prompts', '/metrics', '/openapi.json', '/nowhere'):
        assert asyncio.run(ask(service, 'GET', path, token='wrong'))[0] == 401
        assert asyncio.run(ask(service, 'GET', path))[0] in (200, 404)
    assert asyncio.run(ask(service, 'POST', '/v1/classify', {}, token=''))[0] == 401


@pytest.mark.parametrize('host, name', [
    ('127.0.0.2', '127.0.0.2:8000'), ('::1', '[::1]:8000'), ('localhost', 'LOCALHOST')])
def test_an_address_of_this_machine_that_was_chosen_is_answered_at(opened, folder, host, name):
    service = make(opened, folder, host=host)
    for good in (name, 'localhost:8000'):
        assert asyncio.run(ask(service, 'GET', '/healthz', host=good))[0] == 200
    assert asyncio.run(ask(service, 'GET', '/healthz', host='127.0.0.3'))[0] == 403


def test_a_row_that_has_no_answer_is_the_fault_of_no_other_request(service, monkeypatch):
    engine, start = service.engine, service.engine.start

    def start_both(rows, parts):
        found = start(rows, parts).outcomes()
        return types.SimpleNamespace(outcomes=lambda: [
            ValueError('not finite') if row.labels.words == ('film', 'plot') else one
            for row, one in zip(rows, found, strict=True)])

    async def both():
        return await asyncio.gather(classify(service, labels=['film', 'plot']), classify(service))

    monkeypatch.setattr(engine, 'start', start_both)
    wild, good = asyncio.run(both())
    assert wild == (409, {'detail': 'not finite'})
    assert good[0] == 200 and good[1]['label'] in ('negative', 'positive')


@pytest.mark.slow
def test_a_prompt_that_has_no_answer_is_the_fault_of_no_other_request(opened, mood):
    """Its numbers are finite, as a prompt file's must be, and infinite in bfloat16."""
    wide = dataclasses.replace(
        opened, model=dataclasses.replace(opened.model, dtype=jnp.bfloat16))
    file = prompt_file(opened, 4, labels=['negative', 'positive'])
    save_prompt(mood / 'wild@1.safetensors', dataclasses.replace(
        file, prompt=Prompt(np.full_like(file.prompt.rows, 3.4e38))))

    async def both(service):
        return await asyncio.gather(classify(service, prompt='wild'), classify(service))

    with started(wide, mood, max_wait=0.5) as service:
        wild, good = asyncio.run(both(service))
    assert wild[0] == 409 and "'wild@1' gives scores that are not finite" in wild[1]['detail']
    assert good[0] == 200 and good[1]['label'] in ('negative', 'positive')


def test_it_answers_once_a_program_is_there_and_compiles_the_others_meanwhile(
        opened, mood, monkeypatch):
    """The program for the longest input comes first: short ones are padded to it."""
    go_on, start = threading.Event(), Runner._start

    def held(self, rows, parts, prompt):
        assert parts[0].length == 64 or go_on.wait(60)
        return start(self, rows, parts, prompt)

    monkeypatch.setattr(Runner, '_start', held)
    shapes = dict(lengths=(16, 64), labels=((4, 4),))
    with make(opened, mood, shapes, warm_up_length=64) as service:
        wait_until(lambda: service.state == READY)
        left = service.programs_left
        status, answer = asyncio.run(classify(service))
        assert status == 200 and left > 0
        assert asyncio.run(ask(service, 'GET', '/readyz'))[1]['programs_left'] > 0
        refused = asyncio.run(ask(service, 'PUT', '/v1/prompts/mood', b''))
        assert refused[0] == 503 and 'programs left to compile' in refused[1]['detail']
        go_on.set()
        wait_until(lambda: service.programs_left == 0)
        again = asyncio.run(classify(service))[1]
        assert again['label'] == answer['label']
        assert again['scores'] == pytest.approx(answer['scores'], rel=1e-4)


def test_a_folder_that_cannot_be_read_is_no_start(opened, tmp_path, monkeypatch):
    service, looks = make(opened, tmp_path), threading.Semaphore(0)
    monkeypatch.setattr(service.folder, 'refresh', lambda **_: looks.release() or 1 / 0)
    with service:
        for _ in range(2):
            assert looks.acquire(timeout=20)
        assert service.state == STARTING
        monkeypatch.undo()
        wait_until(lambda: service.state == READY)


def test_a_folder_that_is_lost_for_a_while_is_said_once_and_is_no_fault_of_the_server(
        service, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, 'jax_prompt.serving')
    folder = service.folder.path
    content = (folder / 'mood@1.safetensors').read_bytes()
    folder.rename(tmp_path / 'away')
    for method, body in (('PUT', content), ('DELETE', b'')):
        status, answer = asyncio.run(ask(service, method, '/v1/prompts/mood@2', body))
        assert (status, answer['detail']) == (
            503, 'the folder of prompts cannot be changed now: No such file or directory; try '
                 'again later')
    looks, refresh = threading.Semaphore(0), service.folder.refresh
    monkeypatch.setattr(service.folder, 'refresh',
                        lambda **how: looks.release() or refresh(**how))
    for _ in range(3):
        assert looks.acquire(timeout=20)
    assert asyncio.run(classify(service))[0] == 200
    (tmp_path / 'away').rename(folder)
    wait_until(lambda: 'read again' in caplog.text)
    assert caplog.text.count('cannot be read') == caplog.text.count('read again') == 1
    assert caplog.text.count('cannot be changed: ') == 2 and 'Traceback' not in caplog.text


def test_members_of_an_ensemble_answer_one_request_together(opened, service, tmp_path):
    mood = service.folder.find('mood').prompt.file
    save_prompt(service.folder.path / 'mood@2.safetensors', dataclasses.replace(
        mood, prompt=Prompt(mood.prompt.rows[::-1].copy())))
    wait_until(lambda: len(service.folder.versions()['mood']) == 2)
    both, name = prompts_of(service, None, ['mood@1', 'mood@2'])
    assert name == 'mood@1,mood@2'

    def rows_of(prompts):
        return lambda: [service.engine.rows_of(one, ['a film'], rank=True)[0] for one in prompts]

    _, told = asyncio.run(service.answer(rows_of(both), combine='mean'))
    alone = [asyncio.run(service.answer(rows_of([one])))[1] for one in both]
    for label, value in told.probabilities.items():
        assert value == pytest.approx(np.mean([one.probabilities[label] for one in alone]),
                                      abs=1e-5)
    for given, part in (((None, ['mood', 'mood@2']), 'of which 1 are different'),
                        (('mood', ['mood@1', 'mood@2']), 'both prompt and ensemble'),
                        ((None, ['mood', 'marked']), 'are of different tasks')):
        with pytest.raises(Refused, match=part):
            prompts_of(service, *given)
    service.folder.remove('mood@2')
