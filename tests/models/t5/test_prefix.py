"""Prefixes: keys and values in front of those that the layers compute, as in PyTorch's T5."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.inference.generate import next_logits
from jax_prompt.models.base import Prefix
from jax_prompt.models.forward import encode, prefix_of, score
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.prompt import Prompt
from tests.models.t5 import reference
from tests.models.t5.prefix_reference import STACKS, make_prefix, our_answers, torch_answers
from tests.models.t5.test_against_pytorch import assert_close


def short(data):
    """Cut targets so short that cross-attention takes the queries to the encoder's width."""
    return data | {name: data[name][:, :2] for name in ('targets', 'weights', 'inputs')}


@functools.cache
def tiny(shape='t5_1_1', **options):
    config = reference.make_config(shape)
    return T5(config, **options), jax.tree.map(jnp.asarray, reference.make_frozen(config))


@pytest.mark.parametrize('shape, stacks, cut', [
    ('t5_1_1', STACKS, short), ('umt5', STACKS, dict), *(
        pytest.param(*case, marks=pytest.mark.slow) for case in (
            ('byt5', ('encoder',), dict), ('t5_1_1', ('decoder',), dict),
            ('byt5', ('cross',), short), ('byt5', STACKS, short), ('t5_1_0', STACKS, dict)))])
def test_logits_and_gradients_are_those_of_concatenation_in_pytorch(shape, stacks, cut):
    pytest.importorskip('torch', reason='PyTorch is not installed')
    config = reference.make_config(shape)
    assert config.num_heads * config.d_kv != config.d_model
    data, prefix = cut(reference.make_inputs(config)), make_prefix(config, stacks)
    ours = our_answers(config, prefix, data)
    # As XLA compiles elsewhere the largest of these differences is 7e-6; tests do not optimise.
    assert_close(ours, torch_answers(config, prefix, data), 4e-5)
    plain = our_answers(config, {}, data)
    assert np.abs(ours['logits'] - plain['logits']).max() > 0.1


@pytest.mark.parametrize('options', [
    dict(remat='full'), pytest.param(dict(scan_layers=False), marks=pytest.mark.slow),
    pytest.param(dict(remat='dots'), marks=pytest.mark.slow),
    pytest.param(dict(scan_layers=False, remat='full'), marks=pytest.mark.slow)], ids=str)
def test_the_way_the_layers_run_changes_nothing(options):
    config = reference.make_config('umt5')
    data, prefix = reference.make_inputs(config), make_prefix(config)
    assert_close(our_answers(config, prefix, data, **options), our_answers(config, prefix, data))


@functools.partial(jax.jit, static_argnums=0)
def logits_of(model, frozen, prompt, batch):
    return score(model, frozen, prompt, batch)


def test_each_row_of_a_batch_uses_its_own_prompt():
    model, frozen = tiny()
    data = reference.make_inputs(model.config)
    batch = reference.as_batch(data, model.vocab_size)
    prefix = make_prefix(model.config, prompts=3)
    mixed = logits_of(model, frozen, Prompt(data['prompt'], prefix=prefix),
                      batch | {'prompt_ids': np.array([2, 0, 2])})
    parts = logits_of(model, frozen, Prompt(data['prompt'], prefix=prefix), batch)
    for row, (mine, part) in enumerate(((2, 0), (0, 1), (2, 2))):
        for got, prompt in ((mixed, mine), (parts, part)):
            own = {stack: tuple(one[prompt:prompt + 1] for one in keys_values)
                   for stack, keys_values in prefix.items()}
            alone = logits_of(model, frozen, Prompt(data['prompt'], prefix=own), batch)
            np.testing.assert_allclose(got[row], alone[row], rtol=2e-5, atol=2e-5)


