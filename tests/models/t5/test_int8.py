"""Kernels in eight bits: what is stored, how far off it is, and that nothing wide is made of it."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jax_prompt.models.forward import score
from jax_prompt.models.t5.config import T5Config, t5_1_1
from jax_prompt.models.t5.int8 import (
    Int8,
    quantise,
    quantise_tree,
    quantised_shapes,
    summed_axes,
    widen,
)
from jax_prompt.models.t5.layers import Attention
from jax_prompt.models.t5.model import T5
from jax_prompt.models.t5.products import Precision
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.training.step import token_loss
from jax_prompt.types import count_parameters
from tests.models.t5 import reference
from tests.models.t5.random_weights import init, param_shapes

#: Weights of the size that training leaves: what int8 costs a real model, see the slow test too.
TINY = T5Config(vocab_size=61, d_model=32, d_kv=8, d_ff=48, num_heads=4, num_layers=3,
                num_decoder_layers=2)

KERNELS = {
    'encoder/layers/self_attention/query/kernel': (3, 16, 4, 8),
    'encoder/layers/self_attention/out/kernel': (3, 4, 8, 16),
    'decoder/layers/cross_attention/value/kernel': (3, 16, 4, 8),
    'encoder/layers/feed_forward/wi_0/kernel': (3, 16, 24),
    'encoder/layers/feed_forward/wo/kernel': (3, 24, 16),
}
WO = 'encoder/layers/feed_forward/wo/kernel'
SCALES = {
    'encoder/layers/self_attention/query/kernel': (3, 1, 4, 8),
    'encoder/layers/self_attention/out/kernel': (3, 1, 1, 16),
    'decoder/layers/cross_attention/value/kernel': (3, 1, 4, 8),
    'encoder/layers/feed_forward/wi_0/kernel': (3, 1, 24),
    'encoder/layers/feed_forward/wo/kernel': (3, 1, 16),
}


def draw(shape, dtype=np.float32):
    """Draw a kernel whose channels have sizes of their own."""
    rng = np.random.default_rng(3)
    return (rng.standard_normal(shape) * np.exp(rng.standard_normal(shape[-1]))).astype(dtype)


def paths(tree) -> dict:
    return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def num_bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@functools.cache
def tiny_frozen():
    return jax.jit(lambda: init(T5(TINY), jax.random.key(0)))()


@functools.cache
def tiny_int8():
    return quantise_tree(tiny_frozen())


@functools.cache
def tiny_answers(quantised: bool = True, **options):
    """Return logits, loss and prompt gradient of a tiny model with calm weights."""
    options = {'dtype': jnp.float32} | options
    return answers(T5(TINY, **options), tiny_int8() if quantised else tiny_frozen())


def answers(model: T5, frozen, rows: int = reference.NUM_ROWS) -> dict[str, np.ndarray]:
    data = reference.make_inputs(model.config)
    batch = reference.as_batch(data, model.config.vocab_size)
    prompt_PD = data['prompt'][:rows]
    if not rows:
        batch['encoder_input_tokens'] = data['ids']

    @jax.jit
    def run(prompt_PD, frozen):
        def loss_fn(prompt_PD):
            logits_BLV = score(model, frozen, Prompt(prompt_PD), batch)
            loss, _ = token_loss(logits_BLV, batch['decoder_target_tokens'],
                                 batch['decoder_loss_weights'], reference.Z_LOSS)
            return loss, logits_BLV
        return jax.value_and_grad(loss_fn, has_aux=True)(prompt_PD)

    (loss, logits), gradient = run(prompt_PD, frozen)
    return {'loss': loss, 'logits': logits, 'gradient': gradient}


def relative_error(ours, wanted) -> float:
    """Return the root mean square of the difference over that of what is wanted."""
    ours, wanted = np.asarray(ours, np.float64), np.asarray(wanted, np.float64)
    return float(np.sqrt(np.mean((ours - wanted)**2) / np.mean(wanted**2)))


# What is stored.


@pytest.mark.parametrize('on', ['host', 'device'])
@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16], ids=['float32', 'bfloat16'])
@pytest.mark.parametrize('path, shape', KERNELS.items(), ids=KERNELS)
def test_no_number_is_off_by_more_than_half_a_scale(path, shape, dtype, on):
    kernel = draw(shape, dtype)
    stored = quantise(path, kernel if on == 'host' else jnp.asarray(kernel))
    assert isinstance(stored.values, np.ndarray if on == 'host' else jax.Array)
    assert stored.values.dtype == np.int8 and stored.values.shape == shape == stored.shape
    assert stored.scale.dtype == np.float32 and stored.scale.shape == SCALES[path]
    wide = kernel.astype(np.float64)
    error = np.abs(wide - np.asarray(stored.values, np.float64) * np.asarray(stored.scale))
    assert (error <= np.asarray(stored.scale) * 0.5 * (1 + 1e-5)).all()
    axes = summed_axes(path)
    np.testing.assert_array_equal(np.abs(stored.values).max(axis=axes), 127)
    np.testing.assert_array_equal(widen(stored, np.float32),
                                  np.asarray(stored.values) * np.asarray(stored.scale))


def test_host_and_device_agree_to_the_last_bit():
    frozen = reference.make_frozen(reference.make_config('t5_1_1'))
    host, device = quantise_tree(frozen), quantise_tree(jax.tree.map(jnp.asarray, frozen))
    jax.tree.map(np.testing.assert_array_equal, host, device)


def test_a_layer_alone_is_stored_as_it_is_in_its_stack():
    for path, shape in KERNELS.items():
        kernel = draw(shape)
        stack = quantise(path, kernel)
        for layer, values, scale in zip(kernel, stack.values, stack.scale, strict=True):
            one = quantise(path, layer)
            np.testing.assert_array_equal(one.values, values)
            np.testing.assert_array_equal(one.scale, scale)


@pytest.mark.parametrize('on', [np.asarray, jnp.asarray], ids=['host', 'device'])
def test_channels_of_zeros_and_of_tiny_numbers_stay_finite(on):
    kernel = np.zeros((4, 3), np.float32)
    kernel[:, 1] = 1e-40
    kernel[2, 2] = -3.0
    stored = quantise(WO, on(kernel))
    assert (np.asarray(stored.scale) > 0).all()
    wide = np.asarray(widen(stored, jnp.float32))
    np.testing.assert_array_equal(wide[:, 0], 0)
    assert np.abs(wide - kernel).max() <= 1e-37


@pytest.mark.parametrize('on', [np.asarray, jnp.asarray], ids=['host', 'device'])
@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(bad, on):
    kernel = draw((16, 61))
    kernel[3, 5] = bad
    with pytest.raises(ValueError, match='parameter encoder/.*/wo/kernel holds numbers that'):
        quantise(WO, on(kernel))


def test_kernels_of_layers_are_quantised_and_nothing_else():
    for shape in reference.SHAPES:
        config = reference.make_config(shape)
        frozen = reference.make_frozen(config)
        before, after = paths(frozen), paths(quantise_tree(frozen))
        for path, leaf in before.items():
            if '/layers/' in path and path.endswith('/kernel'):
                assert after.pop(f'{path}/values').shape == leaf.shape
                assert after.pop(f'{path}/scale').ndim == leaf.ndim
            else:
                assert after.pop(path) is leaf
        assert not after


def test_quantising_again_changes_nothing():
    stored = tiny_int8()
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, quantise_tree(stored), stored))


def test_shapes_are_known_without_weights():
    shapes = quantised_shapes(param_shapes(T5(TINY), jnp.bfloat16))
    stored = quantise_tree(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny_frozen()))
    assert jax.tree.all(jax.tree.map(
        lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), shapes, stored))


def test_bytes_are_half_of_bfloat16():
    """XXL's layers: a scale of 4 bytes for 4,096 numbers or more. Its embedding and head stay."""
    shapes = param_shapes(T5(t5_1_1('xxl')), jnp.bfloat16)
    stored = quantised_shapes(shapes)
    for stack in ('encoder', 'decoder'):
        assert 0.5 < num_bytes(stored[stack]) / num_bytes(shapes[stack]) < 0.501
    assert num_bytes(stored) < 11.5e9
    assert count_parameters(shapes) == 11_135_332_352


