"""Schemathesis: whatever the OpenAPI document allows or forbids, the server keeps to it."""

import re
import subprocess
import sys

import pytest

schemathesis = pytest.importorskip('schemathesis', reason='could not import schemathesis: pip '
                                   'install jax-prompt[test]')

import hypothesis  # noqa: E402
from hypothesis import HealthCheck  # noqa: E402

from jax_prompt.prompts.versions import NAME_PATTERN  # noqa: E402
from tests.serving.process import TOKEN, running  # noqa: E402

#: Nothing here may remove what other tests use.
_READING = ('POST', 'GET')


@pytest.fixture(scope='module')
def operations(server):
    document = schemathesis.openapi.from_url(f'{server.address}/openapi.json')
    return [result.ok() for result in document.get_all_operations()]


def examples(operation, count, prompt=None):
    """Run an operation with bodies and parameters that fit its schema, and ones that do not.

    Made-up names are of no prompt that is there; `prompt` stands in for them.
    """

    @hypothesis.settings(max_examples=count, deadline=None, derandomize=True, database=None,
                         suppress_health_check=list(HealthCheck))
    @hypothesis.given(case=operation.as_strategy())
    def run(case):
        if prompt is not None and isinstance(case.body, dict) and 'prompt' in case.body:
            if isinstance(case.body['prompt'], str) and re.fullmatch(NAME_PATTERN,
                                                                     case.body['prompt']):
                case.body['prompt'] = prompt
        case.call_and_validate(headers={'Authorization': f'Bearer {TOKEN}'})

    run()


def test_every_route_that_reads_keeps_to_the_document(operations):
    reading = [one for one in operations if one.method.upper() in _READING]
    assert len(reading) >= 8
    for operation in reading:
        examples(operation, 25 if operation.method.upper() == 'POST' else 8)


@pytest.mark.parametrize('prompt', ['mood', 'title', 'pair@1'])
def test_requests_to_prompts_that_are_there_keep_to_it_too(operations, prompt):
    asking = [one for one in operations if one.method.upper() == 'POST']
    assert len(asking) == 2
    for operation in asking:
        examples(operation, 25, prompt)


def test_uploads_and_removals_keep_to_the_document(operations):
    changing = [one for one in operations if one.method.upper() not in _READING]
    assert {one.method.upper() for one in changing} == {'PUT', 'DELETE'}
    for operation in changing:
        examples(operation, 10)


@pytest.mark.slow
@pytest.mark.parametrize('token', [TOKEN, None])
def test_the_runner_of_schemathesis_finds_nothing_at_the_edges(model, folder, tmp_path, token):
    with running(model, folder, token=token, max_text=5_000, max_body=20_000) as server:
        run = subprocess.run(
            [sys.executable, '-m', 'schemathesis.cli', 'run', f'{server.address}/openapi.json',
             '--header', f'Authorization: Bearer {TOKEN}', '--phases', 'coverage'],
            capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert run.returncode == 0, run.stdout


def test_the_server_still_answers(server):
    assert server.ask('POST', '/v1/classify', {'prompt': 'mood', 'inputs': 'film'})[0] == 200
    assert 'Traceback' not in server.log.read_text()
