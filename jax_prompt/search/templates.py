"""Templates as LM-BFF finds them: the model fills the blanks around solved examples."""

import dataclasses
from typing import ClassVar

import numpy as np

from jax_prompt.search.strategy import (
    Candidate,
    Problem,
    State,
    Stepped,
    check_slots,
    draw,
    positive,
    race,
)


@dataclasses.dataclass(frozen=True)
class Templates:
    """Let the model fill each `{search}` of the template, the right answer in its place.

    One beam search writes for all the examples at once: what it maximises is the sum over them of
    the words' log-probabilities. The first step writes; each later one scores some of what was
    written, the likeliest first.

    Attributes:
      beams: ways in which the search is followed, and so templates that are written.
      examples: that they are written for; labels alike.
      length: tokens to write at most, sentinels included.
      temperature: 0 for beam search; above, each way draws its next token from the mean
        log-probability divided by it.
      at_once: templates that a step scores.

    Source: LM-BFF, Gao et al. 2021 (arXiv:2012.15723), section 5.2 and equation 4, with a beam of
    100 there.
    """

    beams: int = 32
    examples: int = 16
    length: int = 16
    temperature: float = 0.0
    at_once: int = 32
    name: ClassVar[str] = 'templates'
    template: ClassVar[str] = '{inputs} {search} {answer} {search}'

    def __post_init__(self):
        positive(self, 'beams', 'examples', 'length', 'at_once')
        if not 0 <= self.temperature < float('inf'):
            raise ValueError(f'templates.temperature is {self.temperature}; expected a number from '
                             '0 (beam search)')

    def start(self, problem: Problem, rng: np.random.Generator) -> State:
        """Return nothing written yet; see `Strategy`."""
        check_slots(self, problem, None)
        return {'waiting': None}

    def step(self, problem: Problem, state: State, rng: np.random.Generator) -> Stepped:
        """Write templates, or score some; see `Strategy`."""
        if state['waiting'] is None:
            examples = draw(problem, rng, self.examples)
            found = problem.fill(examples, self.beams, self.length, self.temperature,
                                 int(rng.integers(2**31)))
            waiting = [one.to_json() for one in problem.usable(list(map(Candidate, found)))]
            return Stepped({'waiting': waiting}, [], not waiting)
        return race_waiting(problem, state, self.at_once)


def race_waiting(problem: Problem, state: State, at_once: int) -> Stepped:
    """Score the first of the candidates that wait in a state."""
    now, later = state['waiting'][:at_once], state['waiting'][at_once:]
    tried = race(problem, list(map(Candidate.from_json, now)), keep=4)
    return Stepped(state | {'waiting': later}, tried, not later)
