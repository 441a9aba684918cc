"""Multitask prompt tuning: the formula, what is shared, distillation, and another task after it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_prompt.data.tasks.files import file_task
from jax_prompt.data.tasks.mixture import Mixture
from jax_prompt.models.open import open_model
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.initializers import InitContext, from_array, uniform
from jax_prompt.prompts.methods.mpt import mpt
from jax_prompt.training.joint import for_each_task, for_tasks, stack
from jax_prompt.training.run import train, train_together
from jax_prompt.training.settings import PromptSettings, TrainSettings
from jax_prompt.training.step import divergence


@pytest.fixture(scope='module')
def model(world):
    return open_model(str(world / 'model'))


@pytest.fixture(scope='module')
def tasks(world):
    first = file_task(str(world / 'reviews.csv'), inputs_template='review : {text}',
                      labels={'0': 'negative', '1': 'positive'})
    return first, dataclasses.replace(first, name='other', labels={'0': 'cold', '1': 'warm'})


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    monkeypatch.setattr('jax_prompt.training.run.draw_curves', lambda *_: None)


def quick(**fields):
    return TrainSettings(**dict(steps=4, batch_size=8, evaluate_every=4, max_buckets=1) | fields)


def test_each_prompt_is_the_shared_one_times_a_matrix_of_rank_one():
    method, rng = mpt(), np.random.default_rng(0)
    table = rng.normal(size=(9, 6)).astype(np.float32)
    params, constants = method.init(jax.random.key(0), InitContext(
        table, 4, lambda text: [], initializer=uniform()))
    np.testing.assert_array_equal(method.apply(params, constants).prompt.rows, params['shared'])
    shared, rows, width = (rng.normal(size=shape).astype(np.float32)
                           for shape in ((4, 6), (2, 4), (2, 6)))
    both = stack([{'shared': shared, 'rows': rows[task], 'width': width[task]}
                  for task in range(2)], method.shared)
    assert both['shared'].shape == (4, 6)
    joint = for_tasks(method, 2)
    expected = np.concatenate([shared * np.outer(rows[task], width[task]) for task in range(2)])
    np.testing.assert_allclose(joint.apply(both, {}).prompt.rows, expected, rtol=1e-6)
    weights = rng.normal(size=(8, 6)).astype(np.float32)
    found = jax.grad(lambda params: jnp.sum(joint.apply(params, {}).prompt.rows * weights))(both)
    halves = weights.reshape(2, 4, 6)
    np.testing.assert_allclose(found['shared'], sum(
        halves[task] * np.outer(rows[task], width[task]) for task in range(2)), rtol=1e-5)
    np.testing.assert_allclose(found['rows'], np.einsum('tpd,pd,td->tp', halves, shared, width),
                               rtol=1e-5)
    np.testing.assert_allclose(found['width'], np.einsum('tpd,pd,tp->td', halves, shared, rows),
                               rtol=1e-5)
    optimizer = for_each_task(optax.sgd(0.5), joint)
    updates, _ = optimizer.update(found, optimizer.init(both), both)
    for name, leaf in found.items():
        np.testing.assert_allclose(updates[name], -0.5 * leaf)


def test_the_divergence_is_that_of_kullback_and_leibler():
    told, logits = np.random.default_rng(0).normal(size=(2, 2, 3, 5))
    weights = np.array([[1, 1, 0], [1, 0, 0]])
    p, q = (np.exp(one) / np.exp(one).sum(-1, keepdims=True) for one in (told, logits))
    np.testing.assert_allclose(divergence(told, logits, weights),
                               ((p * np.log(p / q)).sum(-1) * weights).sum(), rtol=1e-5)


def test_source_tasks_share_a_prompt_that_another_task_starts_from(model, tasks, tmp_path):
    prompt = PromptSettings(5, method=mpt())
    sources = train_together(model, Mixture(tasks), tmp_path / 'run', prompt, settings=quick(),
                             quiet=True)
    shared = tmp_path / 'run' / 'shared' / 'prompt.safetensors'
    rows = load_prompt(shared).prompt.rows
    assert rows.shape == (5, 16) and sources[0].trained_numbers == 5 * 16 + 2 * (5 + 16)
    for outcome in sources:
        told = load_prompt(outcome.folder.prompt)
        assert told.metadata.method == 'mpt' and not np.allclose(told.prompt.rows, rows)
    begun = train(model, tasks[0], tmp_path / 'target', dataclasses.replace(
        prompt, initializer=from_array(str(shared))), settings=quick(steps=1, evaluate_every=1,
        choose_by='loss'), optimizer=optax.sgd(0.0), quiet=True)
    np.testing.assert_array_equal(load_prompt(begun.folder.prompt).prompt.rows, rows)


@pytest.mark.slow
def test_students_learn_what_their_teachers_say(model, tasks, tmp_path):
    quiet = dict(settings=quick(steps=8, choose_by='loss'), quiet=True)
    teachers = train_together(model, Mixture(tasks), tmp_path / 'teachers', PromptSettings(5),
                              **quiet)
    start = PromptSettings(5, initializer=uniform())

    def distance(name, method):
        outcomes = train_together(model, Mixture(tasks), tmp_path / name,
                                  dataclasses.replace(start, method=method), optax.sgd(0.5),
                                  **quiet)
        return [one.results['prompt after training']['loss'] for one in outcomes]

    taught = mpt(str(tmp_path / 'teachers'), 5.0)
    assert distance('taught', taught) != distance('alone', mpt())
    teachers[1].folder.prompt.unlink()
    with pytest.raises(ValueError, match='mpt has no teacher .*other.safetensors for the task; '):
        distance('none', taught)
    with pytest.raises(ValueError, match=r'teacher .* has shape \(5, 16\) but the prompts'):
        train(model, tasks[0], tmp_path / 'long', PromptSettings(6, method=taught),
              settings=quick())
    with pytest.raises(ValueError, match='mpt has distillation=0; expected a positive number'):
        mpt(distillation=0)
