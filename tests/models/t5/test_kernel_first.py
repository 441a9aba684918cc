"""The copy that generation on a CPU reads gives what the plain tree gives."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.inference.generate import make_generator
from jax_prompt.models.open import OpenedModel
from jax_prompt.models.t5.int8 import quantise_tree
from jax_prompt.models.t5.kernel_first import (
    STEPS,
    KernelFirst,
    with_layers_apart,
    with_steps,
)
from jax_prompt.models.t5.products import Precision
from tests.inference.conftest import SHAPES, make_case
from tests.inference.whole import make_beam_generator

LENGTH = 7


QUICK = [('umt5', make_generator)]


@pytest.mark.parametrize('shape, make', [*QUICK, *(
    pytest.param(*case, marks=pytest.mark.slow) for case in itertools.product(
        sorted(SHAPES), (make_generator, make_beam_generator)) if case not in QUICK)])
def test_tokens_are_those_of_the_plain_tree(shape, make):
    case = make_case(shape)
    expected = make(dataclasses.replace(case.model, scan_layers=True), LENGTH)(
        case.frozen, case.prompt, case.ids(True))
    generate = make(dataclasses.replace(case.model, scan_layers=False), LENGTH)
    for frozen in (case.frozen, with_steps(case.frozen)):
        np.testing.assert_array_equal(generate(frozen, case.prompt, case.ids(True)), expected)


@pytest.mark.parametrize('shape', ['t5-1.0', 't5-1.1'])
def test_logits_are_those_of_the_plain_tree(shape):
    case = make_case(shape)
    encoded = jax.random.normal(jax.random.key(0), (3, 5, case.model.config.d_model))
    hidden = jax.random.normal(jax.random.key(1), (3, 1, case.model.config.d_model))

    @functools.partial(jax.jit, static_argnums=0)
    def logits(model, frozen):
        cache = model.init_cache(frozen, encoded, jnp.ones((3, 5), bool), 2)
        step, cache = model.decode_step(frozen, hidden, cache)
        return model.step_logits(frozen, step[:, 0], cache)

    plain = logits(case.model, case.frozen)
    model = dataclasses.replace(case.model, scan_layers=False)
    np.testing.assert_allclose(logits(model, with_steps(case.frozen)), plain, rtol=2e-6, atol=2e-5)
    assert plain.shape == (case.model.config.vocab_size, 3)


def test_one_row_of_rounded_factors_is_decoded_as_it_is_among_others():
    """It is multiplied twice, since that is quicker, and rounded as all are."""
    case = make_case('t5-1.1')
    frozen = with_steps(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), case.frozen))
    model = dataclasses.replace(case.model, scan_layers=False, factors=jnp.bfloat16)
    encoded = jax.random.normal(jax.random.key(0), (3, 5, model.d_model))

    @jax.jit
    def logits(encoded):
        rows = len(encoded)
        cache = model.init_cache(frozen, encoded, jnp.ones((rows, 5), bool), 2)
        hidden = model.embed(frozen, jnp.full((rows, 1), 3))
        step, cache = model.decode_step(frozen, hidden, cache)
        return model.step_logits(frozen, step[:, 0], cache)

    np.testing.assert_allclose(logits(encoded[:1]), logits(encoded)[:, :1], rtol=1e-4, atol=1e-4)


def test_eight_bit_kernels_stay_what_they_are():
    case = make_case('t5-1.1')
    model = dataclasses.replace(case.model, scan_layers=False)
    frozen = quantise_tree(case.frozen)
    generate = make_generator(model, LENGTH)
    prepared = with_steps(frozen)
    np.testing.assert_array_equal(generate(prepared, case.prompt, case.ids(True)),
                                  generate(frozen, case.prompt, case.ids(True)))
    values = prepared[STEPS]['layers'][0]['feed_forward']['wi_0']['kernel'].values
    assert values.dtype == jnp.int8


def test_the_rest_of_the_tree_is_not_copied():
    frozen = make_case('t5-1.1').frozen
    prepared = with_steps(frozen)
    assert prepared['token_embedder']['embedding'] is frozen['token_embedder']['embedding']
    assert prepared['lm_head'] is frozen['lm_head']
    kernel = frozen['decoder']['layers']['feed_forward']['wo']['kernel']
    stored = prepared[STEPS]['layers'][1]['feed_forward']['wo']['kernel']
    np.testing.assert_array_equal(stored, kernel[1].T)


@pytest.mark.parametrize('backend, scan, copied', [
    ('cpu', False, True), ('cpu', True, False), ('gpu', False, False), ('tpu', True, False)])
def test_weights_are_copied_on_a_cpu_alone(monkeypatch, backend, scan, copied):
    case = make_case('t5-1.1')
    opened = OpenedModel(dataclasses.replace(case.model, scan_layers=scan), case.frozen, None, None,
                         'a', 'a', 'a', 'a')
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    assert (STEPS in opened.for_generation) == copied


def test_layers_apart_are_the_memory_of_the_stack():
    frozen = {name: jax.tree.map(jnp.asarray, leaf)
              for name, leaf in make_case('t5-1.1').frozen.items()}
    for stack in ('encoder', 'decoder'):
        kernel = jnp.ones((2, 16, 64))  # aligned, as those of real models are
        frozen[stack]['layers']['feed_forward']['wo']['kernel'] = kernel
        apart = with_layers_apart(frozen)[stack]['layers']
        assert len(apart) == 2
        for number, layer in enumerate(apart):
            assert (layer['feed_forward']['wo']['kernel'].unsafe_buffer_pointer()
                    == kernel.unsafe_buffer_pointer() + number * 16 * 64 * 4)
        np.testing.assert_array_equal(apart[1]['self_attention']['norm']['scale'],
                                      frozen[stack]['layers']['self_attention']['norm']['scale'][1])



@pytest.mark.parametrize('equation, kernel', [
    ('BSD,DHK->BSHK', (4, 2, 3)), ('BHSK,HKD->BSD', (2, 3, 4)), ('BSD,DF->BSF', (4, 6))])
def test_a_product_is_the_einsum(equation, kernel):
    sizes = dict(zip('BSHKDF', (5, 1, 2, 3, 4, 6), strict=True))
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=[sizes[letter] for letter in equation.split(',')[0]])
    weights = draw.normal(size=kernel)
    np.testing.assert_allclose(
        KernelFirst(jnp.asarray(weights)).product(equation, jnp.asarray(inputs),
                                                 Precision(jnp.float32)),
        np.einsum(equation, inputs, weights), rtol=1e-5, atol=1e-5)