# What is computed.


@pytest.mark.parametrize('shape, scan', [
    ('umt5', False), *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ('t5_1_0', True), ('t5_1_1', True), ('t5_1_1', False), ('umt5', True)))])
def test_equals_a_model_that_was_given_the_rounded_kernels(shape, scan):
    """So scales are applied where they belong, in products both ways; harsh weights show it."""
    config = reference.make_config(shape)
    stored = quantise_tree(reference.make_frozen(config))
    model = T5(config, scan_layers=scan)
    ours, wanted = answers(model, stored), answers(model, widen(stored, jnp.float32))
    for name in wanted:
        assert relative_error(ours[name], wanted[name]) < 2e-5, name


def test_long_targets_too():
    """They attend to the encoder by projected keys and values, short ones by moving the query."""
    config = reference.make_config('t5_1_1')
    stored = quantise_tree(reference.make_frozen(config))['decoder']['layers']['cross_attention']
    layer = jax.tree.map(lambda leaf: leaf[1], stored)
    rng = np.random.default_rng(0)
    hidden_BLD, encoded_BTD = (rng.standard_normal((2, length, 24)).astype(np.float32)
                               for length in (9, 11))
    attention = Attention(config, Precision(jnp.float32), 0.0)

    @jax.jit
    def attend(hidden_BLD, params):
        return attention.apply({'params': params}, hidden_BLD, encoded_BTD, (),
                               method='cross_attend')

    wide = widen(layer, jnp.float32)
    for length in (2, 3, 9):
        np.testing.assert_allclose(attend(hidden_BLD[:, :length], layer),
                                   attend(hidden_BLD[:, :length], wide), rtol=1e-4, atol=1e-5)


