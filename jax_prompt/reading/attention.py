"""Which rows of a prompt encoder and decoder attend to, on given texts."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.inference.programs import programs_of
from jax_prompt.models.base import Model
from jax_prompt.models.forward import attend
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.prompts.virtual import stride
from jax_prompt.types import Array, Batch, Params


class Asked(NamedTuple):
    """A text and what is answered to it.

    Attributes:
      text: as the model reads it.
      ids: int32[S'], with virtual tokens, of which the first is V, and the end token.
      answer: what the decoder is given.
      target: int32[L'], its tokens and end token.
    """

    text: str
    ids: np.ndarray
    answer: str
    target: np.ndarray


def attention_to_rows(opened: OpenedModel, prompt: Prompt,
                      asked: Sequence[Asked]) -> dict[str, Any] | None:
    """Tell how much of its attention each text, and each answer, gives to the rows of a prompt.

    Args:
      opened: the frozen model.
      prompt: with rows.
      asked: at least one text.

    Returns:
      'encoder' and 'cross' -> [N][H][P], the weight of each row in each layer and head, averaged
      over the positions of the text or of the answer, and over texts; 'even', what each row had if
      all positions were attended to alike; 'texts', for each its text, answer, 'encoder' and
      'cross' [P] averaged over layers and heads, and of each token the share that it gives to all
      rows. None for a model that does not attend.
    """
    batch = _batch(asked, opened.model)
    watch = programs_of(opened).by_sizes(
        ('attention', prompt.num_virtual), lambda: jax.jit(functools.partial(
            _weights, opened.model, prompt.num_virtual)))
    # One text at a time: all weights of a large model's layers and heads are gigabytes a text.
    each = [jax.device_get(watch(opened.frozen, prompt, {
        name: rows[number:number + 1] for name, rows in batch.items()}))
        for number in range(len(asked))]
    if not each[0]:
        return None
    found = {name: np.concatenate([one[name] for one in each]) for name in each[0]}
    told: dict[str, Any] = {name: _rounded(found[name].mean(axis=0))
                            for name in ('encoder', 'cross')}
    told['even'] = float(np.mean([1 / len(one.ids) for one in asked]))
    told['texts'] = [{
        'text': one.text, 'answer': one.answer,
        'encoder': _rounded(found['encoder'][number].mean(axis=(0, 1))),
        'cross': _rounded(found['cross'][number].mean(axis=(0, 1))),
        'tokens': _tokens(one.ids, found['of_text'][number], opened, prompt),
        'answer_tokens': _tokens(one.target, found['of_answer'][number], opened, prompt),
    } for number, one in enumerate(asked)]
    return told


def _weights(model: Model, rows: int, frozen: Params, prompt: Prompt,
             batch: Batch) -> Mapping[str, Array]:
    """Return what is told of a batch's attention; its full size stays within the program."""
    found = attend(model, frozen, prompt, batch)
    if not found:
        return {}
    ids_BS = batch['encoder_input_tokens'] % stride(model.vocab_size)
    place_BSP = ids_BS[..., None] == model.vocab_size + jnp.arange(rows)
    is_text_BS = (ids_BS != model.tokens.pad) & ~place_BSP.any(-1)
    is_answer_BL = batch['decoder_target_tokens'] != model.tokens.pad

    def to_rows(name: str) -> Array:
        """[B, N, H, Q, P], the weight of each row; a prefix stands before the sequence."""
        weights = found[name][..., -ids_BS.shape[1]:]
        return jnp.einsum('BNHQT,BTP->BNHQP', weights, place_BSP.astype(jnp.float32),
                          precision=jax.lax.Precision.HIGHEST)

    def averaged(weights_BNHQP: Array, counts_BQ: Array) -> Array:
        counts_BQ = counts_BQ.astype(jnp.float32)
        return jnp.einsum('BNHQP,BQ->BNHP', weights_BNHQP, counts_BQ / jnp.maximum(
            counts_BQ.sum(-1, keepdims=True), 1), precision=jax.lax.Precision.HIGHEST)

    of_text, of_answer = to_rows('encoder'), to_rows('cross')
    return {'encoder': averaged(of_text, is_text_BS), 'cross': averaged(of_answer, is_answer_BL),
            'of_text': of_text.sum(-1).mean((1, 2)), 'of_answer': of_answer.sum(-1).mean((1, 2))}


def _batch(asked: Sequence[Asked], model: Model) -> dict[str, np.ndarray]:
    """Pad texts and answers to one batch."""
    def padded(rows: Sequence[np.ndarray], multiple: int) -> np.ndarray:
        length = -(-max(map(len, rows)) // multiple) * multiple
        return np.stack([np.pad(row, (0, length - len(row)),
                                constant_values=model.tokens.pad) for row in rows])

    targets_BL = padded([one.target for one in asked], 2)
    starts = np.full((len(asked), 1), model.tokens.start, np.int32)
    return {'encoder_input_tokens': padded([one.ids for one in asked], 16),
            'decoder_target_tokens': targets_BL,
            'decoder_input_tokens': np.concatenate([starts, targets_BL[:, :-1]], axis=1)}


def _tokens(ids: np.ndarray, shares: np.ndarray, opened: OpenedModel,
            prompt: Prompt) -> list[dict[str, Any]]:
    """Tell of each token the share of its attention that the rows get; rows by their numbers."""
    first, told = opened.model.vocab_size, []
    for one, share in zip(ids % stride(first), shares, strict=False):
        is_row = first <= one < first + prompt.num_virtual
        told.append({'row': int(one) - first} if is_row else {
            'token': opened.vocabulary.word(int(one)), 'share': round(float(share), 5)})
    return told


def _rounded(array: np.ndarray) -> Any:
    """Return nested lists of numbers short enough to be written by the thousand."""
    return np.round(array.astype(np.float64), 6).tolist()
