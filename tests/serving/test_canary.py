"""A canary: which requests it gets, that it comes and goes while the server runs, and is reported.
"""

import asyncio

import numpy as np
import pytest

from jax_prompt.prompts.file import save_prompt
from jax_prompt.prompts.registry import Registry
from jax_prompt.serving.canary import place_of
from tests.inference.many_prompts import TASKS, prompt_file
from tests.serving.test_service import ask, classify, started, wait_until
from tests.serving.test_telemetry import metric


def test_each_place_comes_as_often_and_another_version_has_others():
    places = [[place_of(version, f'film {number}') for number in range(2000)]
              for version in ('mood@2', 'mood@3')]
    counts = np.histogram(places[0], 10, (0, 1))[0]
    assert counts.min() > 150 and counts.max() < 250
    assert abs(np.corrcoef(places)[0, 1]) < 0.1
    assert place_of('a@1', {'x': 'b', 'y': 'c'}) == place_of('a@1', {'y': 'c', 'x': 'b'})


@pytest.fixture(scope='module')
def served(opened, tmp_path_factory):
    """(a service with two versions of a prompt, their registry)."""
    folder = tmp_path_factory.mktemp('prompts')
    for version in '12':
        save_prompt(folder / f'mood@{version}.safetensors', prompt_file(
            opened, 5, seed=int(version), name='mood', **TASKS['mood'][2]))
    registry = Registry(folder)
    registry.promote('mood', '1')
    with started(opened, folder) as service:
        yield service, registry


def answering(service, inputs, prompt='mood'):
    status, answer = asyncio.run(classify(service, inputs=inputs, prompt=prompt))
    assert status == 200
    return answer['prompt']


def set_canary(service, registry, version, share=0.0):
    """Set a canary and wait until the running server heeds it."""
    registry.set_canary('mood', version, share)
    wait_until(lambda: service.folder.standing('mood').canary == (version and (version, share)))


def test_a_share_of_the_requests_goes_to_the_canary_while_the_server_runs(served):
    service, registry = served
    texts = [f'film {number}' for number in range(40)]
    assert {answering(service, text) for text in texts[:5]} == {'mood@1'}
    set_canary(service, registry, '2', 0.4)
    found = [answering(service, text) for text in texts]
    assert found == [answering(service, text) for text in texts]  # sent again, answered alike
    assert found == [f'mood@{1 + (place_of("mood@2", text) < 0.4)}' for text in texts]
    assert 8 <= found.count('mood@2') <= 24
    tried = texts[found.index('mood@2')]
    assert answering(service, tried, 'mood@1') == 'mood@1'  # who names a version gets it
    assert metric(service, 'prompt_requests_total', prompt='mood@2', code='200') > 0
    assert metric(service, 'prompt_requests_total', prompt='mood@1', code='200') > 0
    told = asyncio.run(ask(service, 'GET', '/metrics'))[1].decode()
    assert 'jax_prompt_canary_share{prompt="mood@2"} 0.4' in told
    listed = asyncio.run(ask(service, 'GET', '/v1/prompts'))[1]['prompts']
    assert {one['version']: one['canary_share'] for one in listed} == {'1': 0.0, '2': 0.4}
    set_canary(service, registry, None)
    assert answering(service, tried) == 'mood@1'
    assert 'canary_share{' not in asyncio.run(ask(service, 'GET', '/metrics'))[1].decode()


def test_a_canary_that_is_promoted_gets_all_and_one_whose_file_is_gone_nothing(served):
    service, registry = served
    text = next(text for text in map(str, range(99)) if place_of('mood@2', text) < 0.9)
    set_canary(service, registry, '2', 0.9)
    file = registry.find('mood@2').path
    content = file.read_bytes()
    file.unlink()
    wait_until(lambda: len(service.folder.versions()['mood']) == 1)
    assert answering(service, text) == 'mood@1'
    file.write_bytes(content)
    wait_until(lambda: len(service.folder.versions()['mood']) == 2)
    assert answering(service, text) == 'mood@2'
    registry.promote('mood', '2')
    wait_until(lambda: service.folder.standing('mood').canary is None)
    assert {answering(service, str(number)) for number in range(9)} == {'mood@2'}
