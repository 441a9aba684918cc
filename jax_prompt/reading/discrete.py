"""A prompt said in words, and what that costs.

Khashabi et al. 2022 (arXiv:2112.08348) project a prompt to words (each row to the nearest
embedding, d-proj) and words to a prompt (their embeddings, c-proj), and find prompts that solve a
task and project to any text: they are wayward. So words near a prompt explain it only as far as
they do what it does, and that can be measured: the loss of the words in place of the rows.
"""

import collections
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_prompt.data.design import PLAIN_FORM, Design
from jax_prompt.evaluation.metrics import LOSS
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.nearest import row_norms
from jax_prompt.reading.rows import READINGS, Words

_ARTICLES = re.compile(r'\b(a|an|the)\b')


def project(rows_PD: np.ndarray, words: Words) -> dict[str, np.ndarray]:
    """Return the word nearest to each row (d-proj) by each of `READINGS`: int32[P].

    The paper's is by 'distance'.
    """
    return {by: words.nearest(rows_PD, 1, by)[0][:, 0] for by in READINGS}


def embedded(ids_P: np.ndarray, words: Words) -> np.ndarray:
    """Return words as rows of a prompt (c-proj): int32[P] -> float32[P, D]."""
    return np.asarray(words.table_VD[ids_P], np.float32)


def cost(whole: Mapping[str, float], discrete: Mapping[str, float]) -> dict[str, float]:
    """Tell what words in place of rows cost.

    Args:
      whole: the prompt's metrics.
      discrete: those of the words.

    Returns:
      'loss', in nats a token, and for each metric of which more is better 'NAME_drop', relative to
      the prompt's own: the paper's drop of accuracy.
    """
    told = {LOSS: discrete[LOSS] - whole[LOSS]}
    return told | {f'{name}_drop': (value - discrete[name]) / value
                   for name, value in whole.items() if name != LOSS and value > 0}


def squared_distance(rows_PD: np.ndarray, ids_P: np.ndarray, words: Words) -> float:
    """Return the squared distance of a row from its word, on average: the penalty's (section 3)."""
    return float(np.mean(row_norms(rows_PD - embedded(ids_P, words))**2))


def prompt_f1(found: str, target: str) -> float:
    """Return the F1 of two texts' words: lower case, without punctuation and articles.

    Source: the paper's code, `f1_score`, which is that of SQuAD.
    """
    ours, theirs = (collections.Counter(_ARTICLES.sub(' ', ''.join(
        one for one in text.lower() if one not in string.punctuation)).split())
        for text in (found, target))
    same = sum((ours & theirs).values())
    return 2 * same / (sum(ours.values()) + sum(theirs.values())) if same else 0.0


def as_design(said: Sequence[str], template: str, layout: Layout) -> Design:
    """Return a design that has words where the rows of a prompt stand.

    Args:
      said: the text in place of the rows that stand first, and, of rows around the text, in place
        of those behind it.
      template: of the task's inputs.
      layout: of the prompt.
    """
    first, *behind = (text.replace('{', '{{').replace('}', '}}') for text in said)
    if layout.placement == 'marker':
        return Design(template.replace(layout.marker, first), form=PLAIN_FORM)
    before, after = {'before': ((first, *behind), ()), 'after': ((), (first, *behind)),
                     'around': ((first,), behind)}[layout.placement]
    return Design(' '.join(part for part in (*before, template, *after) if part), form=PLAIN_FORM)


def texts_of(ids_P: np.ndarray, layout: Layout, decode: Any) -> list[str]:
    """Return the words of a projection as text, one text for each place where rows stand."""
    if layout.placement != 'around':
        return [decode(ids_P)]
    return [decode(part) for part in np.split(ids_P, [layout.num_rows_before(len(ids_P))])]
