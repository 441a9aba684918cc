"""A task from one's own files: name the columns, write no Python.

Splits that are not given are cut by a hash of the text, so that no text is ever in two of them.
"""

import collections
import dataclasses
import functools
import hashlib
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jax_prompt.data.tasks.columnar import class_names, split_files
from jax_prompt.data.tasks.rows import Row, read_rows
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.files import listed

_log = logging.getLogger(__name__)

#: Values of a column of labels that say that there is none.
_MISSING = ('', 'nan', '<na>', '#n/a', 'null')
#: More different values than these are free text, or more than ranking is good for.
_MOST_LABELS = 1000
#: Names of training files that say nothing of what is in them.
_PLAIN_NAMES = ('train', 'training', 'data', 'dataset')


@dataclasses.dataclass(frozen=True)
class FileSettings:
    """Say which files hold a task, and how they are read.

    Attributes:
        train_file, validation_file, test_file: .csv, .tsv, .json or .jsonl, each plain or .gz,
            .parquet or .arrow. The training file may be a folder with all three, as Hugging Face's
            `datasets` saves it or the hub holds it (train-00000-of-00001.parquet, dev.jsonl).
        inputs_template: the input, with column names in braces.
        target_column: the column of the answer; of a list of right ones (of JSON, Parquet, Arrow)
            the first is trained on, and metrics take any for right.
        labels: raw value -> word, or the words; 'auto' for the different values of the target
            column in the training file, sorted, or the names that Hugging Face's `datasets` keeps
            in the file for numbers; None for free text.
        inputs_length: the most tokens of an input, end token included, virtual tokens not.
        targets_length: the most tokens of a target, end token included.
        delimiter: what separates columns, where it is not what the files' endings say; a first line
            such as `sep=;` says it too.
        escape: what stands before quotation marks that are text, in files that do not double them.
        name: of the task; None for the training file's, or its folder's where the file is called
            train or data.
        metrics: what predictions are judged by, such as ('accuracy', 'macro_f1'), names of
            `evaluation.registry.METRICS` or functions; the first one's first value chooses the best
            prompt. None for accuracy, or exact match of free text.
        golds_column: the column of all right answers, where it is not the target column.
        golds_separator: what stands between right answers in one cell, such as '|'.
    """

    train_file: str
    validation_file: str | None = None
    test_file: str | None = None
    inputs_template: str = '{text}'
    target_column: str = 'label'
    labels: Mapping[Any, str] | tuple[str, ...] | str | None = None
    inputs_length: int = 512
    targets_length: int = 64
    delimiter: str | None = None
    escape: str | None = None
    name: str | None = None
    metrics: tuple[str | Callable[..., dict[str, float]], ...] | None = None
    golds_column: str | None = None
    golds_separator: str | None = None


@functools.wraps(FileSettings, assigned=('__annotations__',), updated=())
def file_task(*arguments: Any, **settings: Any) -> TextTask:
    """Make a task of one's own files; takes what `FileSettings` has.

    Without a validation split one text in ten is cut from the training file for it, chosen by a
    hash of the text; with neither a validation nor a test file, another one in ten for the test.
    Before cutting, rows with the same text (case and white space apart) and target are taken once,
    and with labels, texts whose rows disagree on the target are left out; a label that would have
    no text in training has all of them there. Files that are given are used as they are.

    All rows are read and checked here, so that what is wrong with one shows before a model is
    opened.

    Returns:
        The task.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a column is not there, or anything else `TextTask` and `read_rows` refuse.
    """
    told = FileSettings(*arguments, **settings)
    files = _files_of(told)
    task = TextTask(told.name or _name_of(told.train_file), {}, told.inputs_template,
                    told.target_column, None if told.labels == 'auto' else told.labels,
                    told.inputs_length, told.targets_length, metrics=told.metrics,
                    golds=told.golds_column)
    rows = {split: _read(task, split, paths, told) for split, paths in files.items()}
    if told.labels == 'auto':
        names = class_names(files['train'][0], task.target)
        task = dataclasses.replace(task, labels=_labels_of(task, rows['train']) if names is None
                                   else dict(enumerate(names)))
    for split, found in rows.items():
        _tell_empty(task, split, found)
    if 'validation' not in files:
        names = ('train', 'validation') if 'test' in files else ('train', 'validation', 'test')
        rows |= _cut(task, rows['train'], names, files['train'][0])
    return dataclasses.replace(task, splits={
        split: functools.partial(rows.__getitem__, split)
        for split in ('train', 'validation', 'test') if split in rows})


def _files_of(told: FileSettings) -> dict[str, list[str]]:
    """Return what the splits are read from; files that are named win over those of a folder."""
    path = str(told.train_file)
    files = {'train': [path]}
    if os.path.isdir(path):
        files = split_files(path)
        if 'train' not in files:
            raise ValueError(f'the folder {path} has no training data; expected what '
                             'datasets.save_to_disk writes, or files such as train.jsonl and '
                             f'validation-00000-of-00001.parquet; it holds '
                             f'{listed(sorted(os.listdir(path)), 4)}')
    named = {'validation': told.validation_file, 'test': told.test_file}
    files |= {split: [str(path)] for split, path in named.items() if path}
    return {split: files[split] for split in ('train', 'validation', 'test') if split in files}


