"""HotFlip and AutoPrompt: one place at a time, the words that the gradient names are tried."""

import dataclasses
from typing import ClassVar

import numpy as np

from jax_prompt.search.strategy import Problem, State, Stepped, draw, positive
from jax_prompt.search.substitution import (
    first_order,
    most_promising,
    scored,
    start_state,
    substituted,
)


@dataclasses.dataclass(frozen=True)
class HotFlip:
    """Substitute tokens by the gradient, one place a step.

    A step draws a place, takes the gradient of the loss by the embedding there, and scores the
    words that most lower the loss to first order. The best stays if it is better than what stood
    there.

    Attributes:
      length: P, words to search.
      start_text: words to start from, in place of `length` frequent ones drawn by the seed.
      candidates: words that are scored a step.
      gradient_examples: that the gradient is taken of.

    Source: AutoPrompt, Shin et al. 2020 (arXiv:2010.15980), section 2.2, after HotFlip, Ebrahimi et
    al. 2018 (arXiv:1712.06751). Theirs compares on the step's own batch, this on the same examples
    each time.
    """

    length: int = 4
    start_text: str = ''
    candidates: int = 16
    gradient_examples: int = 32
    name: ClassVar[str] = 'hotflip'
    template: ClassVar[str] = '{search} {inputs}'

    def __post_init__(self):
        positive(self, 'length', 'candidates', 'gradient_examples')

    def start(self, problem: Problem, rng: np.random.Generator) -> State:
        """Return the words to start from; see `Strategy`."""
        return start_state(self, problem, rng)

    def step(self, problem: Problem, state: State, rng: np.random.Generator) -> Stepped:
        """Try other words at one place; see `Strategy`."""
        state, first = scored(problem, state)
        if first:
            return Stepped(state, first)
        place = int(rng.integers(len(state['words'])))
        _, gradient_PD = problem.gradient(
            state['words'], draw(problem, rng, self.gradient_examples))
        change_PA = first_order(gradient_PD, state['words'], problem.lexicon)
        best_PC = most_promising(change_PA, state['words'], self.candidates)
        return substituted(problem, state, [(place, int(word)) for word in best_PC[place]])
