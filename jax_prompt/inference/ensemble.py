"""Ensembles: several prompts of one task answer together, as rows of one batch.

The frozen model is there once and reads each member's rows in the same batch, so an ensemble of N
prompts costs N rows and the memory of N prompts, where an ensemble of tuned models costs N models.

Source: Lester et al. 2021 (arXiv:2104.08691), section 6, who let the majority decide.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from jax_prompt.inference.prefix_table import PrefixUse
from jax_prompt.inference.rows import Prediction, Row
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.prompts.virtual import shifted

VOTE, MEAN = 'vote', 'mean'
#: How the members' answers become one.
WAYS = (VOTE, MEAN)


def check_ensemble(names: Sequence[str], way: str, has_labels: bool) -> None:
    """Check that prompts can answer together.

    Args:
      names: of the members.
      way: how, one of `WAYS`.
      has_labels: whether they choose among labels.

    Raises:
      ValueError: fewer than two, another way, or a mean of what has no probabilities.
    """
    if way not in WAYS:
        raise ValueError(f'ensemble is {way!r}; expected one of {", ".join(WAYS)}')
    if len(different := sorted(set(names))) < 2:
        raise ValueError(f'an ensemble of {len(different)} is none (got {", ".join(different)}); '
                         'expected at least 2 different prompts of one task')
    if way == MEAN and not has_labels:
        raise ValueError('the mean is of label probabilities, which free text has not; let the '
                         'majority of the members decide (vote)')


def together(members: Sequence[Prediction], way: str = VOTE) -> Prediction:
    """Make one answer of those that the members of an ensemble gave to one input.

    Args:
      members: their answers, in the order of the members.
      way: 'vote' for the most frequent answer, of equals the one with the higher mean probability
        and then of the earlier member; 'mean' for the label with the highest mean probability.

    Returns:
      The answer. Its `scores` are the logarithm of the members' mean likelihood, its
      `probabilities` the mean of theirs, and `target_score` likewise, where the members have them.
    """
    first, scores, odds = members[0], None, {}
    if first.scores is not None:
        scores = {label: _log_mean([one.scores[label] for one in members])
                  for label in first.scores}
        odds = {label: float(np.mean([one.probabilities[label] for one in members]))
                for label in first.probabilities}
    votes = collections.Counter(one.text for one in members)
    if way == MEAN:
        text = max(odds, key=odds.get)
    else:
        text = max(votes, key=lambda answer: (votes[answer], odds.get(answer, 0.0)))
    target = None
    if first.target_score is not None:
        target = _log_mean([one.target_score for one in members])
    return Prediction(text, scores, odds or None, target)


def member_row(row: Row, number: int, prompt: Prompt, vocab_size: int) -> Row:
    """Let a row use another one of prompts of one size that stand one after the other.

    Args:
      row: made for the first of them.
      number: of the prompt that it shall use.
      prompt: one of them.
      vocab_size: V, the first virtual id.
    """
    return dataclasses.replace(row, ids=shifted(row.ids, number * len(prompt.rows), vocab_size),
                               prefix=PrefixUse.of(prompt, number))


def _log_mean(logarithms: Sequence[float]) -> float:
    """Return the logarithm of the mean of what is given by its logarithms."""
    return float(np.logaddexp.reduce(np.asarray(logarithms, np.float64)) - np.log(len(logarithms)))
