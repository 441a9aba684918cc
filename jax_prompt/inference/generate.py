"""Generation with a key and value cache: the input is encoded once, then one position a step.

The loop here writes one sequence a row; what it writes is up to `choose`: the likeliest token
(`greedy`), or a drawn one (`sampling.py`). Beam search is in `beam.py`.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.models.base import Model, Prefix
from jax_prompt.models.forward import encode, prefix_of
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.types import Array, Params

#: generate(frozen, prompt, ids_BS, limits=None) -> int32[B, L]
Generator = Callable[..., Array]
#: choose(logits float32[V, B], position int32[]) -> int32[B], the next token of each row
Choice = Callable[[Array, Array], Array]

#: Stands where a token would, and ends the row: the logits there were not finite.
NOT_FINITE = -1

#: Tokens that are looked at together to find the likeliest of all.
_BLOCK = 128


class Limits(NamedTuple):
    """How long each row's output may be, in tokens, the end token included.

    Attributes:
      min_tokens_B: int32[B]; the end token is not chosen before so many others stand.
      max_tokens_B: int32[B]; a row ends there without an end token.
    """

    min_tokens_B: Array
    max_tokens_B: Array


class _Decoding(NamedTuple):
    """Where a decoding stands: what the loop carries from position to position."""

    position: Array  # int32[], the next to be written
    last_B: Array  # int32[B], what the decoder reads next
    ended_B: Array  # bool[B], True once a row has its end token
    tokens_BL: Array  # int32[B, L], written so far; pads elsewhere
    cache: Params


def greedy(logits_VB: Array, position: Array) -> Array:
    """Choose the likeliest token: float32[V, B] -> int32[B]; the lowest id among equals."""
    del position
    return likeliest(logits_VB)


def likeliest(logits_VB: Array) -> Array:
    """Return the index of each column's largest number; the lowest among equals.

    As `jnp.argmax`, which XLA does not vectorise on CPU: here a maximum, which it does, finds which
    of U blocks of W tokens to look into.

    Args:
      logits_VB: float32[V, B].

    Returns:
      int32[B]; `NOT_FINITE` for a column with NaN or infinity (-inf rules a token out).
    """
    size, batch = logits_VB.shape
    padding = ((0, -size % _BLOCK), (0, 0))
    blocks_UWB = jnp.pad(logits_VB, padding, constant_values=-jnp.inf).reshape(-1, _BLOCK, batch)
    block_B = jnp.argmax(blocks_UWB.max(axis=1), axis=0)
    block_WB = jnp.take_along_axis(blocks_UWB, block_B[None, None], axis=0)[0]
    # A column of -inf alone might end among the padding.
    found_B = jnp.minimum(block_B * _BLOCK + jnp.argmax(block_WB, axis=0), size - 1)
    # A maximum passes NaN over on CPU; a sum does not, and costs less than to look at each.
    return jnp.where(logits_VB.sum(axis=0) < jnp.inf, found_B, NOT_FINITE).astype(jnp.int32)


def make_generator(model: Model, max_length: int, choose: Choice = greedy) -> Generator:
    """Compile generation; one compilation for each shape of `ids_BS`.

    Args:
      model: the frozen model's shape.
      max_length: L, tokens to generate at most, the end token included.
      choose: picks each row's next token from its logits.

    Returns:
      generate(frozen, prompt, ids_BS, limits=None) -> int32[B, L]: tokens up to and with the
      end token, then pads; `limits` are each row's own `Limits`. It stops as soon as every row has
      ended; a row of pads alone (a filler of the batch) counts as ended from the start.

    Raises:
      ValueError: for a `max_length` below 1.
    """
    if max_length < 1:
        raise ValueError(f'max_length={max_length}; expected at least one token to generate')

    @jax.jit
    def generate(frozen: Params, prompt: Prompt, ids_BS: Array,
                 limits: Limits | None = None) -> Array:
        prefix = prefix_of(model, prompt)
        encoded_BSD, mask_BS = encode(model, frozen, prompt, ids_BS, prefix=prefix)
        return decode_tokens(model, frozen, encoded_BSD, mask_BS, max_length, choose, limits,
                             prefix)

    return generate


def check_beams(model: Model, num_beams: int) -> None:
    """Refuse, with ValueError, a number of beams below 2 or too large for the vocabulary."""
    most = model.vocab_size // (1 + len(model.tokens.ends))
    if not 2 <= num_beams <= most:
        raise ValueError(f'num_beams={num_beams}; expected from 2 to {most} for this vocabulary; '
                         'one beam is greedy decoding, which make_generator compiles')


def decode_tokens(model: Model, frozen: Params, encoded_BSD: Array, mask_BS: Array, max_length: int,
                  choose: Choice = greedy, limits: Limits | None = None,
                  prefix: Prefix | None = None) -> Array:
    """Decode from encoded inputs, one sequence a row, until every row has ended.

    Args:
      model: the frozen model's shape.
      frozen: its weights.
      encoded_BSD: the encoder's outputs.
      mask_BS: bool[B, S], True where the encoder had a token.
      max_length: L, tokens to generate at most.
      choose: picks each row's next token from its logits.
      limits: each row's own, where they differ.
      prefix: that the decoder sees.

    Returns:
      int32[B, L], pads after the end token, and after `NOT_FINITE`.
    """
    tokens, batch = model.tokens, encoded_BSD.shape[0]

    def unfinished(now: _Decoding) -> Array:
        return (now.position < max_length) & ~jnp.all(now.ended_B)

    def advance(now: _Decoding) -> _Decoding:
        logits_VB, cache = next_logits(model, frozen, now.last_B, now.cache)
        ended_B = now.ended_B
        if limits is not None:
            logits_VB = without_end(logits_VB, now.position < limits.min_tokens_B,
                                    tokens.ends, axis=0)
            ended_B |= now.position + 1 >= limits.max_tokens_B
        chosen_B = choose(logits_VB, now.position)
        chosen_B = jnp.where(now.ended_B, tokens.pad, chosen_B)
        tokens_BL = jax.lax.dynamic_update_slice_in_dim(
            now.tokens_BL, chosen_B[:, None], now.position, axis=1)
        ended_B |= is_end(chosen_B, tokens.ends) | (chosen_B == NOT_FINITE)
        return _Decoding(now.position + 1, chosen_B, ended_B, tokens_BL, cache)

    start = _Decoding(
        position=jnp.zeros((), jnp.int32),
        last_B=jnp.full(batch, tokens.start, jnp.int32),
        ended_B=~jnp.any(mask_BS, axis=1),
        tokens_BL=jnp.full((batch, max_length), tokens.pad, jnp.int32),
        cache=model.init_cache(frozen, encoded_BSD, mask_BS, max_length, prefix))
    return jax.lax.while_loop(unfinished, advance, start).tokens_BL


def next_logits(model: Model, frozen: Params, last_B: Array, cache: Params) -> tuple[Array, Params]:
    """Read one token a row.

    Args:
      model: the frozen model's shape.
      frozen: its weights.
      last_B: int32[B], the tokens.
      cache: from `Model.init_cache`, or the step before.

    Returns:
      (float32[V, B], the logits of the token after each; the cache with these tokens in it).
    """
    hidden_B1D = model.embed(frozen, last_B[:, None])
    hidden_B1D, cache = model.decode_step(frozen, hidden_B1D, cache)
    return model.step_logits(frozen, hidden_B1D[:, 0], cache), cache


def is_end(ids: Array, ends: Sequence[int]) -> Array:
    """Tell which of the ids are end tokens."""
    return functools.reduce(jnp.logical_or, (ids == end for end in ends))


def without_end(logits: Array, too_early: Array, ends: Sequence[int], axis: int) -> Array:
    """Make the end tokens impossible where it is too early.

    Args:
      logits: float32[...], the vocabulary along `axis`.
      too_early: bool, to be broadcast to the logits.
      ends: the end tokens.
      axis: of the vocabulary.

    Returns:
      float32[...], like the logits.
    """
    # Not set in place: XLA on CPU copies all of them for that, three times.
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, axis)
    return jnp.where(too_early & is_end(ids, ends), -jnp.inf, logits)


def largest(scores: Array, count: int) -> tuple[Array, Array]:
    """Return the largest scores of the last dimension, descending, and where they stand.

    The barrier keeps XLA from merging `top_k` with what is made of its results: on CPU it would no
    longer know it for a partial sort, and sort the whole vocabulary, at a hundred times the cost.
    For the same reason there are two dimensions.

    Args:
      scores: float32[..., V].
      count: how many; all of them where V is smaller.

    Returns:
      (float32[..., count], int32[..., count]).
    """
    flat = scores.reshape(-1, scores.shape[-1])
    found = jax.lax.top_k(flat, min(count, flat.shape[-1]))
    # One barrier each: around the pair, XLA ends the process where there are several devices.
    return tuple(jax.lax.optimization_barrier(part).reshape(*scores.shape[:-1], -1)
                 for part in found)


def check_limits(min_tokens: int, max_tokens: int | None) -> None:
    """Refuse a request's limits that no output can keep.

    Raises:
      ValueError: for a negative `min_tokens`, or a `max_tokens` below 1 or below `min_tokens`.
    """
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f'max_tokens={max_tokens}; expected at least one token to generate')
    if min_tokens < 0 or (max_tokens is not None and min_tokens > max_tokens):
        raise ValueError(f'min_tokens={min_tokens}; expected a number from 0 to max_tokens'
                         f'{"" if max_tokens is None else f"={max_tokens}"}')


def stack_limits(rows: Sequence[tuple[int, int | None]], max_length: int) -> Limits:
    """Put requests' limits into arrays.

    Args:
      rows: (min_tokens, max_tokens) of each; None stands for `max_length`.
      max_length: L, what was compiled.

    Returns:
      The limits of the batch, as numpy arrays.

    Raises:
      ValueError: where a request wants more than `max_length` tokens, or impossible limits.
    """
    for row, (min_tokens, max_tokens) in enumerate(rows):
        check_limits(min_tokens, max_tokens)
        if max(min_tokens, max_tokens or 0) > max_length:
            raise ValueError(f'row {row} asks for {max(min_tokens, max_tokens or 0)} tokens; '
                             f'expected at most max_length={max_length}, what was compiled')
    return Limits(np.array([low for low, _ in rows], np.int32),
                  np.array([max_length if high is None else high for _, high in rows], np.int32))


def before_end(tokens_L: np.ndarray, ends: Sequence[int]) -> list[int]:
    """Return the tokens in front of the first end token: int32[L] -> a list of at most L."""
    return list(itertools.takewhile(lambda token: token not in ends, np.asarray(tokens_L).tolist()))
