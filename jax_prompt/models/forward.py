"""The one place where a prompt meets a model: for training and inference, whatever the method."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jax_prompt.models.base import Model, Prefix
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.prompts.virtual import add, apart, join
from jax_prompt.types import Array, Batch, Params

#: (model, frozen, prompt, ids_BS) -> dtype[B, S, D]
Embed = Callable[[Model, Params, Prompt, Array], Array]


def embed_inputs(model: Model, frozen: Params, prompt: Prompt, ids_BS: Array) -> Array:
    """Embed ids, virtual tokens among them.

    Args:
      model: the frozen model.
      frozen: its weights.
      prompt: whose row i is id V + i. Without rows this is the model's own lookup, to the last bit.
      ids_BS: int32[B, S].

    Returns:
      dtype[B, S, D].

    Raises:
      ValueError: the prompt is of another width than the model.
    """
    if prompt.rows.shape[-1] != model.d_model:
        raise ValueError(f'the prompt has rows of width {prompt.rows.shape[-1]} but {model.name} '
                         f'has D={model.d_model}; choose a prompt of this model')
    if prompt.rows.shape[0] == 0:
        return model.embed(frozen, ids_BS)
    if prompt.added:
        ids_BS, added_BS = apart(ids_BS, model.vocab_size)
    # Virtual ids are out of the table's bounds: look up row 0 in their stead.
    words_BS = jnp.where(ids_BS < model.vocab_size, ids_BS, 0)
    hidden_BSD = join(model.embed(frozen, words_BS), prompt.rows, ids_BS, model.vocab_size)
    return add(hidden_BSD, prompt.rows, added_BS) if prompt.added else hidden_BSD


def prefix_of(model: Model, prompt: Prompt, prompt_ids: Array | None = None,
              lengths: Mapping[str, Array] | None = None) -> Prefix | None:
    """Return what the model's attention finds in front of the keys and values that it computes.

    Args:
      model: the frozen model.
      prompt: with a prefix or without.
      prompt_ids: int32[B], which prompt each row uses, where there are several.
      lengths: of each stack int32[B], how many of its positions a row sees; None for all.

    Returns:
      The prefix; None for a prompt without.

    Raises:
      ValueError: the prefix is of a model with other layers or heads.
    """
    for name, keys_values in prompt.prefix.items():
        expected = model.prefix_shapes.get(name)
        for _, layers, heads, _, width in (one.shape for one in keys_values):
            if (layers, heads, width) != expected:
                raise ValueError(
                    f'the prompt has a prefix of {layers} layers, {heads} heads of width {width} '
                    f'for {name!r} but {model.name} has '
                    + ('none' if expected is None else
                       '{} layers, {} heads of width {}'.format(*expected))
                    + '; choose a prompt of this model')
    return Prefix(prompt.prefix, prompt_ids, lengths) if prompt.prefix else None


def encode(model: Model, frozen: Params, prompt: Prompt, ids_BS: Array,
           dropout_rng: Array | None = None, segment_ids_BS: Array | None = None,
           embed: Embed = embed_inputs, prefix: Prefix | None = None) -> tuple[Array, Array]:
    """Embed ids, virtual tokens among them, and run the encoder over the embeddings.

    Args:
      model: the frozen model.
      frozen: its weights.
      prompt: the prompts that the batch uses.
      ids_BS: int32[B, S]; ids below V are the vocabulary's, id V + i is row i of the prompt, the
        pad id is a place without a token.
      dropout_rng: a PRNG key switches the model's dropout on.
      segment_ids_BS: int32[B, S] for packed rows: a position sees its own segment alone.
      embed: how ids become embeddings.
      prefix: from `prefix_of`.

    Returns:
      (dtype[B, S, D] the encoder's outputs, bool[B, S] True where there is a token).
    """
    mask_BS = ids_BS != model.tokens.pad
    hidden_BSD = embed(model, frozen, prompt, ids_BS)
    return model.encode(frozen, hidden_BSD, mask_BS, segment_ids_BS, dropout_rng, prefix), mask_BS


def score(model: Model, frozen: Params, prompt: Prompt, batch: Batch,
          dropout_rng: Array | None = None, embed: Embed = embed_inputs) -> Array:
    """Score the target tokens of a batch, teacher-forced.

    Args:
      model: the frozen model.
      frozen: its weights.
      prompt: the prompts that the batch uses.
      batch: seqio's keys; in packed rows, which have segment ids, every example sees itself alone.
        Where the prompt is several with a prefix each, `prompt_ids` int32[B] says which a row uses.
      dropout_rng: a PRNG key switches the model's dropout on.
      embed: how ids become embeddings.

    Returns:
      float32[B, L, V].
    """
    encode_rng, decode_rng = (None, None) if dropout_rng is None else jax.random.split(dropout_rng)
    segments = None
    if 'encoder_segment_ids' in batch:
        segments = batch['encoder_segment_ids'], batch['decoder_segment_ids']
    prefix = prefix_of(model, prompt, batch.get('prompt_ids'))
    encoded_BSD, mask_BS = encode(model, frozen, prompt, batch['encoder_input_tokens'],
                                  encode_rng, segments and segments[0], embed, prefix)
    inputs_BLD = model.embed(frozen, batch['decoder_input_tokens'])
    hidden_BLD = model.decode(frozen, inputs_BLD, encoded_BSD, mask_BS, segments, decode_rng,
                              prefix)
    return model.logits(frozen, hidden_BLD)


def attend(model: Model, frozen: Params, prompt: Prompt, batch: Batch) -> Mapping[str, Array]:
    """Return how much each position of a batch attends to each other, teacher-forced.

    Args:
      model: the frozen model.
      frozen: its weights.
      prompt: the prompts that the batch uses.
      batch: seqio's keys, as `score` takes them, of rows that are not packed.

    Returns:
      As `Model.attention_weights`: 'encoder', 'decoder', 'cross' -> float32[B, N, H, S or L, T].
    """
    ids_BS = batch['encoder_input_tokens']
    return model.attention_weights(
        frozen, embed_inputs(model, frozen, prompt, ids_BS), ids_BS != model.tokens.pad,
        model.embed(frozen, batch['decoder_input_tokens']),
        prefix_of(model, prompt, batch.get('prompt_ids')))
