"""The benchmarks' tasks by name; nothing is read before a split is asked for.

Each benchmark is one table in a file beside this one: `glue`, `super_glue`, `squad` with MRQA,
`summaries`, `anli`, `classification`.
"""

import difflib
import functools
from collections.abc import Iterator

from jax_prompt.data.tasks.anli import ANLI
from jax_prompt.data.tasks.classification import CLASSIFICATION
from jax_prompt.data.tasks.definition import TaskDefinition
from jax_prompt.data.tasks.files import divided
from jax_prompt.data.tasks.glue import GLUE, TRANSFERS
from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.sources import find_source
from jax_prompt.data.tasks.squad import MRQA, SQUAD
from jax_prompt.data.tasks.summaries import SUMMARIES
from jax_prompt.data.tasks.super_glue import SUPER_GLUE
from jax_prompt.data.tasks.text_task import TextTask

#: All of them by name.
BENCHMARK_TASKS: dict[str, TaskDefinition] = {task.name: task for task in (
    *GLUE, *TRANSFERS, *SUPER_GLUE, *SQUAD, *MRQA, *SUMMARIES, *ANLI, *CLASSIFICATION)}


def benchmark_task(name: str, data_dir: str | None = None, source: str = 'auto',
                   with_name: bool = True, inputs_length: int | None = None,
                   targets_length: int | None = None) -> TextTask:
    """Make a task of a published benchmark, in T5's text format.

    Args:
        name: such as 'super_glue_boolq'; `BENCHMARK_TASKS` has all.
        data_dir: the folder that holds the benchmarks' data: official files, Parquet or Arrow
            files of the Hugging Face hub, or what TFDS has prepared. The same examples either way.
        source: 'official', 'hub' or 'tfds' for one of these; 'auto' for the first that is there.
        with_name: whether the task's name stands in front, as T5 was trained; Lester et al. (2021)
            leave it out, since a prompt tells the task.
        inputs_length: the most tokens of an input; None for the benchmark's.
        targets_length: the most tokens of a target; None for the benchmark's.

    Returns:
        The task. Its split `leaderboard` is a test whose labels only a leaderboard has.

    Raises:
        ValueError: no such task or source.
    """
    task = definition(name)
    if source not in ('auto', 'official', 'hub', 'tfds'):
        raise ValueError(f'source of task {name} is {source!r}; expected auto, official, hub or '
                         'tfds')
    return TextTask(
        name, {split: functools.partial(_rows, task, split, data_dir, source)
               for split in task.splits},
        (task.prefix if with_name else '') + task.template, task.target, task.labels,
        inputs_length or task.inputs_length, targets_length or task.targets_length,
        metrics=task.metrics, golds=task.golds)


def definition(name: str) -> TaskDefinition:
    """Return what a benchmark's table says of a task.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in BENCHMARK_TASKS:
        close = difflib.get_close_matches(name, BENCHMARK_TASKS, 3, 0.5)
        raise ValueError(f'no benchmark has a task {name!r}; '
                         + (f'did you mean {", ".join(close)}?' if close else
                            f'expected one such as {", ".join(list(BENCHMARK_TASKS)[:3])}'))
    return BENCHMARK_TASKS[name]


def _rows(task: TaskDefinition, split: str, data_dir: str | None, source: str) -> Iterator[Row]:
    """Read the rows of a split, cutting validation from training where there is none."""
    if data_dir is None and source in ('auto', 'official', 'hub'):
        raise ValueError(f'task {task.name} has no data: name the folder that holds it with '
                         '--data_dir=FOLDER; jax-prompt data prepare fills one')
    owner, own = task.part(split)
    found = find_source(owner, own, data_dir, source)
    if task.cuts_validation and split in ('train', 'validation'):
        if find_source(owner, 'validation', data_dir, source) is None:
            yield from _cut(task, split, data_dir, source)
            return
    if found is None:
        raise _missing(owner, own, data_dir)
    yield from task.rows(found(), split)


def _cut(task: TaskDefinition, split: str, data_dir: str | None, source: str) -> list[Row]:
    """Cut one text in ten from training for validation, by a hash of the text."""
    found = find_source(task, 'train', data_dir, source)
    if found is None:
        raise _missing(task, 'train', data_dir)
    return divided(task.rows(found(), 'train'), lambda row: row.columns['text'],
                   ('train', 'validation'))[split]


def _missing(task: TaskDefinition, split: str, data_dir: str | None) -> FileNotFoundError:
    files = ' or '.join(task.files.get(task.splits[split], ())) or 'its files'
    return FileNotFoundError(
        f'{data_dir} has no split {split} of {task.name}; expected {task.folders[0]}/{files}, '
        f'Parquet or Arrow files of the split in {" or ".join(task.folders[:3])}, or what TFDS '
        f'has prepared as {task.tfds}; jax-prompt data prepare fetches it')
