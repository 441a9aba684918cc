"""Encoding of packed inputs to one row an example."""

import jax
import jax.numpy as jnp

from jax_prompt.models.base import Model
from jax_prompt.models.forward import encode
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.types import Array, Params


def encode_examples(model: Model, frozen: Params, prompt: Prompt, ids: Array,
                    segment_ids: Array | None = None,
                    room: tuple[int, int] | None = None) -> tuple[Array, Array]:
    """Encode inputs, packed or not, to one row an example.

    Whatever decodes thus needs to know nothing of packing.

    Args:
      model: the frozen model's shape.
      frozen: its weights.
      prompt: that the batch uses.
      ids: int32[rows, S], one example a row, or several where there are segment ids.
      segment_ids: int32[rows, S], which example of its row a position belongs to, counted from 1.
      room: static; the most examples of a row, and the most positions of an example.

    Returns:
      (dtype[B, S, D] the encoder's outputs, bool[B, S] True where there is a token), where for
      packed rows B = rows x examples, those of a row together, and S is the room's. A row with
      fewer examples ends with some that have no token.
    """
    encoded, mask = encode(model, frozen, prompt, ids, segment_ids_BS=segment_ids)
    if segment_ids is None:
        return encoded, mask
    return _unpack(encoded, segment_ids, *room)


def _unpack(packed_RTD: Array, segment_ids_RT: Array, examples: int,
            length: int) -> tuple[Array, Array]:
    """Take the segments of packed rows apart, to [B, S, D] and bool[B, S]."""

    def unpack_row(packed_TD: Array, segment_ids_T: Array) -> tuple[Array, Array]:
        segments_G = jnp.arange(1, examples + 1)
        starts_G = jnp.argmax(segment_ids_T == segments_G[:, None], axis=1)
        places_GS = starts_G[:, None] + jnp.arange(length)
        mask_GS = (places_GS < len(segment_ids_T)) & (
            segment_ids_T[places_GS] == segments_G[:, None])
        return jnp.where(mask_GS[..., None], packed_TD[places_GS], 0), mask_GS

    encoded_RGSD, mask_RGS = jax.vmap(unpack_row)(packed_RTD, segment_ids_RT)
    return (encoded_RGSD.reshape(-1, length, encoded_RGSD.shape[-1]),
            mask_RGS.reshape(-1, length))
