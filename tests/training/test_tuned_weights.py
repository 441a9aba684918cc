"""Runs that train weights: what they leave opens as a model, resumes, and is refused in a line.

Most are slow: what updates every matrix of a model takes long to compile.
"""

import dataclasses

import jax
import numpy as np
import pytest

from jax_prompt.commands.evaluate import evaluate_command
from jax_prompt.data.examples import load_examples
from jax_prompt.data.tasks.mixture import Mixture
from jax_prompt.data.tasks.prefix_lm import prefix_lm
from jax_prompt.evaluation.evaluator import Evaluator
from jax_prompt.inference.engine import Engine
from jax_prompt.models.open import MeshSettings, open_model
from jax_prompt.parallel.rules import path_name
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.initializers import InitContext, uniform
from jax_prompt.prompts.methods.model_tuning import model_tuning
from jax_prompt.training.optimizers import adafactor, adamw
from jax_prompt.training.run import (
    AFTER,
    MODEL_AFTER,
    MOST_COMMON,
    NO_PROMPT,
    train,
    train_together,
)
from jax_prompt.training.settings import PromptSettings
from jax_prompt.training.step import init_state
from jax_prompt.training.tuned_weights import state_shardings
from tests import tiny_world
from tests.training.test_run import Stop, read_lines, stop_before

T5_ADAFACTOR = dict(weight_decay=0.0, parameter_scaling=True, factored_from=16)


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    monkeypatch.setattr('jax_prompt.training.run.draw_curves', lambda *_: None)


def tune(model, task, output, settings, method=None, rows=0, optimizer=None, **fields):
    prompt = PromptSettings(rows=rows, method=method or model_tuning())
    return train(model, task, output, prompt, optimizer or adafactor(0.03, **T5_ADAFACTOR),
                 settings(reduction='mean', **fields), quiet=True)


@pytest.fixture(scope='module')
def tuned(model, task, settings, tmp_path_factory):
    """A whole run of all weights, which tests leave as it is."""
    before = jax.tree.map(np.array, model.frozen)
    outcome = tune(model, task, tmp_path_factory.mktemp('tuned') / 'run', settings, steps=24,
                   compare=True)
    jax.tree.map(np.testing.assert_array_equal, before, model.frozen)
    return outcome


@pytest.mark.slow
def test_all_weights_are_trained_and_the_loss_falls(model, tuned):
    assert tuned.trained_numbers == model.num_parameters
    assert list(tuned.results) == [MOST_COMMON, NO_PROMPT, MODEL_AFTER]
    assert tuned.results[MODEL_AFTER]['loss'] < 0.7 * tuned.results[NO_PROMPT]['loss']
    assert tuned.prompt_bytes > 4 * model.num_parameters
    card = (tuned.folder.path / 'card.md').read_text()
    for told in ('# Tuned model for ', f'--model={tuned.folder.model}', 'model_tuning(weights='):
        assert told in card, told


@pytest.mark.slow
def test_the_folder_opens_as_a_model_that_answers_as_the_run_measured(model, task, tuned):
    opened = open_model(str(tuned.folder.model))
    assert opened.name == f'{model.name}, tuned on {task.name}'
    assert opened.fingerprint != model.fingerprint
    assert opened.vocabulary_fingerprint == model.vocabulary_fingerprint
    prompt = load_prompt(tuned.folder.prompt)
    assert prompt.prompt.rows.shape == (0, 16)
    assert prompt.metadata.base_model_fingerprint == opened.fingerprint
    examples = load_examples(task, 'test', opened.vocabulary)
    metrics = Evaluator(opened, task, prompt.metadata.layout)(prompt.prompt, examples)
    assert metrics == pytest.approx(tuned.results[MODEL_AFTER], rel=1e-5)
    engine = Engine(opened)
    engine.add('reviews', prompt)
    row = engine.row('reviews', 'the plot was dull')
    assert set(engine.run([row])[0].scores) == {'negative', 'positive'}


@pytest.mark.slow
def test_a_prompt_of_the_tuned_model_is_refused_by_the_one_it_came_from(model, task, tuned):
    with pytest.raises(ValueError, match='was trained for .*, tuned on .* but the model in use is'):
        evaluate_command(lambda: model, task, str(tuned.folder.prompt))


@pytest.mark.slow
@pytest.mark.parametrize('chosen', [
    dict(), dict(method=model_tuning(layers=1), average=0.9, evaluate_by=('greedy',)),
    dict(method=model_tuning('norms'), rows=3, dropout_rate=0.1, microbatches=2,
         optimizer=adamw(0.01))], ids=['all', 'last layers', 'norms and a prompt'])
