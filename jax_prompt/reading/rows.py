"""The rows of a prompt among the words of the vocabulary: numbers that need no run of the model."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jax_prompt.prompts.nearest import (
    COSINE,
    DISTANCE,
    INNER_PRODUCT,
    nearest_words,
    row_norms,
    unit_rows,
)

#: Of a measure that heeds the length of a row: what it is called where that length is taken away.
WITHOUT_NORM = '_without_norm'
#: How near words are told; the cosine knows no lengths.
READINGS = (COSINE, DISTANCE, DISTANCE + WITHOUT_NORM, INNER_PRODUCT, INNER_PRODUCT + WITHOUT_NORM)
_BLOCK_WORDS = 8192
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
    """The vocabulary as its embeddings.

    Attributes:
      table_VD: float32[V, D], the frozen embedding table.
      word: token id -> text.
      encode: text -> token ids, without start and end tokens.
      num_words: how many ids the tokenizer has; the table's rows beyond them are padding.
      num_special_ids: ids below this are no words.
    """

    table_VD: np.ndarray
    word: Callable[[int], str]
    encode: Callable[[str], Sequence[int]]
    num_words: int
    num_special_ids: int = 3

    @property
    def vectors(self) -> np.ndarray:
        """Return float32[V', D], the embeddings of what are words."""
        return self.table_VD[self.num_special_ids:self.num_words]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Return float64[V'], the length of each word's embedding."""
        return np.concatenate([row_norms(block) for block in self._blocks()])

    def cosines(self, rows_PD: np.ndarray) -> np.ndarray:
        """Return the cosine of each row with each word: float32[P, V']."""
        return np.concatenate([cosines(rows_PD, block) for block in self._blocks()], axis=1)

    def _blocks(self) -> Iterator[np.ndarray]:
        """Yield the embeddings some thousand at a time: all of them may be gigabytes."""
        for start in range(0, len(self.vectors), _BLOCK_WORDS):
            yield self.vectors[start:start + _BLOCK_WORDS]

    def nearest(self, rows_PD: np.ndarray, count: int, by: str) -> tuple[np.ndarray, np.ndarray]:
        """Find the words nearest to rows by one of `READINGS`; see `nearest_words`."""
        if by.endswith(WITHOUT_NORM):
            rows_PD, by = unit_rows(rows_PD) * self.lengths.mean(), by.removesuffix(WITHOUT_NORM)
        return nearest_words(rows_PD, self.table_VD, count, self.num_special_ids, self.num_words,
                             by)


def neighbours(rows_PD: np.ndarray, words: Words, count: int) -> list[dict[str, list[dict]]]:
    """Tell the words nearest to each row, by each of `READINGS`.

    Without its norm a row is brought to the mean length of words: a trained row may be many times
    as long, and then the longest words in its direction are the least far.

    Args:
      rows_PD: float32[P, D].
      words: the vocabulary.
      count: how many words a row.

    Returns:
      For each row: reading -> [{'id', 'word', 'value'}], the nearest first.
    """
    found = {by: words.nearest(rows_PD, count, by) for by in READINGS}
    return [{by: [{'id': int(one), 'word': words.word(int(one)), 'value': _short(value)}
                  for one, value in zip(ids[row], values[row], strict=True)]
             for by, (ids, values) in found.items()} for row in range(len(rows_PD))]


def norms(rows_PD: np.ndarray, words: Words | None) -> dict[str, Any]:
    """Tell the lengths of rows, and of the vocabulary's words.

    Returns:
      'rows', and with a vocabulary 'words' (mean and percentiles) and 'above', the share of words
      that each row is longer than.
    """
    lengths_P = row_norms(rows_PD)
    told: dict[str, Any] = {'rows': [_short(one) for one in lengths_P]}
    if words is not None:
        of_words = np.sort(words.lengths)
        told['words'] = {'mean': _short(of_words.mean()), 'percentiles': {
            str(share): _short(np.percentile(of_words, share)) for share in PERCENTILES}}
        told['above'] = [_short(np.searchsorted(of_words, one) / len(of_words))
                         for one in lengths_P]
    return told


def cosines(one_PD: np.ndarray, other_RD: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of one with each of the other: float32[P, R]."""
    return unit_rows(one_PD) @ unit_rows(other_RD).T


def duplicates(rows_PD: np.ndarray, least: float) -> list[dict[str, Any]]:
    """Tell pairs of rows whose cosine is at least so much, the likest first."""
    cosine_PP = cosines(rows_PD, rows_PD)
    pairs = [(one, other) for one, other in zip(*np.triu_indices(len(rows_PD), 1), strict=True)
             if cosine_PP[one, other] >= least]
    pairs.sort(key=lambda pair: -cosine_PP[pair])
    return [{'rows': [int(one), int(other)], 'cosine': _short(cosine_PP[one, other])}
            for one, other in pairs]


def movement(rows_PD: np.ndarray, start_PD: np.ndarray, words: Words | None) -> list[dict]:
    """Tell how far each row is from where it started.

    Returns:
      For each row 'distance', 'cosine', 'norm_ratio' (today's length by the start's), and with a
      vocabulary 'started_at', the word nearest to its start by cosine.
    """
    distances_P, ratio = row_norms(rows_PD - start_PD), row_norms(start_PD)
    ratio = row_norms(rows_PD) / np.where(ratio > 0, ratio, 1)
    cosine_P = np.sum(unit_rows(rows_PD) * unit_rows(start_PD), axis=1)
    told = [{'distance': _short(distance), 'cosine': _short(cosine), 'norm_ratio': _short(times)}
            for distance, cosine, times in zip(distances_P, cosine_P, ratio, strict=True)]
    if words is not None:
        for one, ids in zip(told, words.nearest(start_PD, 1, COSINE)[0], strict=True):
            one['started_at'] = words.word(int(ids[0]))
    return told


def labels_kept(rows_PD: np.ndarray, words: Words, labels: Sequence[str], count: int,
                start_PD: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Tell which labels' words are still among those nearest to a row.

    A label is the mean of its tokens' embeddings, as the initialiser `class_labels` takes it. Its
    rank at a row is 1 where no word has a larger cosine, its own tokens not counted.

    Args:
      rows_PD: float32[P, D].
      words: the vocabulary.
      labels: the words of the task's labels.
      count: up to this rank a label counts as kept.
      start_PD: what the rows started from; None where nobody knows.

    Returns:
      For each label 'label', 'row' (the one nearest to it), 'cosine', 'rank', 'kept', and, where a
      row started from it, 'started_in', 'rank_there' and 'cosine_there'.

    Source: Lester et al. 2021 (arXiv:2104.08691), section 7: labels persist among the neighbours.
    """
    every_PV, told = words.cosines(rows_PD), []
    for label in labels:
        ids = np.asarray(words.encode(label))
        vector_1D = words.table_VD[ids].mean(axis=0, keepdims=True)
        cosine_P = cosines(rows_PD, vector_1D)[:, 0]
        own = np.unique(ids[ids >= words.num_special_ids]) - words.num_special_ids
        above_PV = every_PV > cosine_P[:, None]
        rank_P = 1 + np.sum(above_PV, axis=1) - np.sum(above_PV[:, own], axis=1)
        best = int(np.argmax(cosine_P))
        one = {'label': label, 'row': best, 'cosine': _short(cosine_P[best]),
               'rank': int(rank_P[best]), 'kept': bool(rank_P.min() <= count)}
        if start_PD is not None:
            begun = np.flatnonzero(np.isclose(start_PD, vector_1D, rtol=1e-4, atol=1e-5).all(1))
            if len(begun):
                there = int(begun[0])
                one |= {'started_in': there, 'rank_there': int(rank_P[there]),
                        'cosine_there': _short(cosine_P[there])}
        told.append(one)
    return told


def _short(number: Any) -> float:
    """Return a number of as many digits as anyone reads."""
    return float(f'{float(number):.6g}')
