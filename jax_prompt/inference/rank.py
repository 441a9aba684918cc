"""Rank classification: the label whose words the model finds most likely after the input.

An input is encoded once, and the decoder's keys and values for attending to it are computed once;
all labels are then scored against them, whatever their lengths. Every row of a batch has labels of
its own: in a batch of several tasks they differ in their words, their number and their lengths;
they are padded to one shape, and what is padded weighs nothing and is never chosen.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.models.base import Model, Prefix
from jax_prompt.models.forward import encode
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.types import Array, Params

#: score(frozen, prompt, ids_BS, targets_BCL, weights_BCL) -> float32[B, C]
RowLabelScorer = Callable[[Params, Prompt, Array, Array, Array], Array]

#: Bytes of logits alive at one time. Beyond it labels are scored in groups, so that memory does not
#: grow with their number: a hundred labels of three tokens in a batch of 64 would need 2.4 GB.
LOGITS_BYTES = 256 * 1024**2


@dataclasses.dataclass(frozen=True, eq=False)
class LabelSet:
    """Labels to choose from, as words and as tokens.

    Attributes:
      words: C labels.
      targets_CL: int32[C, L], each label's tokens and end token, then pads; of a verbalizer, each
        word's, those of a label together.
      weights_CL: float32[C, L], what each position's log-probability counts; 0 on pads.
      starts: of a verbalizer int[C], where each label's words begin; None where each label is its
        own word.
      combine: how the words' scores become the label's, of `COMBINATIONS`.
      calibration_C: float64[C], taken away from the labels' scores before they become
        probabilities, unless a row's `options` have what to take away; None for nothing.
    """

    words: tuple[str, ...]
    targets_CL: np.ndarray
    weights_CL: np.ndarray
    starts: np.ndarray | None = None
    combine: str = 'sum'
    calibration_C: np.ndarray | None = None

    @classmethod
    def encode(cls, words: Sequence[str], encode: Callable[[str], Sequence[int]],
               model: Model) -> 'LabelSet':
        """Spell labels with a vocabulary.

        Args:
          words: at least two different labels.
          encode: text -> token ids, without an end token.
          model: whose tokens they are.

        Returns:
          The labels, with their end tokens.

        Raises:
          ValueError: fewer than two labels, one without tokens, or two that the vocabulary spells
            alike.
        """
        return cls(tuple(words), *label_arrays([encode(word) for word in words], model))

    @property
    def shape(self) -> tuple[int, int]:
        """Return (C, L), the sizes of what is scored."""
        return self.targets_CL.shape

    @property
    def num_tokens_C(self) -> np.ndarray:
        """Return float[C], the tokens that each label's score is of; of several words the mean."""
        tokens_C = self.weights_CL.sum(axis=1)
        if self.starts is None:
            return tokens_C
        counts_C = np.diff([*self.starts, len(tokens_C)])
        return np.add.reduceat(tokens_C, self.starts) / counts_C

    def combined(self, scores_C: np.ndarray) -> np.ndarray:
        """Make the scores of words those of labels.

        Args:
          scores_C: float32 of each word, log-probabilities.

        Returns:
          float32[C]: of each label the logarithm of the sum or the mean of its words'
          probabilities, or the best word's score.
        """
        if self.starts is None:
            return scores_C
        if self.combine == 'best':
            return np.maximum.reduceat(scores_C, self.starts)
        sums_C = np.logaddexp.reduceat(np.asarray(scores_C, np.float64), self.starts)
        if self.combine == 'mean':
            sums_C -= np.log(np.diff([*self.starts, len(scores_C)]))
        return sums_C.astype(np.float32)


