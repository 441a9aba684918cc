"""Products of bfloat16 factors into float32: what they give, forward and backward, and where."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.data.tasks.reviews import rotten_tomatoes
from jax_prompt.models.forward import score
from jax_prompt.models.open import open_model
from jax_prompt.models.t5 import products
from jax_prompt.models.t5.int8 import quantise_tree
from jax_prompt.models.t5.model import T5
from jax_prompt.models.t5.products import Precision, attend_rounded, bfloat16_is_faster
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.training.step import token_loss
from tests.models.t5 import reference

ROUNDED = Precision(jnp.float32, jnp.bfloat16)


def rounded(array):
    return np.asarray(jnp.asarray(array).astype(jnp.bfloat16).astype(jnp.float32))


@pytest.mark.parametrize('equation, left, right', [
    ('BSD,DHK->BSHK', (2, 3, 8), (8, 2, 5)), ('BHSK,BHTK->BHST', (2, 2, 3, 5), (2, 2, 4, 5))])
def test_a_product_and_its_gradients_are_those_of_rounded_factors(equation, left, right):
    draw = np.random.default_rng(0).standard_normal
    left, right = (draw(shape).astype(np.float32) for shape in (left, right))
    result, pull_back = jax.vjp(functools.partial(ROUNDED.multiply, equation), left,
                                jnp.asarray(right, jnp.bfloat16))
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, np.einsum(equation, rounded(left), rounded(right)),
                               rtol=1e-5, atol=1e-5)
    gradient = draw(result.shape).astype(np.float32)
    first, second, last = equation.replace('->', ',').split(',')
    to_left, to_right = pull_back(gradient)
    assert (to_left.dtype, to_right.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(
        to_left, np.einsum(f'{last},{second}->{first}', rounded(gradient), rounded(right)),
        rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        to_right.astype(jnp.float32),
        np.einsum(f'{first},{last}->{second}', rounded(left), rounded(gradient)),
        rtol=1e-2, atol=1e-2)


def test_attention_of_rounded_factors_and_its_gradients_are_those_of_float32_but_for_rounding():
    draw = np.random.default_rng(0).standard_normal
    query, keys, values, gradient = (jnp.asarray(rounded(draw(shape))) for shape in (
        (2, 5, 3, 4), (2, 7, 3, 4), (2, 7, 3, 4), (2, 5, 3, 4)))
    biases = tuple(jnp.asarray(draw(shape), jnp.float32) for shape in (
        (1, 3, 5, 7), (2, 1, 1, 7), (5, 7)))

    def plain(query, keys, values, biases):
        logits = jnp.einsum('BSHK,BTHK->BHST', query, keys) + sum(biases)
        return jnp.einsum('BHST,BTHK->BSHK', jax.nn.softmax(logits, -1), values)

    ours, pull_back = jax.vjp(functools.partial(attend_rounded, jnp.bfloat16),
                              query, keys, values, biases)
    wanted, wanted_back = jax.vjp(plain, query, keys, values, biases)
    for found, want in zip(jax.tree.leaves((ours, pull_back(gradient))),
                           jax.tree.leaves((wanted, wanted_back(gradient))), strict=True):
        assert found.dtype == jnp.float32 and found.shape == want.shape
        assert 1e-7 < _error(found, want) < 1e-2


def test_rows_of_a_table_and_their_gradient_are_those_of_a_lookup():
    table = jax.random.normal(jax.random.key(0), (7, 4), jnp.bfloat16)
    ids, gradient = jnp.asarray([[1, 6], [1, 0]]), jnp.ones((2, 2, 4), jnp.bfloat16)
    ours, pull_back = jax.vjp(lambda table: products.rounded_rows(table, ids), table)
    wanted, wanted_back = jax.vjp(lambda table: jnp.take(table, ids, axis=0), table)
    np.testing.assert_array_equal(ours, wanted)
    np.testing.assert_array_equal(pull_back(gradient)[0], wanted_back(gradient)[0])


def _loss(model, frozen, prompt_PD, data):
    batch = reference.as_batch(data, model.vocab_size)
    return token_loss(score(model, frozen, Prompt(prompt_PD), batch),
                      batch['decoder_target_tokens'], batch['decoder_loss_weights'])[0]


def _error(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def _tiny():
    config = reference.make_config('t5_1_1')
    return config, reference.make_frozen(config), [reference.make_inputs(config)]


def _demo():
    """The demo's model, on five batches of sentences that are cut to one length."""
    opened = open_model('package:traceforge_title_model/data/span')
    frozen = jax.tree.map(np.asarray, opened.frozen)
    texts = list(itertools.islice(rotten_tomatoes().texts('test'), 40))
    return opened.model.config, frozen, [
        _batch(texts[first:first + 8], opened.vocabulary, frozen) for first in range(0, 40, 8)]


