"""From ids to what the decoder attends to; the one way in for training and inference alike."""

import jax
import jax.numpy as jnp

from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.virtual import embed
from jax_prompt.types import Array, Params


def encode_inputs(model: T5, frozen: Params, prompt_PD: Array, ids_BS: Array,
                  dropout_rng: Array | None = None,
                  segment_ids_BS: Array | None = None) -> tuple[Array, Array]:
    """Embed ids, virtual tokens among them, and run the encoder over the embeddings.

    Args:
      model: the frozen model's shape.
      frozen: its weights.
      prompt_PD: float32[P, D], the folded prompt; P may be 0.
      ids_BS: int32[B, S]; ids below V are the vocabulary's, id V + i is row i of the prompt, the
        pad id is a place without a token.
      dropout_rng: a PRNG key switches the model's dropout on.
      segment_ids_BS: int32[B, S] for packed rows: a position sees its own segment alone.

    Returns:
      (dtype[B, S, D] the encoder's outputs, bool[B, S] True where there is a token).
    """
    mask_BS = ids_BS != model.config.pad_token_id
    table_VD = frozen['token_embedder']['embedding']
    hidden_BSD = embed(table_VD, prompt_PD, ids_BS, model.dtype)
    encoded_BSD = model.encode(frozen, hidden_BSD, mask_BS, segment_ids_BS, dropout_rng)
    return encoded_BSD, mask_BS


def encode_examples(model: T5, frozen: Params, prompt_PD: Array, ids: Array,
                    segment_ids: Array | None = None,
                    room: tuple[int, int] | None = None) -> tuple[Array, Array]:
    """Encode inputs, packed or not, to one row an example.

    Whatever decodes thus needs to know nothing of packing.

    Args:
      model: the frozen model's shape.
      frozen: its weights.
      prompt_PD: float32[P, D], the folded prompt; P may be 0.
      ids: int32[rows, S], one example a row, or several where there are segment ids.
      segment_ids: int32[rows, S], which example of its row a position belongs to, counted from 1.
      room: static; the most examples of a row, and the most positions of an example.

    Returns:
      (dtype[B, S, D] the encoder's outputs, bool[B, S] True where there is a token), where for
      packed rows B = rows x examples, those of a row together, and S is the room's. A row with
      fewer examples ends with some that have no token.
    """
    encoded, mask = encode_inputs(model, frozen, prompt_PD, ids, segment_ids_BS=segment_ids)
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
