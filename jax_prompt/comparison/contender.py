"""What takes part in a comparison, and what is asked of it.

A contender is given a trial: a model, a task without its test, a seed and a folder. It gives back
what answers. The comparison alone measures that on the test, the same way for all.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

from jax_prompt.comparison.clock import Clock
from jax_prompt.data.design import Design
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.inference.ensemble import VOTE
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt, no_prompt
from jax_prompt.types import Params


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """What a contender is given: nothing of the test is in it.

    Attributes:
      opened: the frozen model, which all contenders share.
      task: with the splits train and validation, cut to the size of this trial.
      seed: of whatever is drawn.
      folder: the trial's own; what is left in it is there again after a kill.
      clock: tells seconds without those of compiling.
    """

    opened: OpenedModel
    task: TextTask
    seed: int
    folder: pathlib.Path
    clock: Clock


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """What answers, and what it took to get there.

    Attributes:
      prompts: one, or the members of an ensemble, of one size.
      layout: where their virtual tokens stand.
      trained_numbers: how many numbers were trained; 0 for none.
      stored_bytes: of what must be kept beside the frozen model to answer.
      examples: that were learned from, repeated ones too, up to what is kept; demonstrations, or
        what a search scored.
      seconds: up to then, evaluations in them and compiling not.
      weights: that stand in for frozen ones; {} for none.
      design: words the inputs and the labels; None where the task does.
      way: how the members of an ensemble make one answer.
      curve: (examples, seconds, metrics on the validation) of each evaluation on the way.
      validation: the metrics of what is kept on the trial's validation; None to be measured.
    """

    prompts: tuple[Prompt, ...]
    layout: Layout = Layout()
    trained_numbers: int = 0
    stored_bytes: int = 0
    examples: int = 0
    seconds: float = 0.0
    weights: Params = dataclasses.field(default_factory=dict)
    design: Design | None = None
    way: str = VOTE
    curve: Sequence[dict[str, Any]] = ()
    validation: dict[str, float] | None = None


class Contender(Protocol):
    """A way to have a task answered.

    Attributes:
      name: what tables and folders call it.
      seeded: whether another seed gives another result; else it takes part once.
      sized: whether more examples of training give another result; else it takes part once, with
        the validation of all examples.
    """

    name: str
    seeded: bool
    sized: bool

    def config(self) -> dict[str, Any]:
        """Return all that decides its results, ready for JSON."""

    def check(self, task: TextTask) -> None:
        """Refuse, with ValueError, a task that it cannot take part in, before anything runs."""

    def fit(self, trial: Trial) -> Fitted:
        """Do what it does on the data of a trial, or go on with what a kill has left of it."""


@dataclasses.dataclass(frozen=True)
class Plain:
    """The frozen model with the task's own template: zero-shot, and what all others must surpass.

    Attributes:
      name: what it is called.
    """

    name: str = 'plain template'
    seeded: bool = dataclasses.field(default=False, init=False)
    sized: bool = dataclasses.field(default=False, init=False)

    def config(self) -> dict[str, Any]:
        """Return all that decides its results."""
        return {'kind': 'plain'}

    def check(self, task: TextTask) -> None:
        """Any task will do."""

    def fit(self, trial: Trial) -> Fitted:
        """Return the model as it is."""
        return Fitted((no_prompt(trial.opened.model.d_model),))
