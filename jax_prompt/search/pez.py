"""PEZ: rows are trained as a soft prompt's, by the gradient at the words nearest to them."""

import dataclasses
from typing import ClassVar

import numpy as np

from jax_prompt.search.arrays import from_text, to_text
from jax_prompt.search.strategy import (
    Problem,
    State,
    Stepped,
    check_slots,
    draw,
    positive,
    race,
)
from jax_prompt.search.substitution import of_words, start_words

_DECAYS, _TINY = (0.9, 0.999), 1e-8


@dataclasses.dataclass(frozen=True)
class PEZ:
    """Search by projected gradients: hard prompts made easy.

    Each update projects the rows to the nearest words, takes the gradient there, and moves the rows
    by it; the rows themselves are never read by the model. A step makes `updates` of them and
    scores the prompts that the rows came by.

    Attributes:
      length: P, words to search.
      start_text: words to start from, in place of `length` frequent ones drawn by the seed.
      rate: Adam's learning rate, in units of the embeddings' root mean square, since models differ
        in the size of their embeddings by a factor of hundreds.
      updates: before the prompts that were met are scored.
      gradient_examples: that a gradient is taken of.

    Source: Wen et al. 2023 (arXiv:2302.03668), algorithm 1; nearest by cosine, and AdamW, of which
    the decay is left out, as in the authors' code.
    """

    length: int = 4
    start_text: str = ''
    rate: float = 0.3
    updates: int = 4
    gradient_examples: int = 32
    name: ClassVar[str] = 'pez'
    template: ClassVar[str] = '{search} {inputs}'

    def __post_init__(self):
        positive(self, 'length', 'updates', 'gradient_examples')
        if not 0 < self.rate < float('inf'):
            raise ValueError(f'pez.rate is {self.rate}; expected a number above 0')

    def start(self, problem: Problem, rng: np.random.Generator) -> State:
        """Return the rows of the words to start from; see `Strategy`."""
        check_slots(self, problem)
        rows_PD = problem.lexicon.rows_AD[start_words(self, problem, rng)]
        nothing = to_text(np.zeros_like(rows_PD))
        return {'rows': to_text(rows_PD), 'mean': nothing, 'square': nothing, 'updates': 0,
                'scored': []}

    def step(self, problem: Problem, state: State, rng: np.random.Generator) -> Stepped:
        """Make some updates and score the prompts that were met; see `Strategy`."""
        rows_PD, mean_PD, square_PD = (from_text(state[name])
                                       for name in ('rows', 'mean', 'square'))
        scale = self.rate * np.sqrt(np.mean(np.square(problem.lexicon.rows_AD)))
        met = []
        for update in range(state['updates'] + 1, state['updates'] + 1 + self.updates):
            met.append(nearest(rows_PD, problem.lexicon.rows_AD).tolist())
            _, gradient_PD = problem.gradient(met[-1], draw(problem, rng, self.gradient_examples))
            mean_PD = _DECAYS[0] * mean_PD + (1 - _DECAYS[0]) * gradient_PD
            square_PD = _DECAYS[1] * square_PD + (1 - _DECAYS[1]) * np.square(gradient_PD)
            corrected_PD = np.sqrt(square_PD / (1 - _DECAYS[1] ** update))
            moved_PD = mean_PD / (1 - _DECAYS[0] ** update) / (corrected_PD + _TINY)
            rows_PD = (rows_PD - scale * moved_PD).astype(np.float32)
        met.append(nearest(rows_PD, problem.lexicon.rows_AD).tolist())
        texts = [problem.lexicon.text(words) for words in met]
        new = [words for words, text in zip(met, texts, strict=True) if text not in state['scored']]
        tried = race(problem, [of_words(problem, words) for words in new]) if new else []
        return Stepped({
            'rows': to_text(rows_PD), 'mean': to_text(mean_PD), 'square': to_text(square_PD),
            'updates': state['updates'] + self.updates,
            'scored': list(dict.fromkeys([*state['scored'], *texts]))}, tried)


def nearest(rows_PD: np.ndarray, table_AD: np.ndarray) -> np.ndarray:
    """Return of each row the entry of a table with the largest cosine: int[P]."""
    lengths_A = np.linalg.norm(table_AD, axis=1)
    return np.argmax(rows_PD @ table_AD.T / np.where(lengths_A > 0, lengths_A, 1), axis=1)
