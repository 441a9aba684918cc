"""From ids to what the decoder attends to; the one way in for training and inference alike."""

from jax_prompt.prompts.virtual import embed
from jax_prompt.t5.model import T5
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
