"""Tasks that are registered with seqio: one's own, or those of the T5 libraries over TFDS."""

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

from jax_prompt.data.tasks.benchmarks import BENCHMARK_TASKS
from jax_prompt.data.tasks.rows import Row


@dataclasses.dataclass(frozen=True)
class RegisteredTask:
    """Use a task that a module has registered with seqio.

    Attributes:
        name: its name in `seqio.TaskRegistry`; import the module that registers it first.
        labels: the label words as the task writes them in its targets; None for free text.
        inputs_length, targets_length: the most tokens, end token included, virtual tokens not.
        metrics: as a `TextTask` has them.

    Raises:
        ValueError: no such task, or one without text features "inputs" and "targets".
    """

    name: str
    labels: tuple[str, ...] | None = None
    inputs_length: int = 512
    targets_length: int = 64
    metrics: tuple[str | Callable[..., dict[str, float]], ...] | None = None

    def __post_init__(self):
        features = _look_up(self.name).output_features
        missing = [key for key in ('inputs', 'targets') if key not in features]
        if missing:
            raise ValueError(f'seqio task {self.name!r} has no feature {missing[0]!r}; it has '
                             f'{", ".join(features)}; expected inputs and targets')
        if self.labels is not None:
            object.__setattr__(self, 'labels', tuple(self.labels))

    @property
    def label_words(self) -> tuple[str, ...] | None:
        """Return the label words, in order; None for free text."""
        return self.labels

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits that its source has."""
        return tuple(_look_up(self.name).splits)

    def target_text(self, row: Row) -> str:
        """Return what shall be answered to a row of `load_examples`."""
        return row.columns['targets']

    def right_answers(self, row: Row) -> tuple[str, ...]:
        """Return all that metrics take for a right answer: the target alone."""
        return (self.target_text(row),)

    def seqio_task(self, vocabulary: Any) -> Any:
        """Return the seqio.Task with its vocabulary replaced by the model's.

        A task's preprocessors take the vocabulary from its output features; one that closes over a
        vocabulary of its own keeps it.
        """
        from jax_prompt.data.seqio_tasks import as_seqio

        task = _look_up(self.name)
        features = {name: dataclasses.replace(feature, vocabulary=as_seqio(vocabulary))
                    for name, feature in task.output_features.items()}
        return task.replace(output_features=features)

    def to_dict(self) -> dict[str, Any]:
        """Return what a prompt file's metadata holds; its inputs come ready, as one column."""
        labels = None if self.labels is None else {word: word for word in self.labels}
        return {'name': self.name, 'inputs_template': '{inputs}', 'target': 'targets',
                'labels': labels, 'inputs_length': self.inputs_length,
                'targets_length': self.targets_length}


def _look_up(name: str) -> Any:
    """Find a task in seqio's registry."""
    from jax_prompt.data.quiet_tensorflow import seqio

    names = seqio.TaskRegistry.names()
    if name not in names:
        close = difflib.get_close_matches(name, [*BENCHMARK_TASKS, *names], 3)
        raise ValueError(
            f'no task {name!r} is registered with seqio ({len(names)} are); '
            + (f'did you mean {", ".join(close)}?' if close else
               'import the module that registers it first'))
    return seqio.TaskRegistry.get(name)