def _name_of(path: str) -> str:
    """Return a file's name without its endings, or its folder's where that says more."""
    path = os.path.abspath(path)
    name = re.sub(r'(?i)\.(csv|tsv|jsonl?|parquet|arrow)(\.gz)?$', '', os.path.basename(path))
    folder = os.path.basename(os.path.dirname(path))
    return folder if folder and name.lower() in _PLAIN_NAMES else name or 'task'


def _read(task: TextTask, split: str, paths: Sequence[str], told: FileSettings) -> list[Row]:
    """Read a split's files, and see that each row has what the task reads."""
    rows = [_separated(row, task.golds or task.target, told.golds_separator)
            for path in paths for row in read_rows(path, told.delimiter, told.escape)]
    if not rows:
        raise ValueError(f'split {split!r} of task {task.name} ({paths[0]}) is empty: no rows')
    for column in (*task.columns, task.target, *filter(None, [task.golds])):
        values = ((row.columns.get(column, ''), row.where) for row in rows)
        nothing = [where for value, where in values if value is None or value != value]
        if nothing:
            raise ValueError(f'column {column!r} at {nothing[0]} holds nothing (null or NaN), as '
                             f'do {len(nothing):,} of {len(rows):,} rows; expected text or a '
                             'number; fill them in or take them out')
    for row in rows:
        task.render(row)
        task.raw_target(row)
        task.raw_golds(row)
    return rows


def _separated(row: Row, column: str, separator: str | None) -> Row:
    """Return a row whose right answers, which stand in one text, are a list."""
    text = row.columns.get(column)
    if not separator or not isinstance(text, str):
        return row
    return Row({**row.columns, column: [one.strip() for one in text.split(separator)]}, row.where)


def _labels_of(task: TextTask, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the different values of the target column; refuse what are hardly labels."""
    counts = collections.Counter(
        value for row in rows for value in {task.raw_target(row), *task.raw_golds(row)})
    missing = [value for value in counts if value.strip().lower() in _MISSING]
    if missing:
        first = next(row for row in rows
                     if {task.raw_target(row), *task.raw_golds(row)} & {*missing})
        raise ValueError(
            f'column {task.target!r} at {first.where} holds {missing[0]!r}; '
            f'{sum(map(counts.get, missing)):,} of {len(rows):,} rows have no label; fill them in, '
            'take them out, or name the labels in place of labels=auto')
    if len(counts) > min(_MOST_LABELS, max(20, len(rows) // 2)):
        raise ValueError(
            f'column {task.target!r} holds {len(counts):,} different values in {len(rows):,} rows '
            f'({listed(counts, 3)}), too many for labels=auto to be what was meant; leave labels '
            'out, which means free text, or name them')
    alike = collections.defaultdict(list)
    for value in sorted(counts):
        alike[looks(value)].append(value)
    doubtful = [values for values in alike.values() if len(values) > 1]
    if doubtful:
        shown = ', '.join(f'{value!a:.100} ({counts[value]:,} rows)' for value in doubtful[0][:4])
        more = f' (and {len(doubtful) - 1:,} more groups)' if len(doubtful) > 1 else ''
        raise ValueError(
            f'labels of task {task.name} look alike: {shown}{more}; make them one in the file, or '
            'give a mapping from each value to its word in place of labels=auto')
    return tuple(sorted(counts))


def looks(text: str) -> str:
    """Return a text without what a reader hardly sees: case, white space, Unicode's forms, '.0'."""
    shown = unicodedata.normalize('NFKC', text).casefold()
    shown = ''.join(one for one in shown if unicodedata.category(one) != 'Cf')
    return re.sub(r'(?<=\d)\.0+$', '', ' '.join(shown.split()))


def _tell_empty(task: TextTask, split: str, rows: Sequence[Row]) -> None:
    """Warn of texts that are none; raises for targets outside the verbalizer."""
    text_of = _text_of(task)
    for what, text in (('input', text_of), ('target', task.target_text)):
        empty = [row.where for row in rows if not text(row).strip()]
        if empty:
            _log.warning('%s %s: the %s is empty in %d of %d rows, first at %s', task.name, split,
                         what, len(empty), len(rows), empty[0])


def _text_of(task: TextTask) -> Callable[[Row], str]:
    """Return what reads a row's text: the columns, so that rewording the template moves none."""
    columns = sorted(task.columns)
    return lambda row: '\n'.join(str(row.columns[column]) for column in columns)


def _cut(task: TextTask, rows: Sequence[Row], names: tuple[str, ...],
         path: str) -> dict[str, list[Row]]:
    """Cut the rows of a training file into splits."""
    text_of = _text_of(task)
    rows = without_duplicates(rows, text_of, task.target_text, task.name,
                              drop_conflicts=task.labels is not None)
    parts = divided(rows, text_of, names)
    if task.labels is not None:
        parts = _keep_rare(task, parts)
    empty = [split for split, part in parts.items() if not part]
    if empty:
        raise ValueError(
            f'{path} has {len(rows)} different texts, too few to cut a {empty[0]} split from them; '
            'give files for validation and test')
    return parts


def _keep_rare(task: TextTask, parts: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Put all rows of the labels that training would not have into it."""
    trained = set(map(task.target_text, parts['train']))
    rare = [row for part in parts.values() for row in part if task.target_text(row) not in trained]
    if not rare:
        return parts
    _log.info('%s: %d rows stay in training, which else had none of the labels %s', task.name,
              len(rare), listed(sorted(set(map(task.target_text, rare)))))
    kept = {split: [row for row in part if task.target_text(row) in trained]
            for split, part in parts.items()}
    return kept | {'train': kept['train'] + rare}


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