def _batch(texts, vocabulary, frozen):
    ids = np.zeros((8, 17), np.int32)
    for row, (text, _) in zip(ids, texts, strict=True):
        tokens = vocabulary.encode(text)[:16] + [1]
        row[:len(tokens)] = tokens
    targets = np.asarray([vocabulary.encode(label)[:1] + [1] for _, label in texts], np.int32)
    return {'ids': ids, 'targets': targets, 'weights': np.ones((8, 2), np.float32),
            'inputs': np.pad(targets[:, :1], ((0, 0), (1, 0))),
            'prompt': frozen['token_embedder']['embedding'][[100, 900, 1700, 2500]]}


@pytest.mark.parametrize('make, share', [
    (_tiny, 1.0), pytest.param(_demo, 0.5, marks=pytest.mark.slow)])
def test_gradients_are_nearer_to_float32_than_those_of_pytorch_in_bfloat16(make, share):
    """With the same weights, held in bfloat16: what is rounded once is not what is compared.

    In the tiny model everything is drawn large, so that roundings grow from layer to layer. A
    single batch may hold an example on whose every bit the gradient hangs, hence the median.
    """
    torch = pytest.importorskip('torch', reason='PyTorch is not installed')
    config, frozen, batches = make()
    held = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), frozen)
    model, errors = T5(config, factors=jnp.bfloat16), []
    for data in batches:
        wanted, theirs = (reference.torch_answers(config, frozen, data, torch.bfloat16, dtype)[
            'gradient'] for dtype in (torch.float32, torch.bfloat16))
        ours = jax.jit(jax.grad(functools.partial(_loss, model, data=data), argnums=1))(
            held, data['prompt'])
        errors.append((_error(ours, wanted), _error(theirs, wanted)))
    ours, torchs = np.median(errors, axis=0)
    assert 1e-4 < ours < share * torchs


@pytest.mark.parametrize('int8', [False, True])
def test_no_product_of_a_step_has_a_factor_in_float32_but_that_with_the_prompt(int8):
    """One that has does not run on the units; the prompt's rows are not to be rounded."""
    config = reference.make_config('umt5')
    frozen = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16),
                          reference.make_frozen(config))
    model = T5(config, factors=jnp.bfloat16)
    data = reference.make_inputs(config)
    step = jax.grad(functools.partial(
        _loss, model, quantise_tree(frozen) if int8 else frozen, data=data))
    kinds = {}
    for line in jax.jit(step).lower(data['prompt']).as_text().splitlines():
        if 'stablehlo.dot_general' in line:
            types = line.rpartition(' : ')[2]
            kinds[types] = types.count('bf16>')
    assert len(kinds) > 8 and sorted(kinds.values())[1:] == [2] * (len(kinds) - 1)
    (wide,) = [types for types, count in kinds.items() if count != 2]
    assert f'x{reference.NUM_ROWS}x' in wide


def test_the_faster_dtype_is_the_one_that_took_less_time(monkeypatch):
    assert bfloat16_is_faster() in (False, True)
    for seconds, faster in (((2.0, 1.0), True), ((1.0, 1.0), False), ((1.0, 2.0), False)):
        taken = dict(zip((jnp.float32, jnp.bfloat16), seconds, strict=True))
        monkeypatch.setattr(products, '_seconds', lambda _, one, __, taken=taken: taken[
            one.dtype.type])
        assert bfloat16_is_faster() is faster