def make_row_label_scorer(model: Model) -> RowLabelScorer:
    """Compile the scoring of each row's own labels; one compilation for each set of shapes.

    Args:
      model: the frozen model's shape.

    Returns:
      score(frozen, prompt, ids_BS, targets_BCL, weights_BCL, prefix=None) -> float32[B, C]:
      log-probabilities of the labels; 0 for those that are missing, which the caller must leave
      out. The prefix is that of `models.forward.prefix_of`.
    """

    @jax.jit
    def score(frozen: Params, prompt: Prompt, ids_BS: Array, targets_BCL: Array,
              weights_BCL: Array, prefix: Prefix | None = None) -> Array:
        encoded_BSD, mask_BS = encode(model, frozen, prompt, ids_BS, prefix=prefix)
        return score_row_labels(model, frozen, encoded_BSD, mask_BS, targets_BCL, weights_BCL,
                                prefix)

    return score


def score_row_labels(model: Model, frozen: Params, encoded_BSD: Array, mask_BS: Array,
                     targets_BCL: Array, weights_BCL: Array,
                     prefix: Prefix | None = None) -> Array:
    """Score the labels of each row against its encoded input.

    Args:
      model: the frozen model's shape.
      frozen: its weights.
      encoded_BSD: the encoder's outputs.
      mask_BS: bool[B, S], True where the encoder had a token.
      targets_BCL: int32[B, C, L], each label's tokens and end token, then pads.
      weights_BCL: float32[B, C, L], what each position's log-probability counts; 0 on pads.
      prefix: that the decoder sees.

    Returns:
      float32[B, C], the weighted sums of log-probabilities.
    """
    batch, labels, length = targets_BCL.shape
    starts_BC1 = jnp.full((batch, labels, 1), model.tokens.start, jnp.int32)
    inputs_BCL = jnp.concatenate([starts_BC1, targets_BCL[:, :, :-1]], axis=2)
    inputs_BCLD = model.embed(frozen, inputs_BCL)

    # Mapped over labels, not folded into the batch: the encoder's outputs stay unmapped, so the
    # cross keys and values computed from them do too, and all labels of a row share them.
    hidden_CBLD = jax.vmap(
        lambda inputs_BLD: model.decode(frozen, inputs_BLD, encoded_BSD, mask_BS, prefix=prefix),
        in_axes=1)(inputs_BCLD)

    def log_probability(label: tuple[Array, Array, Array]) -> Array:
        hidden_BLD, target_BL, weights_BL = label
        logits_BLV = model.logits(frozen, hidden_BLD)
        chosen_BL = jnp.take_along_axis(logits_BLV, target_BL[..., None], axis=-1)[..., 0]
        log_probabilities_BL = chosen_BL - jax.nn.logsumexp(logits_BLV, axis=-1)
        return jnp.sum(log_probabilities_BL * weights_BL, axis=-1)

    group = max(1, LOGITS_BYTES // (4 * batch * length * model.vocab_size))
    each_label = (hidden_CBLD, targets_BCL.swapaxes(0, 1), weights_BCL.swapaxes(0, 1))
    if group >= labels:
        return jax.vmap(log_probability)(each_label).T
    return jax.lax.map(log_probability, each_label, batch_size=group).T


def score_targets(model: Model, frozen: Params, encoded_BSD: Array, mask_BS: Array,
                  targets_BL: Array, prefix: Prefix | None = None) -> Array:
    """Score the one text that is right for each row, teacher-forced.

    Args:
      model: the frozen model's shape.
      frozen: its weights.
      encoded_BSD: the encoder's outputs.
      mask_BS: bool[B, S], True where the encoder had a token.
      targets_BL: int32[B, L], each row's tokens and end token, then pads.
      prefix: that the decoder sees.

    Returns:
      float32[B], sums of log-probabilities.
    """
    weights_BL = (targets_BL != model.tokens.pad).astype(jnp.float32)
    inputs_BL = jnp.pad(targets_BL[:, :-1], ((0, 0), (1, 0)), constant_values=model.tokens.start)
    hidden_BLD = model.decode(frozen, model.embed(frozen, inputs_BL), encoded_BSD, mask_BS,
                              prefix=prefix)

    def log_probability(position: tuple[Array, Array]) -> Array:
        hidden_BD, target_B = position
        logits_BV = model.logits(frozen, hidden_BD[:, None])[:, 0]
        chosen_B = jnp.take_along_axis(logits_BV, target_B[:, None], axis=-1)[:, 0]
        return chosen_B - jax.nn.logsumexp(logits_BV, axis=-1)

    # By positions, not by rows, which may be spread over devices.
    group = max(1, LOGITS_BYTES // (4 * targets_BL.shape[0] * model.vocab_size))
    log_probabilities_LB = jax.lax.map(
        log_probability, (hidden_BLD.swapaxes(0, 1), targets_BL.T), batch_size=group)
    return jnp.sum(log_probabilities_LB.T * weights_BL, axis=-1)


def stack_labels(sets: Sequence[LabelSet], batch: int, labels: int, length: int,
                 pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad the labels of each row to one shape.

    Args:
      sets: the labels of each real row.
      batch: B; rows beyond the sets have no labels.
      labels: C, at least the most labels of a set.
      length: L, at least the longest label's tokens.
      pad_id: fills what is missing.

    Returns:
      (int32[B, C, L] targets, float32[B, C, L] weights).
    """
    targets_BCL = np.full((batch, labels, length), pad_id, np.int32)
    weights_BCL = np.zeros((batch, labels, length), np.float32)
    for row, one in enumerate(sets):
        count, longest = one.shape
        targets_BCL[row, :count, :longest] = one.targets_CL
        weights_BCL[row, :count, :longest] = one.weights_CL
    return targets_BCL, weights_BCL


def probabilities(scores_BC: np.ndarray) -> np.ndarray:
    """Turn scores into probabilities among the labels: softmax, float32[B, C] -> the same."""
    scores_BC = np.asarray(scores_BC, np.float32)
    odds_BC = np.exp(scores_BC - scores_BC.max(axis=1, keepdims=True))
    return odds_BC / odds_BC.sum(axis=1, keepdims=True)


def label_arrays(label_ids: Sequence[Sequence[int]],
                  model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Put labels into arrays.

    Args:
      label_ids: for each label its tokens, without the end token.
      model: whose tokens they are.

    Returns:
      (int32[C, L], the targets with end tokens, padded; float32[C, L], weights, 1 on tokens).

    Raises:
      ValueError: fewer than two labels, a label without tokens, two labels with the same tokens, or
        a token that is not a word of the vocabulary.
    """
    labels = [[int(token) for token in label] for label in label_ids]
    _check_labels(labels, model)
    shape = (len(labels), max(map(len, labels)) + 1)
    targets_CL = np.full(shape, model.tokens.pad, np.int32)
    weights_CL = np.zeros(shape, np.float32)
    for row, label in enumerate(labels):
        targets_CL[row, :len(label) + 1] = [*label, model.tokens.eos]
        weights_CL[row, :len(label) + 1] = 1.0
    return targets_CL, weights_CL


def _check_labels(labels: list[list[int]], model: Model) -> None:
    if len(labels) < 2:
        raise ValueError(f'rank classification got {len(labels)} label(s); expected at least two')
    special = (model.tokens.pad, model.tokens.eos)
    first_with = {}
    for number, label in enumerate(labels):
        if not label:
            raise ValueError(f'label {number} has no tokens; every label needs a word that the '
                             'vocabulary can spell')
        wrong = [t for t in label if not 0 <= t < model.vocab_size or t in special]
        if wrong:
            raise ValueError(f'label {number} has token {wrong[0]}; expected words of the '
                             f'vocabulary, ids below {model.vocab_size} without pad and end '
                             'tokens (the end token is added here)')
        same = first_with.setdefault(tuple(label), number)
        if same != number:
            raise ValueError(f'labels {same} and {number} have the same tokens {label}; choose '
                             'words that the vocabulary tells apart')
