"""Benchmarks as a whole: several tasks, each of which gets a prompt of its own."""

import dataclasses

from jax_prompt.data.tasks.benchmarks import benchmark_task
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.files import listed

_SUPER_GLUE = ('boolq', 'cb', 'copa', 'multirc', 'record', 'rte', 'wic', 'wsc')


@dataclasses.dataclass(frozen=True, eq=False)
class Suite:
    """Hold the tasks of a benchmark.

    Attributes:
        name: of the benchmark.
        tasks: each is trained on.
        diagnostics: (task, name of the one whose prompt answers it), of which nothing is trained.
    """

    name: str
    tasks: tuple[TextTask, ...]
    diagnostics: tuple[tuple[TextTask, str], ...] = ()

    def check_data(self) -> None:
        """See that there is training and validation data for each task, by its first row.

        Raises:
            ValueError, FileNotFoundError: there is not, for one of them.
        """
        for task in self.tasks:
            for split in ('train', 'validation'):
                next(iter(task.splits[split]()), None)


def super_glue(data_dir: str | None = None, source: str = 'auto', with_name: bool = False,
               tasks: tuple[str, ...] = _SUPER_GLUE, wsc_ranking: bool = False,
               inputs_length: int | None = None, targets_length: int | None = None) -> Suite:
    """Make SuperGLUE: eight tasks, and two diagnostics that RTE's prompt answers.

    Args:
        data_dir: the folder that holds its data, see `benchmark_task`.
        source: 'official', 'hub', 'tfds' or 'auto'.
        with_name: whether the tasks' names stand in front of the inputs.
        tasks: some of them, such as ('boolq', 'rte'); there is no average of fewer than all.
        wsc_ranking: rank True and False for WSC; else the noun is written, as T5 and Lester et al.
            (2021) have it.
        inputs_length: the most tokens of an input; None for each task's own.
        targets_length: the most tokens of a target; None for each task's own, which byte models
            need more of.

    Raises:
        ValueError: SuperGLUE has no such task.
    """
    unknown = [name for name in tasks if name not in _SUPER_GLUE]
    if unknown or not tasks:
        raise ValueError(f'tasks of super_glue are {listed(tasks)}; expected some of '
                         f'{listed(_SUPER_GLUE)}')

    def make(name: str) -> TextTask:
        name = 'wsc_ranking' if name == 'wsc' and wsc_ranking else name
        return benchmark_task(f'super_glue_{name}', data_dir, source, with_name, inputs_length,
                              targets_length)

    borrowed = ('axb', 'axg') if 'rte' in tasks else ()
    return Suite('super_glue', tuple(map(make, tasks)),
                 tuple((make(name), 'super_glue_rte') for name in borrowed))
