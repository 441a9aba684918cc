"""GCG: substitutions at any place, drawn among those that the gradient names."""

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
class GCG:
    """Substitute tokens by greedy coordinate gradient.

    A step takes the gradient by all embeddings, keeps the `top` words of each place, draws
    `candidates` pairs of place and word, and scores them. The best is taken if it is better.

    Attributes:
      length: P, words to search.
      start_text: words to start from, in place of `length` frequent ones drawn by the seed.
      top: words of each place to draw from.
      candidates: substitutions that are scored a step.
      gradient_examples: that the gradient is taken of.

    Source: Zou et al. 2023 (arXiv:2307.15043), algorithm 1, of which this differs in two things for
    the sake of a small budget: it races the candidates instead of scoring each on all examples, and
    keeps what is there where none of them is better.
    """

    length: int = 4
    start_text: str = ''
    top: int = 64
    candidates: int = 32
    gradient_examples: int = 32
    name: ClassVar[str] = 'gcg'
    template: ClassVar[str] = '{search} {inputs}'

    def __post_init__(self):
        positive(self, 'length', 'top', 'candidates', 'gradient_examples')

    def start(self, problem: Problem, rng: np.random.Generator) -> State:
        """Return the words to start from; see `Strategy`."""
        return start_state(self, problem, rng)

    def step(self, problem: Problem, state: State, rng: np.random.Generator) -> Stepped:
        """Try substitutions at all places; see `Strategy`."""
        state, first = scored(problem, state)
        if first:
            return Stepped(state, first)
        words = state['words']
        _, gradient_PD = problem.gradient(words, draw(problem, rng, self.gradient_examples))
        change_PA = first_order(gradient_PD, words, problem.lexicon)
        best_PC = most_promising(change_PA, words, self.top)
        drawn = rng.choice(best_PC.size, min(self.candidates, best_PC.size), replace=False)
        pairs = [(number // best_PC.shape[1], best_PC.flat[number]) for number in drawn.tolist()]
        pairs.sort(key=lambda pair: change_PA[pair])  # where calls run short the worst are left out
        return substituted(problem, state, [(place, int(word)) for place, word in pairs])