def test_stopped_and_resumed_equals_uninterrupted(model, task, settings, tmp_path, monkeypatch,
                                                  chosen):
    whole = tune(model, task, tmp_path / 'whole', settings, steps=10, **chosen)
    for step_number in (2, 7):
        with monkeypatch.context() as patch:
            stop_before(patch, step_number)
            with pytest.raises(Stop):
                tune(model, task, tmp_path / 'parts', settings, steps=10, **chosen)
    parts = tune(model, task, tmp_path / 'parts', settings, steps=10, **chosen)
    assert parts.results == whole.results
    assert read_lines(tmp_path / 'parts') == read_lines(tmp_path / 'whole')
    for name in ('prompt.safetensors', 'model/model.safetensors', 'model/jax_prompt.json'):
        assert (tmp_path / 'parts' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()


@pytest.mark.slow
def test_a_lost_model_is_the_runs_best_again(model, task, tuned, settings):
    whole = (tuned.folder.model / 'model.safetensors').read_bytes()
    (tuned.folder.model / 'model.safetensors').unlink()
    (tuned.folder.path / '.model.7.unfinished').mkdir()
    again = tune(model, task, tuned.folder.path, settings, steps=24, compare=True)
    assert (tuned.folder.model / 'model.safetensors').read_bytes() == whole
    assert again == tuned and not list(tuned.folder.path.glob('.model*'))


@pytest.mark.slow
def test_plain_text_is_continued_better_after_lm_adaptation(model, settings, tmp_path):
    text = ' '.join(f'the {subject} was {word} and' for subject in tiny_world.SUBJECTS
                    for word in tiny_world.GOOD + tiny_world.BAD)
    (tmp_path / 'text.txt').write_text('\n'.join([text] * 6))
    task = prefix_lm(str(tmp_path / 'text.txt'), words=12, inputs_length=16, targets_length=16)
    outcome = tune(model, task, tmp_path / 'run', settings, steps=12, evaluate_by='loss',
                   compare=True)
    assert list(outcome.results) == [NO_PROMPT, MODEL_AFTER]
    assert set(outcome.results[MODEL_AFTER]) == {'loss'}
    assert outcome.results[MODEL_AFTER]['loss'] < 0.8 * outcome.results[NO_PROMPT]['loss']


@pytest.mark.parametrize('change, message', [
    (lambda patch: patch.setattr('jax_prompt.training.tuned_weights._device_bytes', lambda: 4096),
     r'model tuning needs [\d,]+ bytes on a device: [\d,]+ for the model, .* there are 4,096: '
     'spread the weights'),
    (lambda patch: patch.setattr('jax_prompt.models.t5.model.T5.numerics', {'attention': 'cudnn'}),
     "attention='cudnn' computes no gradient of the relative position bias")])
def test_what_cannot_be_trained_is_refused_before_a_step(model, task, settings, tmp_path,
                                                         monkeypatch, change, message):
    change(monkeypatch)
    with pytest.raises(ValueError, match=message):
        tune(model, task, tmp_path / 'run', settings)
    assert not (tmp_path / 'run').exists()


def test_two_tasks_cannot_have_weights_of_their_own(model, task, settings, tmp_path):
    tasks = Mixture((task, dataclasses.replace(task, name='other')))
    with pytest.raises(ValueError, match='model_tuning tunes weights of the model, of which 2 '
                                         'tasks in one run cannot each have their own'):
        train_together(model, tasks, tmp_path / 'run',
                       PromptSettings(rows=0, method=model_tuning()), settings=settings())
    assert not (tmp_path / 'run').exists()


def test_weights_in_eight_bits_and_nothing_to_train_are_refused(world, model, task, settings,
                                                               tmp_path):
    int8 = open_model(str(world / 'model'), weights='int8')
    with pytest.raises(ValueError, match='is kept in int8, which takes no small steps; open the'):
        tune(int8, task, tmp_path / 'run', settings)
    with pytest.raises(ValueError, match='prompt rows is 0; expected at least 1 to train'):
        PromptSettings(rows=0)
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_prompt_is_trained_with_the_weights(model, task, settings, tmp_path):
    outcome = tune(model, task, tmp_path / 'run', settings, steps=2, rows=3, compare=True,
                   evaluate_every=2, method=model_tuning('norms', layers=1))
    assert list(outcome.results)[-1] == MODEL_AFTER and AFTER not in outcome.results
    opened = open_model(str(outcome.folder.model))
    prompt = load_prompt(outcome.folder.prompt)
    examples = load_examples(task, 'test', opened.vocabulary)
    metrics = Evaluator(opened, task, prompt.metadata.layout)(prompt.prompt, examples)
    assert metrics == pytest.approx(outcome.results[MODEL_AFTER], rel=1e-5)


@pytest.mark.parametrize('optimizer', [adamw(0.01), adafactor(0.01, factored_from=8)],
                         ids=['adamw', 'adafactor'])
def test_weights_and_their_moments_live_where_the_models_weights_do(world, optimizer):
    opened = open_model(str(world / 'model'), mesh=MeshSettings(shard_weights_over_data=True))
    context = InitContext(opened.frozen['token_embedder']['embedding'], 2, list,
                          initializer=uniform(), frozen=opened.frozen, rules=opened.model.rules)
    params, _ = model_tuning().init(jax.random.key(0), context)
    state = jax.eval_shape(lambda: init_state(params, optimizer))
    where = {path_name(path): tuple(one.spec) for path, one in
             jax.tree_util.tree_flatten_with_path(state_shardings(opened, state))[0]}
    wide = 'model/encoder/layers/feed_forward/wi_0/kernel/1'  # [16, 32]
    assert where[f'params/{wide}'] == ('data', 'model')
    query = where['params/model/encoder/layers/self_attention/query/kernel/1']
    assert query == ('data', 'model')
    assert where['params/model/encoder/layers/self_attention/out/kernel/0'] == ('model', 'data')
    assert where['params/model/token_embedder/embedding'] == ('model', 'data')
    assert where['params/prompt'] == where['step'] == ()
    moments = {name.split('/')[2]: spec for name, spec in where.items()
               if name.startswith('opt_state') and name.endswith(wide)}
    expected = ({'mu': ('data', 'model'), 'nu': ('data', 'model')} if 'mu' in moments else
                {'v_row': ('data',), 'v_col': ('model',), 'v': ()})
    assert moments == expected
