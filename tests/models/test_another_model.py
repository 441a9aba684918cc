"""A model that is no T5 goes all the way by meeting the Protocol alone."""

import json

import jax
import numpy as np
import pytest

from jax_prompt.commands.evaluate import evaluate_command
from jax_prompt.commands.predict import predict_command
from jax_prompt.data.tasks.files import file_task
from jax_prompt.data.vocabularies import load_vocabulary
from jax_prompt.inference.decodings import beam_search
from jax_prompt.inference.engine import Engine
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.mesh import make_mesh
from jax_prompt.prompts.file import load_prompt
from jax_prompt.training.optimizers import adafactor
from jax_prompt.training.run import AFTER, BEFORE, train
from jax_prompt.training.settings import PromptSettings, TrainSettings
from tests.models.toy import Toy


@pytest.fixture(scope='module')
def opened(world):
    vocabulary = load_vocabulary(str(world / 'model'))
    model = Toy(vocabulary.vocab_size)
    return OpenedModel(model, model.init(0), make_mesh('data:1', jax.devices()[:1]), vocabulary,
                       'toy', 'toy', 'weights 0', vocabulary.fingerprint)


@pytest.fixture(scope='module')
def task(world):
    return file_task(str(world / 'reviews.csv'), inputs_template='review : {text}',
                     labels={'0': 'negative', '1': 'positive'})


@pytest.fixture(scope='module')
def outcome(opened, task, tmp_path_factory):
    settings = TrainSettings(steps=60, batch_size=8, evaluate_every=20, max_buckets=1, compare=True)
    return train(opened, task, tmp_path_factory.mktemp('toy') / 'run', PromptSettings(rows=4),
                 adafactor(0.05), settings, quiet=True)


def test_it_is_trained(outcome):
    losses = [record['value'] for record in map(
        json.loads, outcome.folder.metrics.read_text().splitlines()) if record['name'] == 'loss']
    assert losses[-1] < 0.9 * losses[0]
    assert outcome.results[AFTER]['accuracy'] >= outcome.results[BEFORE]['accuracy']


def test_it_is_evaluated(opened, task, outcome, capsys):
    assert evaluate_command(lambda: opened, task, str(outcome.folder.prompt), 'test') == 0
    assert f'{100 * outcome.results[AFTER]["accuracy"]:.2f}%' in capsys.readouterr().out


def test_it_predicts_files(opened, outcome, tmp_path):
    (tmp_path / 'in.txt').write_text('the film was great\nthe plot was dull\n')
    assert predict_command(lambda: opened, str(outcome.folder.prompt), None,
                           str(tmp_path / 'in.txt'), str(tmp_path / 'out.txt')) == 0
    assert set((tmp_path / 'out.txt').read_text().split()) <= {'negative', 'positive'}


def test_it_answers_rows_of_several_prompts_as_alone(opened, outcome):
    engine = Engine(opened, decodings={'beam': beam_search(2)})
    engine.add('mood', load_prompt(outcome.folder.prompt))
    rows = [engine.row('mood', 'the film was great'), engine.row(None, 'the film', max_tokens=5),
            engine.row(None, 'the plot was dull', max_tokens=5, decoding='beam')]
    together, alone = engine.run(rows), [engine.run([row])[0] for row in rows]
    for one, other in zip(together, alone, strict=True):
        assert one.text == other.text
        np.testing.assert_allclose([*(one.scores or {}).values()],
                                   [*(other.scores or {}).values()], rtol=1e-5)
