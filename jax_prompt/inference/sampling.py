"""Sampling: tokens drawn from the model's distribution, cut and sharpened as each request asks.

Every row of a batch has its own temperature, top-k, top-p and seed, so that one compiled program
serves mixed requests; temperature 0 is greedy. A row's randomness comes from its seed and the
position alone: neither its neighbours nor its place in the batch change what is drawn.

The filters keep what transformers' TemperatureLogitsWarper, TopKLogitsWarper and TopPLogitsWarper
keep, in that order, but without sorting the vocabulary: both cuts ask for the highest threshold
above which enough weight lies (k tokens, or the mass p), which is read from the few largest logits
or, where those do not reach, found by bisection. Ties at a threshold are kept, all of them.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.inference.generate import (
    NOT_FINITE,
    Limits,
    check_limits,
    decode_tokens,
    largest,
    likeliest,
    stack_limits,
)
from jax_prompt.models.base import Model, Prefix
from jax_prompt.types import Array, Params

#: How many of the largest logits are sorted to look for a threshold; beyond them it is bisected.
_WINDOW = 128
#: Tokens that are drawn from together, in two draws (which block, which of it): a sum over the
#: whole vocabulary in a row would lose the unlikely tokens to rounding.
_BLOCK = 128
_LOWEST = np.int32(-2**31)


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """What one request asks for; it can be put into a batch with any other.

    Attributes:
      temperature: divides the logits; 0 for greedy, which leaves the rest without effect.
      top_k: draw from the k likeliest tokens; 0 for all.
      top_p: draw from the fewest tokens, likeliest first, whose probabilities after the first two
        filters sum to at least p; 1 for all. 0 leaves the likeliest token.
      seed: from 0 to 2**32 - 1; the same seed and input give the same output.
      min_tokens: the end token is not drawn before so many tokens stand.
      max_tokens: at most so many tokens, the end token included; None for what was compiled.

    Raises:
      ValueError: for a setting outside its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    min_tokens: int = 0
    max_tokens: int | None = None

    def __post_init__(self):
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f'temperature={self.temperature}; expected a number from 0 (greedy)')
        if self.top_k < 0:
            raise ValueError(f'top_k={self.top_k}; expected a number of tokens, or 0 for all')
        if not 0 <= self.top_p <= 1:
            raise ValueError(f'top_p={self.top_p}; expected a probability from 0 to 1 (all)')
        if not 0 <= self.seed < 2**32:
            raise ValueError(f'seed={self.seed}; expected a number from 0 to {2**32 - 1}')
        check_limits(self.min_tokens, self.max_tokens)


class SamplingRows(NamedTuple):
    """The settings of a batch's rows, as arrays.

    Attributes:
      seed_B: uint32[B].
      temperature_B: float32[B].
      top_k_B: int32[B].
      top_p_B: float32[B].
      limits: each row's number of tokens.
    """

    seed_B: Array
    temperature_B: Array
    top_k_B: Array
    top_p_B: Array
    limits: Limits


def stack_settings(settings: Sequence[SamplingSettings], max_length: int) -> SamplingRows:
    """Put a batch's settings into arrays.

    Args:
      settings: one a row; `SamplingSettings()` will do for a filler.
      max_length: of the sampler that they are for.

    Returns:
      numpy arrays to be given to a sampler.

    Raises:
      ValueError: where a request wants more than `max_length` tokens.
    """
    return SamplingRows(
        seed_B=np.array([row.seed for row in settings], np.uint32),
        temperature_B=np.array([row.temperature for row in settings], np.float32),
        top_k_B=np.array([min(row.top_k, 2**31 - 1) for row in settings], np.int32),
        top_p_B=np.array([row.top_p for row in settings], np.float32),
        limits=stack_limits([(row.min_tokens, row.max_tokens) for row in settings], max_length))


def sample_tokens(model: Model, frozen: Params, encoded_BSD: Array, mask_BS: Array, max_length: int,
                  rows: SamplingRows, prefix: Prefix | None = None) -> Array:
    """Sample from encoded inputs, as `decode_tokens` does.

    Args:
      model: the frozen model's shape.
      frozen: its weights.
      encoded_BSD: the encoder's outputs.
      mask_BS: bool[B, S], True where the encoder had a token.
      max_length: L, tokens to generate at most.
      rows: each row's settings.
      prefix: that the decoder sees.

    Returns:
      int32[B, L], pads after the end token.
    """
    keys_B = jax.vmap(lambda seed: jax.random.key(seed, impl='threefry2x32'))(rows.seed_B)

    def choose(logits_VB: Array, position: Array) -> Array:
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys_B, position)
        return choose_tokens(logits_VB, keys, rows)

    return decode_tokens(model, frozen, encoded_BSD, mask_BS, max_length, choose, rows.limits,
                         prefix)


def choose_tokens(logits_VB: Array, keys_B: Array, rows: SamplingRows) -> Array:
    """Choose each row's next token as its settings ask.

    Args:
      logits_VB: float32[V, B].
      keys_B: key[B], each used for its row alone.
      rows: the settings.

    Returns:
      int32[B]; `generate.NOT_FINITE` as `likeliest` has it.
    """
    likeliest_B = likeliest(logits_VB)
    warm_B = (rows.temperature_B > 0) & (likeliest_B != NOT_FINITE)

    def draw_all():
        weights_BV = filtered_weights(logits_VB.T, rows.temperature_B, rows.top_k_B, rows.top_p_B)
        return jnp.where(warm_B, _draw(weights_BV, keys_B), likeliest_B)

    # A batch of greedy requests alone pays for no sampling.
    return jax.lax.cond(jnp.any(warm_B), draw_all, lambda: likeliest_B)


