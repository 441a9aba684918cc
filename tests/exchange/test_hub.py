"""Pushing to a hub: a stand-in on loopback that keeps what the real one would be told."""

import base64
import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest
from huggingface_hub import constants

from jax_prompt.exchange import peft
from jax_prompt.exchange.hub import push_to_hub
from jax_prompt.exchange.prompts_in_out import export_prompt, import_prompt
from jax_prompt.prompts.file import PromptFile, PromptMetadata
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt
from tests.exchange.opened import opened_model

ROOT = pathlib.Path(__file__).parents[2]
TOKEN = 'hf_secret_of_this_test'
ROWS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
PROMPT = PromptFile(Prompt(ROWS), PromptMetadata(
    base_model='google/t5-tiny', base_model_fingerprint='w', vocabulary_fingerprint='v', task={},
    layout=Layout(), method='direct', step=1, metrics={}, seed=0))


class Hub(http.server.ThreadingHTTPServer):
    """The part of the hub's interface that a push of small and large files needs."""

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server_port}'
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.visibility: dict[str, str | None] = {}
        self.uploaded: dict[str, bytes] = {}  # large files by digest, before they are committed
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.large: tuple[str, ...] = ('.safetensors',)
        self.answer: tuple[int, str] | None = None  # for everything, in the place of the right one


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        hub = self.server
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        path = self.path.split('?')[0]
        hub.requests.append(f'POST {path}')
        if hub.answer:
            return self.reply(*hub.answer)
        if self.headers.get('Authorization') != f'Bearer {TOKEN}':
            return self.reply(401, '{"error": "Invalid username or password."}')
        if path == '/api/repos/create':
            return self.create(json.loads(body))
        if path == '/api/validate-yaml':
            return self.reply(200, '{"errors": [], "warnings": []}')
        repository, _, action = path.removeprefix('/api/models/').partition('/preupload/')
        if action:
            return self.preupload(json.loads(body))
        if path.endswith('/info/lfs/objects/batch'):
            return self.batch(json.loads(body))
        repository, _, action = path.removeprefix('/api/models/').partition('/commit/')
        if action and repository in hub.repositories:
            return self.commit(repository, body)
        return self.reply(404, '{"error": "Repository not found"}')

    def do_PUT(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        self.server.uploaded[self.path.rsplit('/', 1)[-1]] = body
        self.reply(200, '')

    def create(self, asked):
        name = f'{asked.get("organization") or "someone"}/{asked["name"]}'
        url = json.dumps({'url': f'{self.server.url}/{name}', 'name': name})
        if name in self.server.repositories:
            return self.reply(409, url)
        self.server.repositories[name] = {}
        self.server.visibility[name] = asked.get('visibility')
        return self.reply(200, url)

    def preupload(self, asked):
        modes = [{'path': file['path'], 'shouldIgnore': False, 'oid': None,
                  'uploadMode': 'lfs' if file['path'].endswith(self.server.large) else 'regular'}
                 for file in asked['files']]
        return self.reply(200, json.dumps({'files': modes}))

    def batch(self, asked):
        objects = [{'oid': wanted['oid'], 'size': wanted['size'], 'actions': {
            'upload': {'href': f'{self.server.url}/large/{wanted["oid"]}', 'header': {}}}}
            for wanted in asked['objects']]
        return self.reply(200, json.dumps({'transfer': 'basic', 'objects': objects}))

    def commit(self, repository, body):
        files = self.server.repositories[repository]
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry['value']
            if entry['key'] == 'header':
                self.server.messages.append(value['summary'])
            elif entry['key'] == 'file':
                files[value['path']] = base64.b64decode(value['content'])
            elif entry['key'] == 'lfsFile':
                files[value['path']] = self.server.uploaded[value['oid']]
        url = f'{self.server.url}/{repository}/commit/{"a" * 40}'
        return self.reply(200, json.dumps({'commitUrl': url, 'commitOid': 'a' * 40}))

    def reply(self, status, body):
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of this test's own; the package, told to stay offline, goes there all the same."""
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    # Large files go over plain LFS, which a stand-in can speak.
    monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
    # No token of whoever runs the tests may leave this machine.
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'no-token'))
    monkeypatch.delenv('HF_TOKEN', raising=False)
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    with contextlib.closing(server.socket):
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path):
    return export_prompt(PROMPT, tmp_path / 'adapter', 'peft')


