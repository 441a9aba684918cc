"""Rows trained inside a design: what is learned, saved and measured is worded by it."""

import dataclasses

import numpy as np
import pytest

from jax_prompt.data.demonstrations import Demonstration
from jax_prompt.data.design import Design
from jax_prompt.data.examples import load_examples
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.make_design import design_file
from jax_prompt.models.open import open_model
from jax_prompt.prompts.file import load_prompt, save_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.training.problem import make_problem
from jax_prompt.training.run import train
from jax_prompt.training.settings import PromptSettings
from tests.inference.many_prompts import prompt_file
from tests.tiny_world import write_model

DESIGN = Design('<extra_id_99> {text} and was {answer} <extra_id_99> :',
                {'negative': ('dull', 'weak'), 'positive': ('great',)}, demonstrations=(
                    Demonstration({'text': 'the film was warm'}, 'positive'),))
LAYOUT = Layout('marker', rows_before=2)


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return open_model(str(write_model(tmp_path_factory.mktemp('sentinels'), blanks=2)))


def test_a_design_words_inputs_and_targets(model, task, settings):
    problem = make_problem(model, task, PromptSettings(5, LAYOUT, design=DESIGN), settings())
    encode, v = model.vocabulary.encode, model.model.vocab_size
    row = problem.examples['train'].rows[0]
    label = task.target_text(row)
    word = {'negative': 'dull', 'positive': 'great'}[label]
    expected = [*encode('the film was warm and was great :'), v, v + 1,
                *encode(row.columns['text']), *encode('and was <extra_id_0>'), v + 2, v + 3, v + 4,
                *encode(':'), 1]
    assert problem.features.encoder[0].tolist() == expected
    assert problem.features.targets[0].tolist() == [*encode(f'<extra_id_0> {word}'), 1]


@pytest.mark.slow
def test_rows_around_a_templates_words_are_trained_saved_and_used(model, task, settings, tmp_path):
    save_prompt(tmp_path / 'design.safetensors', design_file(model, task, DESIGN))
    prompt = PromptSettings(5, LAYOUT, design=str(tmp_path / 'design.safetensors'))
    outcome = train(model, task, tmp_path / 'run', prompt, settings=settings(steps=4), quiet=True)
    file = load_prompt(outcome.folder.prompt)
    assert Design.of(file).to_dict() == DESIGN.to_dict()
    engine = Engine(model, capacity=16)
    engine.add('run', file)
    rows = load_examples(task, 'validation', model.vocabulary).rows
    answers = engine.run(engine.rows(('run', row.columns) for row in rows))
    right = [task.target_text(row) for row in rows]
    metrics, pairs = file.metadata.metrics, list(zip(answers, right, strict=True))
    assert metrics['accuracy'] == pytest.approx(np.mean([one.text == word for one, word in pairs]))
    # Words of one token: the loss is of the labels' own scores.
    assert metrics['loss'] == pytest.approx(-np.mean([one.scores[word] for one, word in pairs]),
                                            abs=1e-4)
    card = (tmp_path / 'run' / 'card.md').read_text()
    assert 'words for its labels are negative: dull or weak, positive: great:' in card
    assert f'```\n{DESIGN.template}\n```' in card
    with pytest.raises(ValueError, match='design'):  # in other words it is another run
        other = dataclasses.replace(DESIGN, combine='best')
        train(model, task, tmp_path / 'run', dataclasses.replace(prompt, design=other),
              settings=settings(steps=4), quiet=True)


def test_a_file_without_a_design_has_no_words_to_train_in(model, tmp_path):
    save_prompt(tmp_path / 'a.safetensors', prompt_file(model, 2))
    with pytest.raises(ValueError, match='has no design; make one with `jax-prompt design`'):
        assert PromptSettings(2, design=str(tmp_path / 'a.safetensors')).words