def filtered_weights(logits_BV: Array, temperature_B: Array, top_k_B: Array,
                     top_p_B: Array) -> Array:
    """Return what tokens are drawn in proportion to, 0 for those cut off.

    Args:
      logits_BV: float32[B, V].
      temperature_B: float32[B]; a row with 0 is scaled as with 1.
      top_k_B: int32[B], 0 for no cut.
      top_p_B: float32[B], 1 for no cut.

    Returns:
      float32[B, V], the likeliest token's weight being 1.

    Source: top-k: Fan et al. 2018, section 5.1; top-p: Holtzman et al. 2020, section 3.1.
    """
    temperature_B1 = jnp.where(temperature_B > 0, temperature_B, 1.0)[:, None]
    # The largest logit is taken away first, so that no temperature makes the others overflow.
    scaled_BV = (logits_BV - logits_BV.max(axis=-1, keepdims=True)) / temperature_B1
    weights_BV = jnp.exp(scaled_BV)
    size = logits_BV.shape[-1]

    def cut_by_count(weights_BV):
        needed_B = jnp.where(top_k_B > 0, jnp.minimum(top_k_B, size), 0).astype(jnp.float32)
        kept_BV = _heaviest(scaled_BV, jnp.ones_like(weights_BV), needed_B, top_k_B > 0)
        return jnp.where(kept_BV, weights_BV, 0.0)

    def cut_by_mass(weights_BV):
        needed_B = top_p_B * weights_BV.sum(axis=-1)
        kept_BV = _heaviest(scaled_BV, weights_BV, needed_B, top_p_B < 1)
        return jnp.where(kept_BV, weights_BV, 0.0)

    weights_BV = jax.lax.cond(jnp.any(top_k_B > 0), cut_by_count, lambda x: x, weights_BV)
    return jax.lax.cond(jnp.any(top_p_B < 1), cut_by_mass, lambda x: x, weights_BV)


def _heaviest(scores_BV: Array, weights_BV: Array, needed_B: Array, cut_B: Array) -> Array:
    """Keep the highest scores whose weights sum to what is needed, ties included: bool[B, V].

    Rows not in `cut_B` keep everything, and the largest score is always kept.
    """
    order_BV = _ordered(scores_BV)
    top_BW, where_BW = largest(scores_BV, _WINDOW)
    reached_BW = jnp.cumsum(jnp.take_along_axis(weights_BV, where_BW, axis=-1),
                            axis=-1) >= needed_B[:, None]
    found_B = reached_BW.any(axis=-1)
    first_B1 = jnp.argmax(reached_BW, axis=-1)[:, None]
    in_window_B = _ordered(jnp.take_along_axis(top_BW, first_B1, axis=-1)[:, 0])
    # What reaches the need is at or above `low`; nothing at or above `high` does.
    low_B = jnp.where(found_B, in_window_B, _ordered(scores_BV.min(axis=-1)))
    high_B = jnp.where(found_B, low_B + 1, _ordered(top_BW[:, -1]) + 1)

    def open_rows(bounds):
        low_B, high_B = bounds
        return cut_B & (high_B > low_B + 1)

    def halve(bounds):
        low_B, high_B = bounds
        middle_B = (low_B >> 1) + (high_B >> 1) + (low_B & high_B & 1)
        above_B = jnp.sum(jnp.where(order_BV >= middle_B[:, None], weights_BV, 0.0), axis=-1)
        enough_B = above_B >= needed_B
        is_open_B = open_rows(bounds)
        return (jnp.where(is_open_B & enough_B, middle_B, low_B),
                jnp.where(is_open_B & ~enough_B, middle_B, high_B))

    low_B, _ = jax.lax.while_loop(lambda bounds: jnp.any(open_rows(bounds)), halve,
                                  (low_B, high_B))
    return order_BV >= jnp.where(cut_B, low_B, _LOWEST)[:, None]


def _ordered(scores: Array) -> Array:
    """Return integers in the order of the floats: neighbours differ by one, so bisection ends."""
    bits = jax.lax.bitcast_convert_type(scores + 0.0, jnp.int32)  # -0 + 0 is 0
    return jnp.where(bits < 0, bits ^ 0x7fffffff, bits)


def _draw(weights_BV: Array, keys_B: Array) -> Array:
    """Draw one index a row in proportion to the weights: int32[B]."""
    batch, size = weights_BV.shape
    padded = jnp.pad(weights_BV, ((0, 0), (0, -size % _BLOCK)))
    blocks = padded.reshape(batch, -1, _BLOCK)
    uniform_B2 = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys_B)
    block_B = _index_at(blocks.sum(axis=-1), uniform_B2[:, 0])
    inner = jnp.take_along_axis(blocks, block_B[:, None, None], axis=1)[:, 0]
    return block_B * _BLOCK + _index_at(inner, uniform_B2[:, 1])


def _index_at(weights: Array, uniform_B: Array) -> Array:
    """Return the first index whose cumulated weight exceeds that share of the sum: int32[B]."""
    # Sums are not quite monotone where they are computed as a tree: an index without weight must
    # not be found by a rounding error.
    reached = jnp.where(weights > 0, jnp.cumsum(weights, axis=-1), 0.0)
    # A uniform number is at most 1 - 2**-23, so that one of them exceeds its share of the largest.
    share_B1 = uniform_B[:, None] * reached.max(axis=-1, keepdims=True)
    return jnp.argmax(reached > share_B1, axis=-1).astype(jnp.int32)
