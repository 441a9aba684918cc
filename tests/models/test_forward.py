"""The way in: virtual tokens, pads, packing and dropout reach the encoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.models import forward
from jax_prompt.prompts.prompt import Prompt
from tests.inference.conftest import make_case

encode = functools.partial(jax.jit, static_argnums=0)(forward.encode)


@pytest.fixture(scope='module')
def one_case():
    return make_case('t5-1.1')


def test_virtual_tokens_are_the_prompt_joined_to_the_text(one_case):
    case = one_case
    ids = case.ids(prompted=True)
    encoded, mask = encode(case.model, case.frozen, case.prompt, ids)
    text = case.model.embed(case.frozen, case.ids(prompted=False, width=12))
    prompt = jnp.broadcast_to(case.prompt.rows, (len(ids), *case.prompt.rows.shape))
    joined = jnp.concatenate([prompt, text], axis=1)
    by_hand = jax.jit(case.model.encode)(case.frozen, joined, ids != 0)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, ids != 0)
    np.testing.assert_allclose(encoded, by_hand, rtol=1e-5, atol=1e-5)


def test_without_virtual_tokens_it_is_plain_t5_to_the_last_bit(one_case):
    model, ids = one_case.model, one_case.ids(prompted=False)
    plain = jax.jit(lambda frozen: model.encode(frozen, model.embed(frozen, ids), ids != 0))
    for prompt in (Prompt(one_case.prompt.rows[:0]), one_case.prompt):
        encoded, _ = encode(model, one_case.frozen, prompt, ids)
        np.testing.assert_array_equal(encoded, plain(one_case.frozen))


def test_packed_rows_see_their_own_segment_alone(one_case):
    model, frozen, prompt = one_case.model, one_case.frozen, one_case.prompt
    first, second = one_case.texts[2], one_case.texts[3]
    ids = np.array([first + second], np.int32)
    segments = np.array([[1] * len(first) + [2] * len(second)], np.int32)
    packed, _ = encode(model, frozen, prompt, ids, None, segments)
    alone, _ = encode(model, frozen, prompt, np.array([second], np.int32))
    np.testing.assert_allclose(packed[:, len(first):], alone, rtol=1e-5, atol=1e-5)


def test_a_dropout_key_switches_dropout_on(one_case):
    model = dataclasses.replace(one_case.model, dropout_rate=0.5)
    arguments = (one_case.frozen, one_case.prompt, one_case.ids(prompted=True))
    still, _ = encode(model, *arguments)
    without, _ = encode(one_case.model, *arguments)
    dropped, _ = encode(model, *arguments, jax.random.key(0))
    np.testing.assert_array_equal(still, without)
    assert not np.allclose(still, dropped)
