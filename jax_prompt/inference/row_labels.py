"""Rank classification where every row of the batch has labels of its own.

`rank.score_labels` scores one set of labels against all rows. In a batch of several tasks the sets
differ in their words, their number and their lengths; they are padded to one shape, and what is
padded weighs nothing and is never chosen.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jax_prompt.inference.rank import label_arrays, score_row_labels
from jax_prompt.models.base import Model
from jax_prompt.models.forward import encode
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.types import Array, Params

#: score(frozen, prompt, ids_BS, targets_BCL, weights_BCL) -> float32[B, C]
RowLabelScorer = Callable[[Params, Prompt, Array, Array, Array], Array]


@dataclasses.dataclass(frozen=True, eq=False)
class LabelSet:
    """Labels to choose from, as words and as tokens.

    Attributes:
      words: C labels.
      targets_CL: int32[C, L], each label's tokens and end token, then pads.
      weights_CL: float32[C, L], what each position's log-probability counts; 0 on pads.
    """

    words: tuple[str, ...]
    targets_CL: np.ndarray
    weights_CL: np.ndarray

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
        """Return (C, L)."""
        return self.targets_CL.shape


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


def make_row_label_scorer(model: Model) -> RowLabelScorer:
    """Compile the scoring of each row's own labels; one compilation for each set of shapes.

    Args:
      model: the frozen model's shape.

    Returns:
      score(frozen, prompt, ids_BS, targets_BCL, weights_BCL) -> float32[B, C]: log-probabilities
      of the labels; 0 for those that are missing, which the caller must leave out.
    """

    @jax.jit
    def score(frozen: Params, prompt: Prompt, ids_BS: Array, targets_BCL: Array,
              weights_BCL: Array) -> Array:
        encoded_BSD, mask_BS = encode(model, frozen, prompt, ids_BS)
        return score_row_labels(model, frozen, encoded_BSD, mask_BS, targets_BCL, weights_BCL)

    return score
