"""A task from one's own CSV, TSV or JSONL files: name the columns, write no Python.

Splits that are not given are cut by a hash of the text, so that no text is ever in two of them.
"""

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jax_prompt.data.tasks.rows import Row, read_rows
from jax_prompt.data.tasks.text_task import TextTask

_log = logging.getLogger(__name__)


def file_task(
    train_file: str,
    validation_file: str | None = None,
    test_file: str | None = None,
    inputs_template: str = '{text}',
    target_column: str = 'label',
    labels: Mapping[Any, str] | tuple[str, ...] | str | None = None,
    inputs_length: int = 512,
    targets_length: int = 64,
) -> TextTask:
    """Make a task of one's own files.

    Without a validation file one text in ten is cut from the training file for it, chosen by a
    hash of the text; with neither a validation nor a test file, another one in ten for the test.
    Before cutting, rows with the same text (case and white space apart) and target are taken once,
    and with labels, texts whose rows disagree on the target are left out. Files that are given are
    used as they are.

    Args:
        train_file, validation_file, test_file: .csv, .tsv or .jsonl, each plain or .gz. The task
            is called by the training file's name.
        inputs_template: the input, with column names in braces.
        target_column: the column of the answer.
        labels: raw value -> word, or the words; 'auto' for the different values of the target
            column in the training split, sorted; None for free text.
        inputs_length: the most tokens of an input, end token included, virtual tokens not.
        targets_length: the most tokens of a target, end token included.

    Returns:
        The task.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a column is not there, or anything else `TextTask` and `read_rows` refuse.
    """
    name = os.path.basename(str(train_file)).split('.')[0]
    task = functools.partial(
        TextTask, name, inputs_template=inputs_template, target=target_column,
        inputs_length=inputs_length, targets_length=targets_length)
    given = {'train': train_file, 'validation': validation_file, 'test': test_file}
    given = {split: path for split, path in given.items() if path}
    plain = task(given)
    _check_first_rows(plain)
    splits = dict(given)
    if not validation_file:
        names = ('train', 'validation') if test_file else ('train', 'validation', 'test')
        cut = functools.cache(functools.partial(_cut, plain, labels is None, names))
        splits |= {split: lambda split=split: cut()[split] for split in names}
    if labels == 'auto':
        read = task(splits)
        labels = tuple(sorted({read.raw_target(row) for row in read.rows('train')}))
    return task({split: splits[split] for split in ('train', 'validation', 'test')
                 if split in splits}, labels=labels)


def _check_first_rows(task: TextTask) -> None:
    """Read one row of each file, so that a wrong name shows before a model is loaded."""
    for split, path in task.splits.items():
        row = next(iter(read_rows(path)), None)
        if row is None:
            raise ValueError(f'split {split!r} of task {task.name} ({path}) is empty: no rows')
        task.render(row)
        task.raw_target(row)


def _cut(task: TextTask, free_text: bool, names: tuple[str, ...]) -> dict[str, list[Row]]:
    """Cut the training file of a task into splits."""
    columns = sorted(task.columns)

    def text_of(row: Row) -> str:
        # The columns, not the rendered input: rewording the template moves no text.
        task.render(row)
        return '\n'.join(str(row.columns[column]) for column in columns)

    rows = without_duplicates(task.rows('train'), text_of, task.raw_target, task.name,
                              drop_conflicts=not free_text)
    parts = divided(rows, text_of, names)
    empty = [split for split, part in parts.items() if not part]
    if empty:
        raise ValueError(
            f'{task.splits["train"]} has {len(rows)} different texts, too few to cut a '
            f'{empty[0]} split from them; give files for validation and test')
    return parts


def normalized(text: str) -> str:
    """Return a text without differences in case and white space."""
    return ' '.join(text.split()).casefold()


def split_of(text: str) -> str:
    """Return the split of a text: one in ten is 'test', one in ten 'validation', the rest 'train'.

    The hash depends on nothing but the normalized text: the split stays when rows come and go.
    """
    digest = hashlib.blake2b(normalized(text).encode(), digest_size=8).digest()
    return {0: 'test', 1: 'validation'}.get(int.from_bytes(digest, 'big') % 10, 'train')


def divided(rows: Iterable[Row], text_of: Callable[[Row], str],
            names: Sequence[str] = ('train', 'validation', 'test')) -> dict[str, list[Row]]:
    """Deal rows out by `split_of` their texts; those of a split that is not named go to train."""
    parts: dict[str, list[Row]] = {split: [] for split in names}
    for row in rows:
        split = split_of(text_of(row))
        parts[split if split in parts else 'train'].append(row)
    return parts


def without_duplicates(
    rows: Sequence[Row], text_of: Callable[[Row], str], target_of: Callable[[Row], str],
    name: str, drop_conflicts: bool = True,
) -> list[Row]:
    """Keep the first of the rows with the same text and target, in order.

    Args:
        rows: what a source gives.
        text_of: the text by which rows are the same, whatever their case and white space.
        target_of: the answer.
        name: of the source, for the log.
        drop_conflicts: whether all rows of a text with different targets are dropped, as one of
            them must be wrong; else (free text) each target of a text is kept.

    Returns:
        The rows kept.
    """
    targets: dict[str, set[str]] = {}
    unique = []
    for row in rows:
        text, target = normalized(text_of(row)), target_of(row)
        seen = targets.setdefault(text, set())
        if target not in seen:
            seen.add(target)
            unique.append((text, row))
    kept = [row for text, row in unique if not drop_conflicts or len(targets[text]) == 1]
    if len(kept) < len(rows):
        conflicts = sum(len(seen) > 1 for seen in targets.values()) if drop_conflicts else 0
        _log.info('%s: %d of %d rows dropped as duplicates, among them all rows of %d texts with '
                  'conflicting targets', name, len(rows) - len(kept), len(rows), conflicts)
    return kept
