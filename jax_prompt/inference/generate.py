"""Generation with a key and value cache: the input is encoded once, then one position a step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.inference.encode import encode_inputs
from jax_prompt.t5.model import T5
from jax_prompt.types import Array, Params

#: generate(frozen, prompt_PD, ids_BS) -> int32[B, L]
Generator = Callable[[Params, Array, Array], Array]
#: choose(logits float32[B, V], position int32[]) -> int32[B], the next token of each row
Choice = Callable[[Array, Array], Array]


class _Decoding(NamedTuple):
    """Where a decoding stands: what the loop carries from position to position."""

    position: Array  # int32[], the next to be written
    last_B: Array  # int32[B], what the decoder reads next
    ended_B: Array  # bool[B], True once a row has its end token
    tokens_BL: Array  # int32[B, L], written so far; pads elsewhere
    cache: Params


def greedy(logits_BV: Array, position: Array) -> Array:
    """Choose the likeliest token: float32[B, V] -> int32[B]; the lowest id among equals."""
    del position
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


def make_generator(model: T5, max_length: int, choose: Choice = greedy) -> Generator:
    """Compile generation; one compilation for each shape of `ids_BS`.

    Args:
      model: the frozen model's shape.
      max_length: L, tokens to generate at most, the end token included.
      choose: picks each row's next token from its logits.

    Returns:
      generate(frozen, prompt_PD, ids_BS) -> int32[B, L]: tokens up to and with the end token, then
      pads. It stops as soon as every row has ended; a row of pads alone (a filler of the batch)
      counts as ended from the start.

    Raises:
      ValueError: for a `max_length` below 1.
    """
    if max_length < 1:
        raise ValueError(f'max_length={max_length}; expected at least one token to generate')

    @jax.jit
    def generate(frozen: Params, prompt_PD: Array, ids_BS: Array) -> Array:
        encoded_BSD, mask_BS = encode_inputs(model, frozen, prompt_PD, ids_BS)
        return decode_tokens(model, frozen, encoded_BSD, mask_BS, max_length, choose)

    return generate


def decode_tokens(model: T5, frozen: Params, encoded_BSD: Array, mask_BS: Array, max_length: int,
                  choose: Choice = greedy) -> Array:
    """Decode from encoded inputs, one sequence a row, until every row has ended.

    Args:
      model: the frozen model's shape.
      frozen: its weights.
      encoded_BSD: the encoder's outputs.
      mask_BS: bool[B, S], True where the encoder had a token.
      max_length: L, tokens to generate at most.
      choose: picks each row's next token from its logits.

    Returns:
      int32[B, L], pads after the end token.
    """
    config, batch = model.config, encoded_BSD.shape[0]

    def unfinished(now: _Decoding) -> Array:
        return (now.position < max_length) & ~jnp.all(now.ended_B)

    def advance(now: _Decoding) -> _Decoding:
        logits_BV, cache = next_logits(model, frozen, now.last_B, now.cache)
        chosen_B = choose(logits_BV, now.position)
        chosen_B = jnp.where(now.ended_B, config.pad_token_id, chosen_B)
        tokens_BL = jax.lax.dynamic_update_slice_in_dim(
            now.tokens_BL, chosen_B[:, None], now.position, axis=1)
        ended_B = now.ended_B | (chosen_B == config.eos_token_id)
        return _Decoding(now.position + 1, chosen_B, ended_B, tokens_BL, cache)

    start = _Decoding(
        position=jnp.zeros((), jnp.int32),
        last_B=jnp.full(batch, config.decoder_start_token_id, jnp.int32),
        ended_B=~jnp.any(mask_BS, axis=1),
        tokens_BL=jnp.full((batch, max_length), config.pad_token_id, jnp.int32),
        cache=model.init_cache(frozen, encoded_BSD, mask_BS, max_length))
    return jax.lax.while_loop(unfinished, advance, start).tokens_BL


def next_logits(model: T5, frozen: Params, last_B: Array, cache: Params) -> tuple[Array, Params]:
    """Read one token a row: (float32[B, V] logits of the token after it, the cache with it)."""
    hidden_B1D = model.embed(frozen, last_B[:, None])
    hidden_B1D, cache = model.decode_step(frozen, hidden_B1D, cache)
    return model.logits(frozen, hidden_B1D)[:, 0], cache


def before_end(tokens_L: np.ndarray, eos_id: int) -> list[int]:
    """Return the tokens in front of the first end token: int32[L] -> a list of at most L."""
    tokens = np.asarray(tokens_L).tolist()
    return tokens[:tokens.index(eos_id)] if eos_id in tokens else tokens
