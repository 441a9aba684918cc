"""One update: what it changes, what it leaves alone, and what it costs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_prompt.models import forward
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.methods.direct import direct
from jax_prompt.prompts.prompt import Prompt, Tuned, in_place_of, no_prompt
from jax_prompt.training.joint import for_each_task, for_tasks, stack
from jax_prompt.training.optimizers import adafactor, adamw, warmup_schedule
from jax_prompt.training.settings import TrainSettings
from jax_prompt.training.step import init_state, make_train_step, token_loss
from tests.models.t5.random_weights import init, param_shapes

CONFIG = T5Config(vocab_size=31, d_model=12, d_kv=4, d_ff=20, num_heads=3, num_layers=2,
                  num_decoder_layers=2, name='tiny')
ROWS = 3


@functools.cache
def make_frozen(seed=0):
    return jax.jit(functools.partial(init, T5(CONFIG)))(jax.random.key(seed))


score = jax.jit(forward.score, static_argnums=0)


def make_batch(length=10, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(2, 31, (4, length)).astype(np.int32)
    ids[:, :ROWS] = np.arange(31, 31 + ROWS)
    ids[0, 7:] = 0
    targets = rng.integers(2, 31, (4, 3)).astype(np.int32)
    inputs = np.concatenate([np.zeros((4, 1), np.int32), targets[:, :-1]], 1)
    return {'encoder_input_tokens': ids, 'decoder_target_tokens': targets,
            'decoder_input_tokens': inputs,
            'decoder_loss_weights': np.ones((4, 3), np.float32)}


def make_method():
    return direct()


def make_state(optimizer, seed=1):
    return init_state({'prompt': jax.random.normal(jax.random.key(seed), (ROWS, 12))}, optimizer)


@functools.cache
def make_step(optimizer=adafactor, **options):
    return make_train_step(T5(CONFIG), make_method(), optimizer(), TrainSettings(**options))


@functools.cache
def one_update(reduction, microbatches):
    """Return a move of plain descent, and its metrics; the rows differ in their tokens."""
    batch, optimizer = make_batch(), optax.sgd(1.0)
    batch['decoder_loss_weights'][1, 1:] = 0.0
    state = make_state(optimizer)
    before = np.array(state.params['prompt'])
    step = make_train_step(T5(CONFIG), make_method(), optimizer,
                           TrainSettings(reduction=reduction, microbatches=microbatches))
    state, metrics = step(state, make_frozen(), batch)
    return before - np.array(state.params['prompt']), metrics


def test_frozen_leaves_are_bit_identical_after_training_and_the_prompt_is_not():
    frozen, state, step = make_frozen(), make_state(adafactor()), make_step()
    before = jax.tree.map(np.array, frozen)
    prompt = np.array(state.params['prompt'])
    for seed in range(3):
        state, _ = step(state, frozen, make_batch(seed=seed))
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, frozen))
    assert int(state.step) == 3 and np.abs(np.array(state.params['prompt']) - prompt).min() > 0


def test_the_loss_falls():
    frozen, state, step = make_frozen(), make_state(adafactor()), make_step()
    losses = []
    for _ in range(25):
        state, metrics = step(state, frozen, make_batch())
        losses.append(float(metrics['loss'] / metrics['tokens']))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize('make_optimizer', [adafactor, adamw])
def test_optimizer_bytes_and_outputs_do_not_depend_on_depth(make_optimizer):
    def sizes(depth):
        config = dataclasses.replace(CONFIG, num_layers=depth, num_decoder_layers=depth)
        model, optimizer = T5(config), make_optimizer()
        state = make_state(optimizer)
        lowered = make_train_step(model, make_method(), optimizer).lower(
            state, param_shapes(model), make_batch())
        opt_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
        outputs = sorted(leaf.shape for leaf in jax.tree.leaves(lowered.out_info))
        return opt_bytes, outputs

    shallow, deep = sizes(1), sizes(5)
    assert shallow == deep
    assert shallow[0] <= 3 * 4 * ROWS * 12  # at most a few numbers for each one trained
    assert max(len(shape) for shape in shallow[1]) <= 2


def test_no_output_and_no_donated_buffer_has_the_shape_of_a_frozen_weight():
    state, shapes = make_state(adafactor()), param_shapes(T5(CONFIG))
    lowered = make_step().lower(state, shapes, make_batch())
    (state_info, frozen_info, _), _ = lowered.args_info
    assert all(info.donated for info in jax.tree.leaves(state_info))
    assert not any(info.donated for info in jax.tree.leaves(frozen_info))
    frozen_shapes = {leaf.shape for leaf in jax.tree.leaves(shapes) if len(leaf.shape) > 1}
    assert not frozen_shapes & {leaf.shape for leaf in jax.tree.leaves(lowered.out_info)}


def test_the_frozen_tree_is_an_argument_and_no_constant(compilations):
    step, losses, compiled = make_step(), [], []
    first, second = make_frozen(), make_frozen(9)
    for frozen in (first, second, first):
        state, batch = make_state(adafactor()), make_batch()
        compilations.clear()
        losses.append(float(step(state, frozen, batch)[1]['loss']))
        compiled.append(len(compilations))
    assert losses[0] == losses[2] != losses[1]
    assert not any(compiled[1:])


def test_without_virtual_tokens_the_program_is_plain_t5_to_the_last_bit():
    model = T5(CONFIG)
    frozen, batch = make_frozen(), make_batch()
    ids = batch['encoder_input_tokens'] = np.where(
        batch['encoder_input_tokens'] >= 31, 5, batch['encoder_input_tokens'])

    @jax.jit
    def plain(frozen):
        encoded = model.encode(frozen, model.embed(frozen, ids), ids != 0)
        hidden = model.decode(frozen, model.embed(frozen, batch['decoder_input_tokens']), encoded,
                              ids != 0)
        return model.logits(frozen, hidden)

    prompted = functools.partial(score, model)
    np.testing.assert_array_equal(plain(frozen), prompted(frozen, no_prompt(12), batch))
    # A prompt that no id asks for changes nothing either.
    unused = Prompt(jnp.ones((ROWS, 12)))
    np.testing.assert_array_equal(plain(frozen), prompted(frozen, unused, batch))


def test_pads_never_change_logits():
    model = T5(CONFIG)
    frozen, batch = make_frozen(), make_batch()
    prompt = jax.random.normal(jax.random.key(1), (ROWS, 12))
    longer = dict(batch, encoder_input_tokens=np.pad(batch['encoder_input_tokens'],
                                                     ((0, 0), (0, 7))))
    for name in ('decoder_input_tokens', 'decoder_target_tokens'):
        longer[name] = np.pad(longer[name], ((0, 0), (0, 2)))
    short = score(model, frozen, Prompt(prompt), batch)
    long = score(model, frozen, Prompt(prompt), longer)[:, :3]
    np.testing.assert_allclose(short, long, atol=2e-5)


def test_a_prompt_changes_the_output():
    model = T5(CONFIG)
    frozen, batch = make_frozen(), make_batch()
    one, other = (score(model, frozen, Prompt(jax.random.normal(jax.random.key(seed), (ROWS, 12))),
                        batch) for seed in (1, 2))
    assert float(jnp.abs(one - other).max()) > 1e-2


def test_dropout_is_a_function_of_seed_and_step():
    model, optimizer = T5(CONFIG, dropout_rate=0.3), optax.sgd(0.0)
    frozen = make_frozen()

    def losses(step):
        state = make_state(optimizer)
        found = []
        for _ in range(2):
            state, metrics = step(state, frozen, make_batch())
            found.append(float(metrics['loss']))
        return found

    one, other = (make_train_step(model, make_method(), optimizer, TrainSettings(seed=seed))
                  for seed in (0, 1))
    first = losses(one)
    assert first == losses(one)
    assert len({*first, *losses(other)}) == 4


def test_dropout_changes_the_encoder_without_bias():
    model, dropping = T5(CONFIG), T5(CONFIG, dropout_rate=0.1)
    frozen, ids = make_frozen(), make_batch()['encoder_input_tokens'][1:, ROWS:]
    hidden, mask = model.embed(frozen, ids), ids != 0
    plain = jax.jit(model.encode)(frozen, hidden, mask)
    encode = jax.jit(jax.vmap(lambda key: dropping.encode(frozen, hidden, mask, dropout_rng=key)))
    dropped = encode(jax.random.split(jax.random.key(5), 400))
    assert float(jnp.abs(dropped[0] - plain).max()) > 1e-2
    # One number in ten of the encoder's outputs is dropped, and the others make up for it.
    assert abs(float((dropped == 0).mean()) - 0.1) < 0.01
    mean, plain = dropped.mean(0).ravel(), plain.ravel()
    assert float(mean @ plain / jnp.linalg.norm(mean) / jnp.linalg.norm(plain)) > 0.95


def test_the_mean_loss_is_the_sum_over_the_number_of_target_tokens():
    (total, _), (mean, metrics) = one_update('sum', 1), one_update('mean', 1)
    assert metrics['tokens'] == 10
    np.testing.assert_allclose(mean * 10, total, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('reduction, microbatches', [
    ('sum', 4), ('mean', 2), pytest.param('sum', 2, marks=pytest.mark.slow),
    pytest.param('mean', 4, marks=pytest.mark.slow)])
def test_microbatches_add_up_to_the_batch(reduction, microbatches):
    (whole, metrics), (parts, of_parts) = (
        one_update(reduction, count) for count in (1, microbatches))
    np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=2e-6)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, of_parts[name], rtol=1e-5)


def test_a_batch_that_does_not_divide_into_microbatches_is_refused():
    optimizer = optax.sgd(1.0)
    step = make_train_step(T5(CONFIG), make_method(), optimizer,
                           TrainSettings(batch_size=3, microbatches=3))
    with pytest.raises(ValueError, match='has 4 rows, which do not divide into 3 microbatches'):
        step(make_state(optimizer), make_frozen(), make_batch())


def test_microbatches_need_less_memory():
    def temporaries(count):
        optimizer = optax.sgd(1.0)
        step = make_train_step(T5(CONFIG), make_method(), optimizer,
                               TrainSettings(microbatches=count))
        batch = {name: np.tile(feature, (16, 1)) for name, feature in make_batch(40).items()}
        compiled = step.lower(make_state(optimizer), make_frozen(), batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(8) < 0.4 * temporaries(1)


def test_weights_that_stand_in_for_frozen_ones_are_tuned_and_nothing_else_is():
    model, frozen, batch = T5(CONFIG), make_frozen(), make_batch()
    scale = frozen['encoder']['final_norm']['scale']

    def apply(params, constants):
        weights = {'encoder': {'final_norm': {'scale': params['scale'] * constants['by']}}}
        return Tuned(Prompt(params['prompt']), weights)

    optimizer = optax.sgd(1.0)
    params = {'prompt': jax.random.normal(jax.random.key(1), (ROWS, 12)), 'scale': jnp.copy(scale)}

    def loss(scale):
        changed = dict(frozen, encoder=dict(frozen['encoder'], final_norm={'scale': scale * 2.0}))
        logits = forward.score(model, changed, Prompt(params['prompt']), batch)
        return token_loss(logits, batch['decoder_target_tokens'], batch['decoder_loss_weights'])[0]

    expected = jax.jit(jax.grad(loss))(scale)
    for microbatches in (1, 2):
        step = make_train_step(model, Method('norm', None, apply), optimizer,
                               TrainSettings(microbatches=microbatches))
        state, _ = step(init_state(jax.tree.map(jnp.copy, params), optimizer), frozen, batch,
                        {'by': jnp.float32(2.0)})
        np.testing.assert_allclose(scale - state.params['scale'], expected, rtol=1e-4, atol=1e-5)


def test_weights_that_the_model_has_not_are_refused():
    with pytest.raises(ValueError, match="has no weights 'middle' to stand in for"):
        in_place_of(make_frozen(), {'encoder': {'middle': jnp.ones(3)}})


def test_another_learning_rate_compiles_nothing(compilations):
    frozen, step, changes, compiled = make_frozen(), make_step(), {}, []
    for rate in (0.3, 0.1, warmup_schedule(0.3, 5, 9), warmup_schedule(0.3, 0, 9, 'cosine')):
        state = make_state(adafactor(rate))
        before = np.array(state.params['prompt'])
        batch = make_batch()
        compilations.clear()
        state, _ = step(state, frozen, batch)
        compiled.append(len(compilations))
        changes[len(changes)] = np.abs(np.array(state.params['prompt']) - before).max()
    assert changes[0] > 2 * changes[1] and changes[2] < 1e-4 and changes[3] == changes[0]
    assert not any(compiled[1:])


@pytest.mark.parametrize('chosen', [
    {'reduction': 'mean', 'noise': 0.1, 'adversarial': 0.1},
    pytest.param({'reduction': 'sum'}, marks=pytest.mark.slow)])
def test_a_joint_update_of_each_task_is_its_own_to_the_last_bit(chosen):
    batch, frozen, method = make_batch(), make_frozen(), make_method()
    settings = TrainSettings(**chosen)
    task_of_row = np.array([0, 1, 1, 0])
    batch['decoder_loss_weights'][1, 1:] = 0.0
    starts = [make_state(adafactor(), seed).params for seed in (1, 2)]
    states = []
    for task, start in enumerate(starts):  # shapes are the same: other tasks' rows weigh nothing
        weights = batch['decoder_loss_weights'] * (task_of_row == task)[:, None]
        step = make_train_step(T5(CONFIG), method, adafactor(), settings)
        states.append(step(init_state(jax.tree.map(jnp.copy, start), adafactor()), frozen,
                           batch | {'decoder_loss_weights': weights}))
    joint = for_tasks(method, 2)
    optimizer = for_each_task(adafactor(), joint)
    ids = batch['encoder_input_tokens']
    mixed = batch | {
        'encoder_input_tokens': np.where(ids >= 31, ids + ROWS * task_of_row[:, None], ids),
        'decoder_task_ids': np.repeat(task_of_row[:, None], 3, axis=1)}
    step = make_train_step(T5(CONFIG), joint, optimizer, settings)
    state, metrics = step(init_state(stack(starts), optimizer), frozen, mixed)
    for task, (own, own_metrics) in enumerate(states):
        np.testing.assert_allclose(state.params['prompt'][task], own.params['prompt'],
                                   rtol=1e-6 if 'noise' in chosen else 0)  # norms round otherwise
        for name, value in own_metrics.items():
            np.testing.assert_allclose(metrics[name][task], value, rtol=1e-5)


def test_a_joint_step_costs_what_a_step_of_one_task_does_with_as_many_rows():
    costs, batch = [], make_batch() | {'decoder_task_ids': np.zeros((4, 3), np.int32)}
    for count in (1, 4):
        joint = for_tasks(make_method(), count)
        optimizer = for_each_task(adafactor(), joint)
        state = init_state(stack([make_state(adafactor()).params] * count), optimizer)
        compiled = make_train_step(T5(CONFIG), joint, optimizer).lower(
            state, make_frozen(), batch).compile()
        memory = compiled.memory_analysis()
        costs.append((compiled.cost_analysis()['flops'], memory.argument_size_in_bytes,
                      sum(leaf.nbytes for leaf in jax.tree.leaves(state))))
    (flops, arguments, state), (joint_flops, joint_arguments, joint_state) = costs
    assert joint_flops < 1.3 * flops
    assert joint_arguments - arguments <= joint_state - state + batch['decoder_task_ids'].nbytes
