"""The search space: which settings a sweep varies, and over what."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jax_prompt.files import listed

if TYPE_CHECKING:
    import optuna

_RANGE = ('low', 'high', 'log', 'step')


@dataclasses.dataclass(frozen=True)
class Choices:
    """One of some values, each of them plain: None, a truth value, a number or text."""

    values: tuple[Any, ...]

    def suggest(self, trial: 'optuna.Trial', name: str) -> Any:
        """Draw a value for a trial, or return the one that was drawn for it."""
        return trial.suggest_categorical(name, self.values)

    def told(self) -> Any:
        """Return it as it was given."""
        return list(self.values)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Return values of which one is wrong if any is."""
        return self.values


@dataclasses.dataclass(frozen=True)
class Range:
    """A number between two, both included; whole if both are.

    Attributes:
      low, high: the ends.
      log: draw its logarithm evenly, as suits rates.
      step: only `low + i * step`; None for all.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    def suggest(self, trial: 'optuna.Trial', name: str) -> int | float:
        """Draw a value for a trial, or return the one that was drawn for it."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log, step=self.step or 1)
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)

    def told(self) -> Any:
        """Return it as it was given."""
        return {name: value for name, value in dataclasses.asdict(self).items()
                if value not in (None, False)}

    @property
    def ends(self) -> tuple[Any, ...]:
        """Return values of which one is wrong if any is."""
        return self.low, self.high


@dataclasses.dataclass(frozen=True)
class Space:
    """What a sweep varies: name of a setting -> what it is drawn from."""

    parameters: Mapping[str, Choices | Range]

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> 'Space':
        """Read a search space.

        Args:
          given: name -> a list of values, or {'low': 0.05, 'high': 1.0, 'log': True} with 'step'
            where not every number shall do.

        Raises:
          ValueError: nothing to vary, a list without values, a range without numbers, or what is
            neither.

        Example:
            >>> Space.of({'prompt.rows': [5, 20]}).parameters['prompt.rows']
            Choices(values=(5, 20))
        """
        if not isinstance(given, Mapping) or not given:
            raise ValueError(f'the search space is {given!r}; expected names with values, such as '
                             "{'prompt.rows': [5, 20], "
                             "'adafactor.learning_rate': {'low': 0.05, 'high': 1.0, 'log': True}}")
        return cls({name: _parameter(name, value) for name, value in given.items()})

    def suggest(self, trial: 'optuna.Trial') -> dict[str, Any]:
        """Draw what a trial has not drawn yet; return all of it."""
        return {name: one.suggest(trial, name) for name, one in self.parameters.items()}

    def grid(self) -> Iterator[dict[str, Any]]:
        """Yield all there is, the last parameter changing first.

        Raises:
          ValueError: a range, of which there is no end.
        """
        for name, one in self.parameters.items():
            if isinstance(one, Range):
                raise ValueError(f'{name} is a range, of which a grid has no end; give its values '
                                 "as a list, or use sampler='tpe'")
        for values in itertools.product(*(one.values for one in self.parameters.values())):
            yield dict(zip(self.parameters, values, strict=True))

    def told(self) -> dict[str, Any]:
        """Return it as it was given, ready for JSON."""
        return {name: one.told() for name, one in self.parameters.items()}


def _parameter(name: str, given: Any) -> Choices | Range:
    if isinstance(given, Mapping):
        return _range(name, given)
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise ValueError(f'{name} is {given!r} in the search space; expected a list of values or '
                         "{'low': ..., 'high': ...}")
    if not given:
        raise ValueError(f'{name} has no values in the search space; name some, or leave it out')
    for value in given:
        if not (value is None or isinstance(value, bool | int | float | str)):
            raise ValueError(f'{name} has the value {type(value).__name__} in the search space; '
                             "write what gin shall make of it in quotes, such as '@uniform()'")
    repeated = [value for number, value in enumerate(given)
                if any(value == other and type(value) is type(other) for other in given[:number])]
    if repeated:
        raise ValueError(f'{name} has the value {repeated[0]!r} twice in the search space; leave '
                         'one out')
    return Choices(tuple(given))


def _range(name: str, given: Mapping[str, Any]) -> Range:
    unknown = [key for key in given if key not in _RANGE]
    if unknown or not {'low', 'high'} <= given.keys():
        what = f'has {unknown[0]!r}' if unknown else f'has {listed(given)}'
        raise ValueError(f'the range of {name} {what}; expected low and high, with log or step if '
                         'need be')
    low, high, log, step = (given.get(key) for key in _RANGE)
    for key, value in (('low', low), ('high', high), ('step', step)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value) or (key == 'step' and value is None)):
            raise ValueError(f'the range of {name} has {key}={value!r}; expected a number')
    if low >= high:
        raise ValueError(f'the range of {name} is empty: low={low} is not below high={high}')
    if log and (low <= 0 or step is not None):
        raise ValueError(f'the range of {name} is drawn by its logarithm with low={low} and '
                         f'step={step}; expected low above 0, and no step')
    if step is not None and not 0 < step <= high - low:
        raise ValueError(f'the range of {name} has step={step}; expected above 0, at most '
                         f'{high - low}')
    return Range(low, high, bool(log), step)
