"""Prompts beside each other: which row of one is like which row of another."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_prompt.prompts.nearest import COSINE
from jax_prompt.prompts.similarity import similarity
from jax_prompt.reading.rows import Words, cosines


def compare(rows_PD: np.ndarray, others: Mapping[str, np.ndarray], words: Words | None,
            count: int) -> list[dict[str, Any]]:
    """Tell how a prompt's rows stand to those of others.

    Args:
      rows_PD: float32[P, D], of the prompt.
      others: name -> float32[R, D].
      words: the vocabulary, for the words that prompts share; None for none.
      count: how many words a row.

    Returns:
      For each other: 'prompt', its `similarity`, 'best' (for each row the other's row with the
      largest cosine), 'cosines' (of each row with each), 'in_place' (the mean cosine of rows of one
      number, where there are as many) and 'shared_words', the share of words near to either that
      are near to both.

    Raises:
      ValueError: one is of another width.
    """
    told = []
    for name, other_RD in others.items():
        one: dict[str, Any] = {'prompt': name, **similarity(rows_PD, other_RD)}
        cosine_PR = cosines(rows_PD, other_RD)
        one['best'] = [{'row': int(row.argmax()), 'cosine': round(float(row.max()), 5)}
                       for row in cosine_PR if len(row)]
        if len(other_RD) == len(rows_PD):
            one['in_place'] = float(np.diagonal(cosine_PR).mean())
        if words is not None:
            ours, theirs = ({int(i) for i in words.nearest(rows, count, COSINE)[0].ravel()}
                            for rows in (rows_PD, other_RD))
            one['shared_words'] = len(ours & theirs) / max(1, len(ours | theirs))
        one['cosines'] = [[round(float(value), 4) for value in row] for row in cosine_PR]
        told.append(one)
    return told
