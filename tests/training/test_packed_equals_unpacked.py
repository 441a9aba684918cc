"""A packed batch gives what its examples give unpacked: loss, logits, gradient, training."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.data.examples import Examples
from jax_prompt.data.features import FeatureConverter, Features
from jax_prompt.data.packing import (
    Packing,
    choose_packing,
    packed_train_batches,
)
from jax_prompt.data.ragged import Ragged
from jax_prompt.models.forward import score
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.methods.direct import direct
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.training.optimizers import adafactor
from jax_prompt.training.step import init_state, make_train_step, token_loss
from tests.models.t5.random_weights import init

# Heads are so wide that the cross-attention of unpacked rows takes its short way, which that of
# packed rows, with more decoder positions, does not.
CONFIG = dict(vocab_size=41, d_model=16, d_kv=12, d_ff=24, num_heads=2, num_layers=2,
              num_decoder_layers=2, relative_attention_num_buckets=8,
              relative_attention_max_distance=20)
SHAPES = {
    't5-1.1': {},
    't5-1.0': dict(activation='relu', gated=False, tied_head=True, scale_decoder_outputs=True),
    'umt5': dict(per_layer_relative_bias=True),
}
BATCH = 8
#: Of packed results from unpacked ones, relative to the largest. They are for rounding: thirty
#: more pads behind unpacked rows already change their gradient by 1.6e-6.
TOLERANCE, GRADIENT_TOLERANCE = 2e-6, 4e-6


class Case(NamedTuple):
    model: T5
    frozen: dict
    prompt: jax.Array
    features: Features
    packing: Packing


@functools.cache
def make_case(shape: str, layout: Layout, num_rows: int) -> Case:
    model = T5(T5Config(**CONFIG | SHAPES[shape], name=shape))
    draw = np.random.default_rng(3)

    def texts(longest):
        return Ragged.from_sequences(draw.integers(2, 41, draw.integers(1, longest)).tolist()
                                     for _ in range(3 * BATCH))

    converter = FeatureConverter(layout=layout, num_rows=num_rows, vocab_size=41)
    features = converter.convert(Examples('toy', texts(14), texts(5)))
    packing = choose_packing(features, BATCH)
    # Several in a row, not as many in each, and pads: or these tests would show little.
    assert 1 < packing.segments and packing.rows < BATCH / 2 + 1
    frozen = jax.jit(lambda: init(model, jax.random.key(0)))()
    prompt = jnp.asarray(draw.normal(size=(num_rows, 16)), jnp.float32)
    return Case(model, frozen, prompt, features, packing)


CASES = {
    'before': ('t5-1.1', Layout('before'), 3),
    'after the text': ('t5-1.1', Layout('after'), 3),
    'after the end': ('t5-1.1', Layout('after', after_end=True), 3),
    'around': ('t5-1.1', Layout('around'), 3),
    'no prompt': ('t5-1.1', Layout(), 0),
    'T5 1.0': ('t5-1.0', Layout(), 3),
    'umT5, around': ('umt5', Layout('around'), 3),
}


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return make_case(*CASES[request.param])


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(model, prompt, frozen, batch):
    def loss(prompt):
        logits = score(model, frozen, Prompt(prompt), batch)
        total, metrics = token_loss(logits, batch['decoder_target_tokens'],
                                    batch['decoder_loss_weights'])
        return total, (metrics, logits)

    return jax.value_and_grad(loss, has_aux=True)(prompt)


def assert_close(packed, unpacked, tolerance=TOLERANCE):
    packed, unpacked = np.asarray(packed), np.asarray(unpacked)
    np.testing.assert_allclose(packed, unpacked, rtol=0,
                               atol=tolerance * np.abs(unpacked).max(initial=1e-30))


def both_batches(case, steps=3, seed=0):
    """Yield packed batches, and the same examples one a row."""
    packing, features = case.packing, case.features
    for batch in itertools.islice(packed_train_batches(features, BATCH, seed, packing), steps):
        yield batch, features.batch(members(batch, features), int(features.lengths.max()))


def members(batch, features):
    """Find which examples are in a packed batch, row by row."""
    known = {(features.encoder[i].tobytes(), features.targets[i].tobytes()): i
             for i in range(len(features))}
    found = []
    for ids, segments, targets, target_segments in zip(
            batch['encoder_input_tokens'], batch['encoder_segment_ids'],
            batch['decoder_target_tokens'], batch['decoder_segment_ids'], strict=True):
        found += [known[ids[segments == i].tobytes(), targets[target_segments == i].tobytes()]
                  for i in range(1, segments.max() + 1)]
    assert len(found) == BATCH
    return found


def test_loss_logits_and_prompt_gradient(case):
    for packed, unpacked in both_batches(case):
        assert packed['encoder_input_tokens'].shape[0] < BATCH
        (loss, (metrics, logits)), gradient = loss_and_gradient(case.model, case.prompt,
                                                                case.frozen, packed)
        (alone, (wanted, each)), summed = loss_and_gradient(case.model, case.prompt, case.frozen,
                                                            unpacked)
        assert_close(loss, alone)
        assert_close(logits[packed['decoder_loss_weights'] > 0],
                     each[unpacked['decoder_loss_weights'] > 0])
        assert_close(gradient, summed, GRADIENT_TOLERANCE)
        assert gradient.shape == (len(case.prompt), 16)
        assert not gradient.size or np.abs(gradient).min() > 0
        for name, value in wanted.items():
            assert_close(metrics[name], value)


def test_neighbours_change_not_one_bit():
    case = make_case(*CASES['before'])
    packed, _ = next(both_batches(case))
    other = dict(packed)
    for key, segments in (('encoder_input_tokens', 'encoder_segment_ids'),
                          ('decoder_input_tokens', 'decoder_segment_ids')):
        other[key] = np.where(packed[segments] == 2, 7, packed[key])
    before, after = (np.asarray(loss_and_gradient(case.model, case.prompt, case.frozen, batch)
                                [0][1][1]) for batch in (packed, other))
    changed = packed['decoder_segment_ids'] == 2
    neighbours = (packed['decoder_segment_ids'] > 0) & ~changed
    np.testing.assert_array_equal(before[neighbours], after[neighbours])
    assert not np.isclose(before[changed], after[changed]).all()


def test_training_goes_the_same_way():
    case = make_case(*CASES['before'])
    method, optimizer = direct(), adafactor()
    step = make_train_step(case.model, method, optimizer)
    prompts = []
    for number in range(2):
        state = init_state({'prompt': jnp.copy(case.prompt)}, optimizer)
        for batches in both_batches(case, steps=6, seed=4):
            state, _ = step(state, case.frozen, batches[number])
        prompts.append(np.asarray(state.params['prompt']))
    np.testing.assert_allclose(*prompts, rtol=1e-4, atol=1e-4)
    assert np.abs(prompts[0] - case.prompt).max() > 0.1
