"""Instructions as APE finds them: paraphrases by the model itself, of which a beam is kept."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from jax_prompt.search.strategy import (
    Candidate,
    Problem,
    State,
    Stepped,
    Tried,
    check_slots,
    positive,
    race,
)

#: Stands for the instruction in what the model is asked.
_INSTRUCTION = '{instruction}'


@dataclasses.dataclass(frozen=True)
class Instructions:
    """Paraphrase instructions and keep those that do best.

    A step lets the model write `variants` of each instruction of the beam, scores the new ones, and
    keeps the best of both. The search is over when a step finds nothing new.

    Attributes:
      start_texts: instructions to begin with; () for a few that name the task's labels.
      beam: instructions that are kept.
      variants: of each, a step.
      ask: what the model is told to write them.
      length: tokens of an instruction at most.
      temperature: of writing; above 0, or all variants were one.

    Source: APE, Zhou et al. 2023 (arXiv:2211.01910), section 3.4 (iterative Monte Carlo search) and
    its template for resampling; the beam is ProTeGi's, Pryzant et al. 2023 (arXiv:2305.03495).
    """

    start_texts: tuple[str, ...] = ()
    beam: int = 4
    variants: int = 6
    ask: str = ('Generate a variation of the following instruction while keeping the semantic '
                'meaning. Input: {instruction} Output:')
    length: int = 32
    temperature: float = 1.0
    name: ClassVar[str] = 'instructions'
    template: ClassVar[str] = '{search} {inputs}'

    def __post_init__(self):
        positive(self, 'beam', 'variants', 'length')
        if isinstance(self.start_texts, str) or _INSTRUCTION not in self.ask or (
                not 0 < self.temperature < float('inf')):
            raise ValueError('instructions has start_texts, ask and temperature '
                             f'{(self.start_texts, self.ask, self.temperature)!r}; expected a list '
                             f'of texts, a text with {_INSTRUCTION}, and a number above 0')

    def start(self, problem: Problem, rng: np.random.Generator) -> State:
        """Return the first instructions, not scored yet; see `Strategy`."""
        check_slots(self, problem)
        return {'beam': None}

    def step(self, problem: Problem, state: State, rng: np.random.Generator) -> Stepped:
        """Score the first instructions, or paraphrases of the best; see `Strategy`."""
        if state['beam'] is None:
            texts = list(self.start_texts) or _first_instructions(problem.labels)
            return self._kept(race(problem, [Candidate((text,)) for text in texts], self.beam), [])
        beam = [Tried(Candidate((text,)), loss) for text, loss in state['beam']]
        asked = [self.ask.replace(_INSTRUCTION, one.candidate.texts[0])
                 for one in beam for _ in range(self.variants)]
        written = problem.write(asked, self.length, self.temperature, int(rng.integers(2**31)))
        new = problem.usable([Candidate((text,)) for text in map(_cleaned, written)
                              if text and text not in state['met']])
        if not new:
            return Stepped(state, [], done=True)
        return self._kept([*beam, *race(problem, new, self.beam)],
                          [*state['met'], *(one.texts[0] for one in new)])

    def _kept(self, tried: Sequence[Tried], met: Sequence[str]) -> Stepped:
        """Return the state with the best instructions."""
        best = sorted(tried, key=lambda one: one.loss)[:self.beam]
        met = list(dict.fromkeys([*met, *(one.candidate.texts[0] for one in tried)]))
        return Stepped({'beam': [[one.candidate.texts[0], one.loss] for one in best], 'met': met},
                       list(tried))


def _first_instructions(labels: Sequence[str] | None) -> list[str]:
    """Return what an instruction may be, of a task of which the labels are all that is known."""
    if labels is None:
        return ['Answer:', 'Give the right answer to this text.', 'Read this and answer it:']
    choice = f'{", ".join(labels[:-1])} or {labels[-1]}'
    return [f'Is this {choice}?', f'Choose {choice} for this text:',
            f'Classify the following as {choice}.', f'Answer {choice}:']


def _cleaned(text: str) -> str:
    """Return a text in one line."""
    return ' '.join(text.split())
