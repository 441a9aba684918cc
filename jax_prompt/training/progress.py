"""What a run knows beside its training state, and keeps with every checkpoint."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax_prompt.training.settings import TrainSettings

#: What a run of a single task keeps of it, beside what it knows of itself.
_OF_TASK = ('start', 'best', 'best_step', 'waited')


@dataclasses.dataclass(frozen=True)
class Kept:
    """What became of one task's prompt so far.

    Attributes:
      start: the validation's metrics before training; none before the first evaluation.
      best: those of the best prompt.
      best_step: its step.
      waited: evaluations since.
    """

    start: dict[str, float] = dataclasses.field(default_factory=dict)
    best: dict[str, float] = dataclasses.field(default_factory=dict)
    best_step: int = 0
    waited: int = 0


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run knows beside its training state; saved with every checkpoint.

    Attributes:
      tasks: what became of each task's prompt.
      pruned: whether `on_evaluation` ended the run.
      finished_at: the step at which the run ended; None while it runs.
      results: name of a problem ('' for the only one) -> heading -> metrics of the end, for a run
        that ended.
      compared: whether those are with the comparisons that `settings.compare` asks for.
      unreported: metrics of the last steps that stand in no line of the log yet, a dict a step;
        only in the checkpoint of a run that was told to stop.
      logged: digest of the log up to the checkpoint.
    """

    tasks: tuple[Kept, ...] = (Kept(),)
    pruned: bool = False
    finished_at: int | None = None
    results: dict[str, Any] = dataclasses.field(default_factory=dict)
    compared: bool = False
    unreported: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    logged: str | None = None

    def is_over(self, step: int, settings: TrainSettings) -> bool:
        """Say whether no step is left, patience has run out for all, or somebody ended the run."""
        out_of_patience = settings.patience is not None and all(
            one.waited >= settings.patience for one in self.tasks)
        return step >= settings.steps or out_of_patience or self.pruned

    def to_record(self) -> dict[str, Any]:
        """Return it as JSON can hold it; of a single task flat, as it was before."""
        record = dataclasses.asdict(self)
        tasks = record.pop('tasks')
        if len(tasks) > 1:
            return record | {'tasks': list(tasks)}
        return record | tasks[0] | {'results': self.results.get('', {})}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> 'Progress':
        """Read what `to_record` gave."""
        record = dict(record)
        if 'tasks' in record:
            tasks = record.pop('tasks')
        else:
            tasks = [{name: record.pop(name) for name in _OF_TASK}]
            record['results'] = {'': record['results']} if record['results'] else {}
        return cls(tuple(Kept(**one) for one in tasks), **record)