#: Rounding moves a number by s / sqrt(12) (root mean square), and s is about 2.5 / 127 of a
#: channel's standard deviation: 0.6 % of each product. Blocks add up; seen here: 1.0 % of the
#: logits, 1.6 % of the gradient.
LOGITS_BOUND, GRADIENT_BOUND = 0.02, 0.04


@pytest.mark.parametrize('scan', [True, False], ids=['scanned', 'unrolled'])
def test_logits_and_gradient_are_close_to_float32(scan):
    ours, wanted = tiny_answers(scan_layers=scan), tiny_answers(quantised=False)
    assert np.isfinite(ours['gradient']).all()
    assert 1e-4 < relative_error(ours['logits'], wanted['logits']) < LOGITS_BOUND
    assert relative_error(ours['gradient'], wanted['gradient']) < GRADIENT_BOUND
    assert abs(ours['loss'] / wanted['loss'] - 1) < LOGITS_BOUND


def test_bfloat16_activations_take_eight_bit_kernels():
    """int8 adds less to bfloat16's own error than that error is."""
    ours, wide, wanted = (tiny_answers(dtype=jnp.bfloat16),
                          tiny_answers(quantised=False, dtype=jnp.bfloat16),
                          tiny_answers(quantised=False))
    assert ours['logits'].dtype == jnp.float32
    error = relative_error(ours['logits'], wanted['logits'])
    assert error < 2 * relative_error(wide['logits'], wanted['logits']) + LOGITS_BOUND


def test_scanned_equals_unrolled():
    ours, wanted = tiny_answers(scan_layers=True), tiny_answers(scan_layers=False)
    for name in wanted:
        assert relative_error(ours[name], wanted[name]) < 1e-5, name