def test_the_gradient_of_a_prompt_is_that_of_its_rows():
    model, frozen = tiny()
    data = reference.make_inputs(model.config)
    batch = reference.as_batch(data, model.vocab_size)
    prefix, ids = make_prefix(model.config, prompts=2), np.array([1, 0, 1])
    weight = np.random.default_rng(0).standard_normal((3, 1, 1)).astype(np.float32)

    @jax.jit
    @jax.grad
    def gradient(prefix, ids):
        prompt = Prompt(data['prompt'], prefix=prefix)
        logits = score(model, frozen, prompt, batch | {'prompt_ids': ids})
        return jnp.sum(logits * weight * batch['decoder_input_tokens'][..., None])

    by_row = jax.tree.map(lambda one: np.repeat(one[ids[:, None]][:, 0], 1, 0), prefix)
    whole, apart = gradient(prefix, ids), gradient(by_row, np.arange(3))
    for one, rows in zip(jax.tree.leaves(whole), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(one[0], rows[1], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(one[1], rows[0] + rows[2], rtol=1e-4, atol=1e-4)


def test_a_row_sees_as_many_positions_as_it_is_told():
    model, frozen = tiny()
    ids = reference.make_inputs(model.config)['ids']
    prefix = make_prefix(model.config)
    longer = jax.tree.map(lambda one: jnp.pad(one, [(0, 0)] * 3 + [(0, 2), (0, 0)],
                                              constant_values=1e3), prefix)
    lengths = {stack: jnp.array([3, 0, 3]) for stack in STACKS}
    rows = Prompt(jnp.zeros((0, model.d_model)))
    run = jax.jit(lambda prefix: encode(model, frozen, rows, ids, prefix=prefix)[0])
    found = run(Prefix(longer, None, lengths))
    np.testing.assert_allclose(found[::2], run(Prefix(prefix))[::2], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(found[1], run(None)[1], rtol=2e-5, atol=2e-5)


def test_packed_rows_see_it_as_rows_of_their_own_do():
    model, frozen = tiny()
    data = reference.make_inputs(model.config)
    prompt = Prompt(jnp.zeros((0, model.d_model)), prefix=make_prefix(model.config))
    lengths, size = (26, 9, 17), 5
    batch = {'encoder_input_tokens': data['ids'], 'decoder_input_tokens': data['inputs']}
    packed = {'encoder_input_tokens': np.concatenate(
        [ids[:length] for ids, length in zip(data['ids'], lengths, strict=True)])[None],
        'decoder_input_tokens': data['inputs'].reshape(1, -1),
        'encoder_segment_ids': np.repeat([1, 2, 3], lengths)[None],
        'decoder_segment_ids': np.repeat([1, 2, 3], size)[None]}
    apart, together = (logits_of(model, frozen, prompt, one) for one in (batch, packed))
    np.testing.assert_allclose(together.reshape(apart.shape), apart, rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize('shape, scan', [('t5_1_1', True), ('umt5', False), ('byt5', False)])
def test_cached_decoding_gives_the_logits_of_training(shape, scan):
    model, frozen = tiny(shape, scan_layers=scan)
    data = reference.make_inputs(model.config)
    batch = reference.as_batch(data, model.vocab_size)
    prompt = Prompt(data['prompt'], prefix=make_prefix(model.config, prompts=2))
    ids = np.array([1, 0, 1])

    @jax.jit
    def cached(frozen, prompt):
        prefix = prefix_of(model, prompt, ids)
        encoded, mask = encode(model, frozen, prompt, batch['encoder_input_tokens'], prefix=prefix)

        def step(cache, last):
            logits, cache = next_logits(model, frozen, last, cache)
            return cache, logits

        cache = model.init_cache(frozen, encoded, mask, 5, prefix)
        return jax.lax.scan(step, cache, data['inputs'].T)[1].transpose(2, 0, 1)

    whole = logits_of(model, frozen, prompt, batch | {'prompt_ids': ids})
    np.testing.assert_allclose(cached(frozen, prompt), whole, rtol=5e-5, atol=5e-5)


def test_a_prefix_of_another_model_is_refused():
    model, frozen = tiny()
    other = make_prefix(reference.make_config('byt5'), ('encoder',))
    with pytest.raises(ValueError, match="prefix of 5 layers, 4 heads of width 5 for 'encoder' but "
                                         't5_1_1 has 3 layers, 4 heads of width 5; choose a'):
        prefix_of(model, Prompt(np.zeros((0, model.d_model)), prefix=other))


def test_the_fused_kernel_has_no_place_for_an_encoders_prefix():
    model = T5(reference.make_config('t5_1_1').__class__(
        vocab_size=37, d_model=24, d_kv=8, d_ff=40, num_heads=4, num_layers=1,
        num_decoder_layers=1), dtype=jnp.bfloat16, attention='cudnn')
    prefix = Prefix(make_prefix(model.config, ('encoder',)))
    with pytest.raises(ValueError, match="no place for the prefix of an encoder; choose attention"):
        model.encode({'encoder': {}}, jnp.zeros((1, 2, 24)), jnp.ones((1, 2), bool), prefix=prefix)
