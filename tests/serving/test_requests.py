"""What requests may hold and what their answers say, without connections."""

import asyncio
import json

import pytest

from jax_prompt.inference import rows as rows_module
from jax_prompt.inference.engine import Engine
from jax_prompt.prompts.file import save_prompt
from jax_prompt.serving.app import create_app
from jax_prompt.serving.service import READY
from jax_prompt.serving.settings import ServerSettings
from tests.inference.many_prompts import prompt_file
from tests.serving.process import TOKEN
from tests.serving.test_service import make, wait_until


@pytest.fixture(scope='module')
def service(opened, tmp_path_factory):
    """A service without prompts, which compiles nothing ahead."""
    folder = tmp_path_factory.mktemp('prompts')
    with (pytest.MonkeyPatch.context() as patched,
          make(opened, folder, num_beams=2, max_text=20) as service):
        patched.setattr(Engine, 'warm_up', lambda *_: 0)
        wait_until(lambda: service.state == READY)
        yield service


def ask(service, method, path, body, kind='application/json'):
    """Return (status, what the JSON of the answer holds) of a request with a body as it is."""
    return asyncio.run(_ask(service, method, path, body, kind))


async def _ask(service, method, path, body, kind):
    messages, sent = [{'type': 'http.request', 'body': body, 'more_body': False}], []

    async def receive():
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    await create_app(service)({
        'type': 'http', 'method': method, 'path': path, 'query_string': b'', 'headers': [
            (b'authorization', f'Bearer {TOKEN}'.encode())] + (
                [(b'content-type', kind.encode())] if kind else [])}, receive, send)
    return sent[0]['status'], json.loads(b''.join(one.get('body', b'') for one in sent))


def test_an_upload_says_whether_the_bare_name_means_it(service, opened, tmp_path):
    contents = []
    for seed in range(2):
        save_prompt(tmp_path / 'one.safetensors', prompt_file(opened, 4, seed=seed))
        contents.append((tmp_path / 'one.safetensors').read_bytes())

    def upload(content):
        return ask(service, 'PUT', '/v1/prompts/words', content, 'application/octet-stream')

    first = {'name': 'words', 'version': '1', 'default': True}
    assert upload(contents[0]) == (201, first)
    save_prompt(service.folder.path / 'words.safetensors', prompt_file(opened, 4, seed=7))
    service.folder.refresh()
    assert upload(contents[0]) == (200, {**first, 'default': False})
    second = {'name': 'words', 'version': '2', 'default': False}
    assert upload(contents[1]) == (201, second)
    assert service.folder.find('words').prompt.file.metadata.seed == 7


def test_a_port_that_cannot_be_is_refused():
    assert ServerSettings(port=65535, token=None).port == 65535
    with pytest.raises(ValueError, match='port=70000 for the server; expected at most 65535'):
        ServerSettings(port=70000)


def generate(service, inputs, **body):
    return ask(service, 'POST', '/v1/generate',
               json.dumps({'inputs': inputs, 'max_tokens': 2, **body}).encode())


@pytest.mark.parametrize('inputs, message', [
    ('x' * 21, 'body.inputs: 21 characters in all; expected at most 20 characters'),
    ({'a': 'x' * 15, 'b': 123456}, 'body.inputs: 21 characters in all; expected at most 20'),
    (None, 'body.inputs: it is null; expected a text, or an object with the columns'),
    (3, 'body.inputs: it is no text; expected a text, or an object with the columns'),
    ({'text': None}, 'body.inputs.text: it is null; expected a text, a number, true or false'),
    ({'text': ['{a}']}, 'body.inputs.text: it is a list; expected a text'),
    ({'text': '\ud800'}, 'body.inputs.text: it holds half a surrogate pair; expected'),
    ({'{a}': float('nan'), 'b': 10**400}, 'body.inputs.{a}: it is nan; expected a text, a number'),
    ({str(number): '' for number in range(65)}, 'body.inputs: 65 columns; expected at most 64')])
def test_inputs_that_cannot_be_are_refused_where_they_stand(service, inputs, message):
    status, answer = generate(service, inputs)
    assert status == 422 and answer['detail'].startswith(message)


def test_columns_are_shown_as_prediction_shows_them(service, opened, monkeypatch):
    save_prompt(service.folder.path / 'seen@1.safetensors', prompt_file(
        opened, 4, inputs_template='{a} {b} {c} {d}'))
    service.folder.refresh()
    shown = []
    encode = rows_module.encode_batch
    monkeypatch.setattr(rows_module, 'encode_batch',
                        lambda words, texts, *most: shown.extend(texts) or encode(
                            words, texts, *most))
    status, _ = generate(service, {'a': True, 'b': 3, 'c': 0.5, 'd': 'x' * 12}, prompt='seen')
    assert (status, shown) == (200, ['true 3 0.5 ' + 'x' * 12])


@pytest.mark.parametrize('kind', ['application/x-www-form-urlencoded', None])
def test_json_that_is_not_said_to_be_json_is_refused_with_the_header_to_send(service, kind):
    status, answer = ask(service, 'POST', '/v1/generate', b'{"inputs": "x"}', kind)
    assert status == 415 and answer['detail'] == (
        f'the body came with content-type {kind or ""!r}; expected the header content-type: '
        'application/json')


@pytest.mark.parametrize('wrong, message', [
    ({'top_k': 3}, 'top_k=3 would do nothing: nothing is drawn unless temperature is above 0'),
    ({'top_p': 0.5, 'num_beams': 2}, 'top_p=0.5 would do nothing: nothing is drawn unless'),
    ({'length_penalty': 0.6}, 'length_penalty=0.6 would do nothing: there is no beam search')])
def test_settings_that_would_do_nothing_are_refused(service, wrong, message):
    status, answer = generate(service, 'film', **wrong)
    assert status == 409 and answer['detail'].startswith(message)


def test_settings_that_do_something_are_taken_and_so_are_defaults(service):
    for body in ({'top_k': 0, 'top_p': 1, 'length_penalty': 1}, {'top_k': 3, 'temperature': 1},
                 {'num_beams': 2, 'length_penalty': 0.6}):
        assert generate(service, 'film', **body)[0] == 200