def test_without_a_prompt_too():
    stored = tiny_int8()
    ours = answers(T5(TINY), stored, rows=0)
    assert ours['gradient'].shape == (0, TINY.d_model)
    batch = reference.as_batch(reference.make_inputs(TINY), TINY.vocab_size)
    batch['encoder_input_tokens'] = batch['encoder_input_tokens'][:, reference.NUM_ROWS:]
    model = T5(TINY)

    @jax.jit
    def plain(frozen):
        ids = batch['encoder_input_tokens']
        encoded = model.encode(frozen, model.embed(frozen, ids), ids != 0)
        hidden = model.decode(frozen, model.embed(frozen, batch['decoder_input_tokens']), encoded,
                              ids != 0)
        return model.logits(frozen, hidden)

    np.testing.assert_array_equal(ours['logits'], plain(stored))


@pytest.mark.parametrize('shape', ['t5_1_1', 'umt5_tied'])
def test_cached_decoding_equals_decoding_at_once(shape):
    config = reference.make_config(shape)
    model, data = T5(config), reference.make_inputs(config)
    stored = quantise_tree(reference.make_frozen(config))
    mask = data['ids'] != 0

    @jax.jit
    def at_once(stored):
        encoded = model.encode(stored, model.embed(stored, data['ids']), mask)
        inputs_BLD = model.embed(stored, data['inputs'])
        wanted = model.logits(stored, model.decode(stored, inputs_BLD, encoded, mask))
        return inputs_BLD, wanted, model.init_cache(stored, encoded, mask, inputs_BLD.shape[1])

    @jax.jit
    def step(stored, input_B1D, cache):
        hidden, cache = model.decode_step(stored, input_B1D, cache)
        return model.logits(stored, hidden)[:, 0], cache

    inputs_BLD, wanted, cache = at_once(stored)
    for position in range(inputs_BLD.shape[1]):
        logits, cache = step(stored, inputs_BLD[:, position:position + 1], cache)
        assert relative_error(logits, wanted[:, position]) < 2e-5


# What is compiled.


@pytest.mark.parametrize('remat', [
    'none', *(pytest.param(remat, marks=pytest.mark.slow) for remat in ('dots', 'full'))])
def test_no_stack_of_kernels_is_ever_wide(remat):
    """Neither read before the loop nor kept for the backward pass; one layer alone is."""
    config = dataclasses.replace(TINY, num_layers=5, num_decoder_layers=7)
    model = T5(config, remat=remat)
    shapes = param_shapes(model)
    batch = reference.as_batch(reference.make_inputs(config), config.vocab_size)

    def loss(prompt_PD, frozen):
        logits_BLV = score(model, frozen, Prompt(prompt_PD), batch)
        return token_loss(logits_BLV, batch['decoder_target_tokens'],
                          batch['decoder_loss_weights'], 0.0)[0]

    prompt = jax.ShapeDtypeStruct((reference.NUM_ROWS, config.d_model), jnp.float32)
    stacks = {leaf.shape for path, leaf in paths(shapes).items()
              if path.endswith('kernel') and '/layers/' in path}

    def wide_stacks(frozen) -> set[tuple[int, ...]]:
        text = jax.jit(jax.grad(loss)).lower(prompt, frozen).compile().as_text()
        found = {tuple(map(int, dims.split(','))) for dims in
                 re.findall(r'\b(?:f32|bf16|f16|f64)\[([\d,]+)\]', text)}
        return found & stacks

    assert wide_stacks(shapes), 'the plain model reads its stacks: the search must find them'
    assert not wide_stacks(quantised_shapes(shapes))


def test_an_int8_is_a_node_that_maps_and_scans():
    stored = Int8(jnp.ones((3, 2, 4), jnp.int8), jnp.full((3, 1, 4), 2.0))
    assert stored.nbytes == 3 * 8 + 3 * 4 * 4
    _, sums = jax.lax.scan(lambda carry, one: (carry, widen(one, jnp.float32).sum()), 0, stored)
    np.testing.assert_array_equal(sums, [16.0] * 3)
