"""Demonstrations: solved examples in front of an input, chosen once or for each input."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_prompt.files import brief, listed

#: Bounds on what a design may ask of everyone who shares a model with it, as a task's are.
MOST_DEMONSTRATIONS, MOST_POOLED, LONGEST_TEXT = 256, 10_000, 20_000


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """A solved example.

    Attributes:
        columns: the texts that the template shows.
        answer: the label word, or the text, that is right.
    """

    columns: Mapping[str, str]
    answer: str


@dataclasses.dataclass(frozen=True, eq=False)
class Nearest:
    """Demonstrations that are chosen for each input: those most like it.

    Attributes:
        shots: how many of them.
        pool: to choose from.
        states_ND: float32[N, D], the mean of the frozen encoder's states over each of the pool, of
            length 1.
    """

    shots: int
    pool: tuple[Demonstration, ...]
    states_ND: np.ndarray

    def __post_init__(self):
        states = np.asarray(self.states_ND)
        if type(self.shots) is not int or not 1 <= self.shots <= MOST_DEMONSTRATIONS:
            raise ValueError(f'nearest demonstrations of a design are {brief(self.shots)}; '
                             f'expected a whole number from 1 to {MOST_DEMONSTRATIONS}')
        if not 1 <= len(self.pool) <= MOST_POOLED or states.ndim != 2 or (
                len(states) != len(self.pool)) or not np.isfinite(states).all():
            raise ValueError(f'the pool of a design has {len(self.pool):,} examples and states of '
                             f'shape {states.shape}; expected a finite state for each of at most '
                             f'{MOST_POOLED:,}')
        object.__setattr__(self, 'states_ND', states.astype(np.float32))


def check_demonstration(one: Demonstration, columns: Sequence[str]) -> None:
    """Refuse one that lacks a column, or is too long.

    Raises:
        ValueError: what it has, and what was expected.
    """
    texts = [*one.columns.values(), one.answer]
    if not set(columns) <= set(one.columns) or not all(
            isinstance(text, str) and len(text) <= LONGEST_TEXT for text in texts):
        raise ValueError(f'a demonstration of a design has columns {listed(one.columns)} and the '
                         f'answer {brief(one.answer)}; expected texts of at most '
                         f'{LONGEST_TEXT:,} characters for {listed(columns)}')


def read_demonstrations(values: Any) -> tuple[Demonstration, ...]:
    """Read demonstrations as a design's `to_dict` writes them.

    Raises:
        ValueError: they are no pairs of columns and answer.
    """
    if not isinstance(values, list) or not all(
            isinstance(one, list) and len(one) == 2 and isinstance(one[0], dict)
            for one in values):
        raise ValueError(f'demonstrations of a design are {brief(values)}; expected pairs of '
                         'columns and answer')
    return tuple(Demonstration(columns, answer) for columns, answer in values)
