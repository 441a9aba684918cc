"""Label words as LM-BFF finds them: what the model itself would answer to each class."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from jax_prompt.search.strategy import (
    Candidate,
    Problem,
    State,
    Stepped,
    check_slots,
    positive,
)
from jax_prompt.search.templates import race_waiting

#: Assignments that are compared one by one; where there are more, labels are settled in turn.
_MOST_ASSIGNMENTS = 20_000


@dataclasses.dataclass(frozen=True)
class LabelWords:
    """Search the word of each label among those that the model finds likely for its examples.

    The first step reads what the model says to each example, once. Of each class it keeps the
    words of the highest mean log-probability, less, where `contrast` is not 0, that over the
    other classes; it compares all assignments by the loss that these numbers give, and lets the
    best wait. Later steps score these in full.

    Attributes:
      top: words of each class.
      contrast: how much of a word's mean over the other classes is taken away; 0 is LM-BFF's.
      assignments: that are scored in full.
      at_once: assignments that a step scores.

    Source: LM-BFF, Gao et al. 2021 (arXiv:2012.15723), section 5.1: words by equation 3,
    assignments by zero-shot accuracy, here by loss. `contrast` is PETAL's likelihood ratio, Schick
    et al. 2020 (arXiv:2010.13641), section 4.
    """

    top: int = 24
    contrast: float = 1.0
    assignments: int = 32
    at_once: int = 32
    name: ClassVar[str] = 'label_words'
    template: ClassVar[str] = '{inputs}'

    def __post_init__(self):
        positive(self, 'top', 'assignments', 'at_once')

    def start(self, problem: Problem, rng: np.random.Generator) -> State:
        """Return nothing read yet; see `Strategy`."""
        check_slots(self, problem, 0)
        if problem.labels is None:
            raise ValueError('strategy label_words searches a word for each label but the task is '
                             'free text; choose another strategy')
        return {'waiting': None}

    def step(self, problem: Problem, state: State, rng: np.random.Generator) -> Stepped:
        """Read what the model says and compare assignments, or score some; see `Strategy`."""
        if state['waiting'] is not None:
            return race_waiting(problem, state, self.at_once)
        scores_BA = problem.word_scores(range(problem.size))
        kept = likely_words(scores_BA, problem.label_B, len(problem.labels), self.top,
                            self.contrast)
        found = best_assignments(scores_BA, problem.label_B, kept, self.assignments)
        words = [Candidate(('',) * problem.slots, tuple(
            (label, problem.lexicon.words[word])
            for label, word in zip(problem.labels, assignment, strict=True)))
            for assignment in found]
        return Stepped({'waiting': [one.to_json() for one in words]}, [])


def likely_words(scores_BA: np.ndarray, label_B: np.ndarray, labels: int, top: int,
                 contrast: float) -> list[list[int]]:
    """Return the words of each class that the model finds likely for its examples.

    Args:
      scores_BA: float32[B, A], log-probabilities of words as the answer.
      label_B: int[B], the right class.
      labels: how many classes.
      top: words of each.
      contrast: how much of the mean over the other classes is taken away.

    Raises:
      ValueError: a class has no example.
    """
    missing = sorted(set(range(labels)) - set(label_B.tolist()))
    if missing:
        raise ValueError(f'label {missing[0]} has no example among the {len(label_B)} of the '
                         'search; raise search_settings.examples')
    means_CA = np.stack([scores_BA[label_B == label].mean(axis=0) for label in range(labels)])
    others_CA = (means_CA.sum(axis=0) - means_CA) / max(1, labels - 1)
    order_CA = np.argsort(-(means_CA - contrast * others_CA), axis=1, kind='stable')
    return order_CA[:, :top].tolist()


def best_assignments(scores_BA: np.ndarray, label_B: np.ndarray, kept: Sequence[Sequence[int]],
                     count: int) -> list[tuple[int, ...]]:
    """Return the assignments of different words to labels with the least loss, the best first.

    Args:
      scores_BA: float32[B, A], log-probabilities of words as the answer.
      label_B: int[B], the right label.
      kept: the words of each label to choose from.
      count: how many assignments.
    """
    def ranked(assignments: Sequence[tuple[int, ...]], most: int) -> list[tuple[int, ...]]:
        return sorted(assignments, key=lambda one: assignment_loss(scores_BA, label_B, one))[:most]

    if np.prod([float(len(words)) for words in kept]) <= _MOST_ASSIGNMENTS:
        return ranked([one for one in itertools.product(*kept) if len({*one}) == len(one)], count)
    beam = [_different(kept)]
    for _ in range(2):  # a second pass knows all labels' words
        for label, words in enumerate(kept):
            made = {(*one[:label], word, *one[label + 1:]) for one in beam for word in words}
            beam = ranked(sorted(one for one in made if len({*one}) == len(one)), count)
    return beam


def _different(kept: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the likeliest word of each label that no label before it has taken."""
    taken: list[int] = []
    for words in kept:
        taken.append(next((word for word in words if word not in taken), words[0]))
    return tuple(taken)


def assignment_loss(scores_BA: np.ndarray, label_B: np.ndarray, words: Sequence[int]) -> float:
    """Return the mean cross-entropy of the right label among the labels' words, in nats."""
    scores_BC = scores_BA[:, list(words)].astype(np.float64)
    most_B1 = scores_BC.max(axis=1, keepdims=True)
    total_B = np.log(np.exp(scores_BC - most_B1).sum(axis=1)) + most_B1[:, 0]
    return float(np.mean(total_B - scores_BC[np.arange(len(label_B)), label_B]))
