"""The data of a comparison: cut to size, and without the test."""

import collections
import dataclasses
import functools
import hashlib
import random
from collections.abc import Sequence
from typing import Any

from jax_prompt.config import config_of
from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.metrics import Metric, most_common
from jax_prompt.evaluation.registry import metrics_of
from jax_prompt.files import listed
from jax_prompt.inference.rows import Prediction

SPLITS = ('train', 'validation', 'test')


def check_sizes(tasks: Sequence[TextTask], sizes: Sequence[int | None]) -> None:
    """Check that each task has its splits, and as many examples as are asked for.

    Raises:
      ValueError: it has not; or a task is none of text.
    """
    for task in tasks:
        if not isinstance(task, TextTask):
            raise ValueError(f'task {task.name} is of seqio\'s registry, whose examples cannot be '
                             'drawn; give compare a file or a task of a benchmark')
        missing = [split for split in SPLITS if split not in task.splits]
        if missing:
            raise ValueError(f'task {task.name} has no split {missing[0]}; compare trains on '
                             'train, chooses on validation and measures on test: give it files '
                             'for all three, or one file, which is cut')
        count = len(task.rows('train'))
        for size in sizes:
            if size is not None and size > count:
                raise ValueError(f'comparison.sizes has {size:,}, but task {task.name} has '
                                 f'{count:,} examples of training; expected at most as many, or '
                                 'None for all')


def held(task: TextTask) -> TextTask:
    """Return a task with its rows in memory: many read them."""
    return dataclasses.replace(task, splits={
        split: functools.partial(list, task.rows(split)) for split in SPLITS})


def for_contenders(task: TextTask, size: int | None, seed: int,
                   validation: int | None) -> TextTask:
    """Return what contenders may see of a task: its training and validation, cut; never its test.

    Args:
      task: with all three splits.
      size: examples of training, drawn by the seed, as many of each label as can be; a larger
        sample of the same seed holds a smaller one. None for all.
      seed: of drawing.
      validation: examples of validation at most; with a size never more than that, since who has 16
        labelled examples has no 500 to choose by (Perez et al. 2021, arXiv:2105.11447).
    """
    limits = [one for one in (size, validation) if one is not None]
    rows = {'train': task.rows('train'), 'validation': task.rows('validation')}
    if size is not None:
        rows['train'] = drawn(task, rows['train'], size, seed)
    if limits and min(limits) < len(rows['validation']):
        # Of a validation that nothing but its own limit cuts all seeds see the same.
        rows['validation'] = drawn(task, rows['validation'], min(limits),
                                   0 if size is None else seed)
    return dataclasses.replace(task, splits={
        split: functools.partial(list, some) for split, some in rows.items()})


def drawn(task: TextTask, rows: Sequence[Row], size: int, seed: int) -> list[Row]:
    """Draw rows without replacement, in turns of each label where the task has labels."""
    groups = collections.defaultdict(list)
    for row in rows:
        groups[task.target_text(row) if task.label_words else ''].append(row)
    for label in sorted(groups):
        random.Random(f'{seed} {label}').shuffle(groups[label])
    turns = sorted((place, label) for label, some in groups.items() for place in range(len(some)))
    return [groups[label][place] for place, label in turns[:size]]


def figure_of(task: TextTask, asked: str | None) -> tuple[str, Metric]:
    """Return the figure that contenders are told apart by, and the metric that gives it.

    Args:
      task: whose metrics judge.
      asked: the figure's name; None for the first one.

    Raises:
      ValueError: the task has no such figure, or not of the texts of answers alone.
    """
    rows = task.rows('validation')
    answers = [Prediction(most_common(task, rows).text)] * len(rows)
    names = []
    for metric in metrics_of(task, 'greedy' if task.label_words is None else 'rank'):
        try:
            found = list(metric(answers, rows))
        except (TypeError, AttributeError):  # it judges scores, which a record does not keep
            continue
        names += found
        if asked in found or asked is None and found:
            return asked or found[0], metric
    raise ValueError(f'comparison.metric is {asked!r}, which task {task.name} does not give of the '
                     f'texts of answers; expected one of {listed(names)}')


def digest_of(task: TextTask) -> dict[str, Any]:
    """Tell a task and its rows from any others, ready for JSON."""
    found: dict[str, Any] = {'task': task.to_dict(), 'metrics': config_of(task.metrics)}
    for split in SPLITS:
        rows = task.rows(split)
        told = ''.join(f'{task.render(row)}\0{task.target_text(row)}\0' for row in rows)
        digest = hashlib.blake2b(told.encode(errors='surrogatepass'), digest_size=8).hexdigest()
        found[split] = f'{len(rows)} rows, {digest}'
    return found
