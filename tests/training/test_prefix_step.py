"""One update of prefixes: in microbatches, of several tasks, and on a mesh of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.initializers import InitContext, uniform
from jax_prompt.prompts.methods.prefix_tuning import prefix_tuning
from jax_prompt.training.joint import for_each_task, for_tasks, stack
from jax_prompt.training.settings import TrainSettings
from jax_prompt.training.step import init_state, make_train_step
from tests.models.t5 import reference

CONFIG = reference.make_config('byt5')
MODEL = T5(CONFIG)


def setting(rows=4, batch=6):
    frozen = jax.tree.map(jnp.asarray, reference.make_frozen(CONFIG))
    data = reference.as_batch(reference.make_inputs(CONFIG), CONFIG.vocab_size)
    data = {name: np.resize(feature, (batch, *feature.shape[1:])) for name, feature in data.items()}
    data['decoder_target_tokens'] = np.random.default_rng(0).integers(
        2, 37, data['decoder_target_tokens'].shape).astype(np.int32)
    method = prefix_tuning(3)
    context = InitContext(MODEL.embedding_table(frozen), rows, lambda text: [5],
                          initializer=uniform(), prefix_shapes=MODEL.prefix_shapes)
    return frozen, data, method, context


def update(method, started, frozen, batch, mesh=None, tasks=1, **settings):
    optimizer = optax.sgd(0.1)
    if tasks > 1:
        method = for_tasks(method, tasks)
        optimizer = for_each_task(optimizer, method)
    params, constants = started
    step = make_train_step(MODEL, method, optimizer, TrainSettings(**settings), mesh)
    state = init_state(jax.tree.map(jnp.array, params), optimizer)
    return step(state, frozen, batch, constants)[0].params


def assert_same(ours, theirs):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-4, atol=3e-5)


def test_microbatches_give_the_update_of_the_whole():
    frozen, batch, method, context = setting()
    started = method.init(jax.random.key(1), context)
    whole = update(method, started, frozen, batch)
    assert_same(update(method, started, frozen, batch, microbatches=3, batch_size=6), whole)
    moved = jax.tree.map(lambda one, other: np.abs(one - other).max(), whole, started[0])
    assert min(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.parametrize('microbatches', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_task_takes_its_own_step(microbatches):
    frozen, batch, method, context = setting(rows=0, batch=8)
    batch['encoder_input_tokens'] = batch['encoder_input_tokens'][:, 4:]
    started = [method.init(jax.random.key(seed), context) for seed in (1, 2)]
    params, constants = (stack(one) for one in zip(*started, strict=True))
    tasks = np.array([0, 1, 1, 0, 0, 1, 0, 1])
    mixed = batch | {'prompt_ids': tasks, 'decoder_task_ids': np.repeat(tasks[:, None], 5, 1)}
    joint = update(method, (params, constants), frozen, mixed, tasks=2, microbatches=microbatches)
    for task, own in enumerate(started):
        alone = update(method, own, frozen, {name: feature[tasks == task]
                                             for name, feature in batch.items()})
        assert_same(jax.tree.map(lambda leaf, task=task: leaf[task], joint), alone)


def test_a_packed_row_of_several_tasks_is_refused():
    frozen, batch, method, context = setting()
    started = [method.init(jax.random.key(seed), context) for seed in (1, 2)]
    params, constants = (stack(one) for one in zip(*started, strict=True))
    segments = {'encoder_segment_ids': np.ones_like(batch['encoder_input_tokens']),
                'decoder_segment_ids': np.ones_like(batch['decoder_input_tokens']),
                'decoder_task_ids': np.zeros_like(batch['decoder_input_tokens'])}
    with pytest.raises(ValueError, match='packed rows hold examples of several tasks'):
        update(method, (params, constants), frozen, batch | segments, tasks=2)
