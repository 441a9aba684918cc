"""Mixtures: several tasks that are learned in one run, and how often each comes."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jax_prompt.data.mixing import rates
from jax_prompt.data.tasks.registered import RegisteredTask


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Train a prompt for each of several tasks in one run.

    Attributes:
      tasks: each a `TextTask` or `RegisteredTask`, of different names.
      mixing: 'equal', or 'proportional' to the examples of each task.
      temperature: of proportional mixing; 1 is proportional, and the higher, the more equal.
      maximum: examples of a task that count at most in proportional mixing; None for all.
      given_rates: how often each task comes, in place of all that; None to go by `mixing`.

    Raises:
      ValueError: no tasks, two of one name, rates of others, or a mixing that there is not.
    """

    tasks: tuple[Any, ...]
    mixing: str = 'equal'
    temperature: float = 1.0
    maximum: int | None = None
    given_rates: tuple[float, ...] | None = None

    def __post_init__(self):
        object.__setattr__(self, 'tasks', tuple(self.tasks))
        if not self.tasks:
            raise ValueError('the run has no tasks; expected at least one')
        names = collections.Counter(task.name for task in self.tasks)
        for name, count in names.items():
            if count > 1:
                raise ValueError(f'{count} tasks of the run are called {name!r}, by which prompt '
                                 'files and figures would be told apart; give them different names')
        self.rates([1] * len(self.tasks))

    def rates(self, counts: Sequence[int]) -> list[float]:
        """Return how often each task comes, relative to the others.

        Args:
          counts: examples of each task.

        Raises:
          ValueError: as the class does.
        """
        if self.given_rates is None:
            return rates(counts, self.mixing, self.temperature, self.maximum)
        if len(self.given_rates) != len(self.tasks) or min(self.given_rates) <= 0:
            raise ValueError(f'rates are {list(self.given_rates)} for {len(self.tasks)} tasks; '
                             'expected a positive number for each')
        return list(self.given_rates)


def registered_mixture(name: str, labels: Mapping[str, Sequence[str]] | None = None,
                       inputs_length: int = 512, targets_length: int = 64) -> Mixture:
    """Read a mixture of seqio's: its tasks, and the rates that it was given.

    Args:
      name: in `seqio.MixtureRegistry`; import the module that registers it first.
      labels: name of a task -> its label words, for tasks that have some.
      inputs_length, targets_length: the most tokens, end token included, virtual tokens not.

    Raises:
      ValueError: no such mixture, labels of a task that it has not, or a task that cannot be used.
    """
    from jax_prompt.data.quiet_tensorflow import seqio

    if name not in seqio.MixtureRegistry.names():
        raise ValueError(f'no mixture {name!r} is registered with seqio '
                         f'({len(seqio.MixtureRegistry.names())} are); import the module that '
                         'registers it first')
    mixture, labels = seqio.MixtureRegistry.get(name), labels or {}
    tasks = sorted(mixture.tasks, key=lambda task: task.name)
    unknown = sorted(labels.keys() - {task.name for task in tasks})
    if unknown:
        raise ValueError(f'labels are given for {unknown[0]!r}, which mixture {name} has not; it '
                         f'has {", ".join(task.name for task in tasks)}')
    return Mixture(
        tuple(RegisteredTask(task.name, labels.get(task.name) and tuple(labels[task.name]),
                             inputs_length, targets_length) for task in tasks),
        given_rates=tuple(float(mixture.get_rate(task)) for task in tasks))