def test_what_is_pushed_is_the_adapter_and_nothing_else(hub, folder, tmp_path):
    (folder / 'private-notes.txt').write_text('mine')
    pushed = push_to_hub(folder, 'someone/sst2-prompt', endpoint=hub.url, token=TOKEN)
    assert pushed.startswith(f'{hub.url}/someone/sst2-prompt/commit/')
    files = hub.repositories['someone/sst2-prompt']
    assert sorted(files) == ['README.md', peft.CONFIG, peft.WEIGHTS]
    assert len(hub.messages) == 1 and len(hub.uploaded) == 1
    fetched = tmp_path / 'fetched'
    fetched.mkdir()
    for name, content in files.items():
        (fetched / name).write_bytes(content)
    back = import_prompt(fetched, opened_model('tiny', 'w', 'v', 4), {})
    assert back.prompt.rows.tobytes() == ROWS.tobytes()


def test_small_files_go_within_the_commit(hub, folder):
    hub.large = ('nothing',)
    push_to_hub(folder, 'someone/sst2-prompt', endpoint=hub.url, token=TOKEN)
    files = hub.repositories['someone/sst2-prompt']
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert digests == {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                       for path in folder.iterdir()}
    assert not hub.uploaded


def test_a_second_push_goes_to_the_same_repository(hub, folder):
    push_to_hub(folder, 'sst2-prompt', endpoint=hub.url, token=TOKEN, private=True)
    again = push_to_hub(folder, 'someone/sst2-prompt', endpoint=hub.url, token=TOKEN)
    assert list(hub.repositories) == ['someone/sst2-prompt'] and 'someone/sst2-prompt' in again
    assert hub.visibility['someone/sst2-prompt'] == 'private'
    assert hub.messages == 2 * ['Upload a soft prompt exported by jax_prompt']


def refused(hub, folder, token=TOKEN, repository='someone/sst2-prompt') -> str:
    with pytest.raises(ValueError) as caught:
        push_to_hub(folder, repository, endpoint=hub.url, token=token)
    message = str(caught.value)
    assert '\n' not in message and TOKEN not in message and len(message) < 500
    return message


@pytest.mark.parametrize('status', [400, 401, 403, 404, 413])
def test_a_refusal_is_told_in_one_line(hub, folder, status):
    hub.answer = (status, '{"error": "You\\nmay not"}')
    message = refused(hub, folder)
    assert message.startswith(f"the hub at {hub.url} refused the push to 'someone/sst2-prompt' "
                              f'({status}')
    assert ('hf auth login' in message) == (status in (401, 403, 404))


def test_a_wrong_token_is_told_and_not_shown(hub, folder):
    message = refused(hub, folder, token='hf_wrong')
    assert '401' in message and 'hf auth login' in message and 'hf_wrong' not in message


@pytest.mark.parametrize('repository', ['a/b/c', '../x', 'some one/x', ''])
def test_names_that_no_repository_can_have_are_refused_before_anything_is_sent(
        hub, folder, repository):
    assert f'push to {repository!r}' in refused(hub, folder, repository=repository)
    assert not hub.requests


@pytest.mark.parametrize('body', ['<html>a proxy</html>', '{}', ''])
def test_an_answer_that_is_no_hubs_is_refused(hub, folder, body):
    hub.answer = (200, body)
    assert f'{hub.url} does not answer as a hub does' in refused(hub, folder)


def test_a_hub_that_is_not_there_is_named(hub, folder):
    with pytest.raises(ValueError, match=r'http://127\.0\.0\.1:9 .*to push|cannot push'):
        push_to_hub(folder, 'someone/x', endpoint='http://127.0.0.1:9', token=TOKEN)


@pytest.mark.parametrize('name', [peft.CONFIG, peft.WEIGHTS, peft.CARD])
def test_half_an_adapter_is_not_pushed(hub, folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f'{name} does not exist; export'):
        push_to_hub(folder, 'someone/x', endpoint=hub.url, token=TOKEN)
    assert not hub.requests


def test_the_environment_names_hub_and_token(hub, folder):
    code = ('import sys; from jax_prompt.exchange.hub import push_to_hub; '
            "print(push_to_hub(sys.argv[1], 'someone/x'))")
    environment = os.environ | {
        'HF_ENDPOINT': hub.url, 'HF_TOKEN': TOKEN, 'HF_HUB_OFFLINE': '0', 'HF_HUB_DISABLE_XET': '1',
        'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, '-c', code, str(folder)], env=environment, timeout=120,
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.stdout.startswith(f'{hub.url}/someone/x/commit/'), done.stderr[-2000:]
    assert sorted(hub.repositories['someone/x']) == ['README.md', peft.CONFIG, peft.WEIGHTS]
