"""Designs over HTTP: served beside prompts, and bounded where anyone may upload them."""

import asyncio
import dataclasses

import numpy as np
import pytest

from jax_prompt.inference.engine import Engine
from jax_prompt.inference.make_design import DesignSettings, design_file, make_design
from jax_prompt.prompts.file import save_prompt
from tests.inference.many_prompts import prompts
from tests.inference.test_designs import CLOZE, SHAPES, TEXTS, a_task
from tests.serving.test_service import ask, classify, started

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def files(opened):
    task = a_task(inputs_length=48)
    nearest = make_design(opened, task, DesignSettings('{text} was', form='plain', shots=2,
                                                       choice='nearest', calibrate='content_free'))
    return {'nearest': design_file(opened, task, nearest), 'mood': prompts(opened)['mood']}


@pytest.fixture(scope='module')
def service(opened, files, tmp_path_factory):
    folder = tmp_path_factory.mktemp('designs')
    for name, file in files.items():
        save_prompt(folder / f'{name}@1.safetensors', file)
    with started(opened, folder) as service:
        yield service


def test_a_design_answers_beside_a_soft_prompt_what_the_engine_answers(opened, files, service):
    engine = Engine(opened, SHAPES, capacity=64)
    for name, file in files.items():
        engine.add(name, file)

    async def both():
        return await asyncio.gather(*(classify(service, prompt=name, inputs=text)
                                      for text in TEXTS for name in files))

    expected = engine.run(engine.rows((name, text) for text in TEXTS for name in files))
    for (status, answer), one in zip(asyncio.run(both()), expected, strict=True):
        assert status == 200 and answer['label'] == one.text
        np.testing.assert_allclose([answer['probabilities'][label] for label in one.probabilities],
                                   list(one.probabilities.values()), atol=1e-4)


def test_a_request_brings_labels_of_its_own(service):
    status, answer = asyncio.run(classify(service, prompt='nearest', inputs=TEXTS[0],
                                          labels=['warm', 'cold', 'clever']))
    assert status == 200 and set(answer['scores']) == {'warm', 'cold', 'clever'}


@pytest.mark.parametrize(('change', 'message'), [
    ({'template': '{text}'}, "has {answer}, the answer's place, 0 times"),
    ({'words': {'negative': ['dull'] * 40, 'positive': ['warm'] * 40}},
     'the uploaded prompt has words of labels 80; expected at most'),
    ({'words': {'negative': ['the film was'], 'positive': ['the film was cold and dull']},
      'form': 'plain', 'template': '{text}'}, 'has tokens of a label with its end 7'),
    ({'marker': ''}, "marker of a design is ''"),
])
def test_an_upload_is_bounded(service, files, tmp_path, change, message):
    values = CLOZE.to_dict() | {'demonstrations': []} | change
    file = files['nearest']
    metadata = dataclasses.replace(file.metadata, design=values,
                                   task=a_task(inputs_length=32).to_dict())
    save_prompt(tmp_path / 'a.safetensors', dataclasses.replace(file, metadata=metadata,
                                                                states_ND=None))
    content = (tmp_path / 'a.safetensors').read_bytes()
    status, answer = asyncio.run(ask(service, 'PUT', '/v1/prompts/other', content))
    assert status == 409 and message in answer['detail'], answer
