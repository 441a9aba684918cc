"""What a search tries, and what a strategy may ask of a frozen model.

A strategy proposes words, and is told how well they do on examples of training. It runs step by
step; between steps all that it knows is its state, which JSON can hold, so that a search that was
killed goes on as if it had not been.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from jax_prompt.search.lexicon import Lexicon

#: Stands in a template for what is searched.
SLOT = '{search}'
#: How many candidates a round of a race leaves of four, and how many times the examples then are.
_ROUND = 4

State = dict[str, Any]


class Spent(Exception):
    """The budget does not reach for what a strategy was about to ask."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Words that are tried.

    Attributes:
      texts: what stands in each `{search}` of the template, in order; '' for nothing.
      words: label -> the word that is scored for it, in the task's order; () for those of the
        settings.
    """

    texts: tuple[str, ...] = ()
    words: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> list[Any]:
        """Return it as JSON can hold it."""
        return [list(self.texts), [list(pair) for pair in self.words]]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> 'Candidate':
        """Read what `to_json` gave."""
        return cls(tuple(value[0]), tuple((label, word) for label, word in value[1]))


class Tried(NamedTuple):
    """A candidate with its mean loss on all examples of the search."""

    candidate: Candidate
    loss: float


class Stepped(NamedTuple):
    """What a step gives: the state after it, what was scored on all examples, is there more?"""

    state: State
    tried: list[Tried]
    done: bool = False


class Problem(Protocol):
    """What a strategy may ask. Whatever reads the model counts calls, and raises `Spent`.

    A call is one example scored once. An example's gradient counts as two; a text that is written
    counts as one, and so does each of the ways in which a beam search follows it.

    Attributes:
      size: B, examples of training that the search runs on; their order is balanced by label.
      first: of these, how many a race begins with.
      left: calls that are left.
      slots: how many `{search}` the template has.
      labels: the task's label words; None for free text.
      label_B: int32[B], which of them is right; None for free text.
      lexicon: the tokens that may stand in a prompt.
    """

    size: int
    first: int
    left: int
    slots: int
    labels: tuple[str, ...] | None
    label_B: np.ndarray | None
    lexicon: Lexicon

    def usable(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the different ones of these that an input has room beside."""

    def losses(self, candidates: Sequence[Candidate], examples: Sequence[int]) -> np.ndarray:
        """Score candidates: float64[C, B], nats, of so many of the examples."""

    def gradient(self, words: Sequence[int], examples: Sequence[int]) -> tuple[float, np.ndarray]:
        """Differentiate by the embeddings of words in the slot, by their numbers in the lexicon.

        Returns:
          (the mean loss, its gradient float32[P, D]).
        """

    def telling_words(self, count: int) -> list[int]:
        """Return the words of the lexicon that tell most about the examples, reading no model."""

    def word_scores(self, examples: Sequence[int]) -> np.ndarray:
        """Score the lexicon's words as the answer: float32[B, A], log-probabilities."""

    def fill(self, examples: Sequence[int], ways: int, length: int, temperature: float,
             seed: int) -> list[tuple[str, ...]]:
        """Let the model fill the slots, alike for all these examples: the likeliest first."""

    def write(self, inputs: Sequence[str], length: int, temperature: float,
              seed: int) -> list[str]:
        """Let the model answer texts."""


@runtime_checkable
class Strategy(Protocol):
    """A way to search; a dataclass, whose fields are its settings.

    Attributes:
      name: by which it is chosen.
      template: that it begins with where the settings name none: of the task's own template
        `{inputs}`, and of `{search}`; with `{answer}` it is a cloze.
    """

    name: str
    template: str

    def start(self, problem: Problem, rng: np.random.Generator) -> State:
        """Return the state before the first step.

        Raises:
          ValueError: it cannot run on this problem.
        """

    def step(self, problem: Problem, state: State, rng: np.random.Generator) -> Stepped:
        """Search on for a little; `rng` is a step's own.

        Raises:
          Spent: too few calls are left; the state before the step stands.
        """


def race(problem: Problem, candidates: Sequence[Candidate], keep: int = 1) -> list[Tried]:
    """Find the best candidates, most of which are scored on a few examples alone.

    After each round a quarter goes on, on four times as many examples, until all examples have been
    used. Where the budget does not reach for all candidates the last ones are left out.

    Args:
      problem: to score on.
      candidates: to compare; the likeliest first.
      keep: how many to find; never fewer go on.

    Returns:
      The best, the best first.

    Raises:
      Spent: the budget does not reach for a single one.

    Source: successive halving, Jamieson and Talwalkar 2016 (arXiv:1502.07943), algorithm 1, with a
    quarter in place of a half; APE (arXiv:2211.01910), section 3.3, scores so too.
    """
    candidates = list(dict.fromkeys(candidates))
    while candidates and _cost(problem, len(candidates), keep) > problem.left:
        candidates.pop()
    if not candidates:
        raise Spent
    losses, used = np.zeros((len(candidates), 0)), 0
    for count, used_then in _rounds(problem, len(candidates), keep):
        best = np.argsort(losses.mean(axis=1), kind='stable')[:count] if used else range(count)
        candidates, losses = [candidates[number] for number in best], losses[list(best)]
        more = problem.losses(candidates, range(used, used_then))
        losses, used = np.concatenate([losses, more], axis=1), used_then
    means = losses.mean(axis=1)
    best = np.argsort(means, kind='stable')[:keep]
    return [Tried(candidates[number], float(means[number])) for number in best]


def _rounds(problem: Problem, count: int, keep: int) -> list[tuple[int, int]]:
    """Return (candidates, examples that they have seen after it) of each round of a race."""
    rounds, seen = [], min(problem.first if count > keep else problem.size, problem.size)
    while True:
        rounds.append((count, seen))
        if seen == problem.size:
            return rounds
        count, seen = max(keep, -(-count // _ROUND)), min(_ROUND * seen, problem.size)
        if count == keep:
            seen = problem.size


def _cost(problem: Problem, count: int, keep: int) -> int:
    """Return the calls of a race."""
    before, calls = 0, 0
    for candidates, seen in _rounds(problem, count, min(keep, count)):
        calls, before = calls + candidates * (seen - before), seen
    return calls


def draw(problem: Problem, rng: np.random.Generator, count: int) -> list[int]:
    """Draw examples without replacement; all of them where there are no more."""
    if count >= problem.size:
        return list(range(problem.size))
    return sorted(rng.choice(problem.size, count, replace=False).tolist())


def check_slots(strategy: Strategy, problem: Problem, expected: int | None = 1) -> None:
    """Check how many places of the template a strategy is to fill; None for one or more.

    Raises:
      ValueError: there are others.
    """
    if problem.slots != expected and (expected is not None or problem.slots < 1):
        places = 'one or more' if expected is None else ('none', 'one')[expected]
        how = 'put it where the searched words shall stand' if expected != 0 else 'take it out'
        raise ValueError(f'the template of the search has {SLOT} {problem.slots} times but '
                         f'strategy {strategy.name} needs {places}; {how}')


def positive(strategy: Any, *names: str) -> None:
    """Refuse, with ValueError, settings of a strategy that are not whole numbers above 0."""
    for name in names:
        value = getattr(strategy, name)
        if type(value) is not int or value < 1:
            raise ValueError(f'{strategy.name}.{name} is {value!r}; expected a whole number of at '
                             'least 1')
