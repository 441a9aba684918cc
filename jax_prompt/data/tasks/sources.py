"""Where a benchmark's rows are found below one folder: official files, Parquet, Arrow, TFDS."""

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jax_prompt.data.tasks.definition import TaskDefinition
from jax_prompt.data.tasks.rows import Row, read_rows
from jax_prompt.files import first_line

#: Reads a split's records, as their source has them.
Reader = Callable[[], Iterator[Row]]

#: What the hub and its cache call the files of a split, in a task's folder. The cache puts the
#: owner of a repository before its name, with three underscores between.
_HUB_FILES = ('{split}.parquet', '{split}-*.parquet', '{split}/*.parquet', 'data/{split}.parquet',
              'data/{split}-*.parquet', '{split}/state.json', '*-{split}.arrow',
              '*-{split}-*-of-*.arrow', '*/*/*-{split}.arrow', '*/*/*-{split}-*-of-*.arrow')


def find_source(task: TaskDefinition, split: str, data_dir: str | None,
                kind: str = 'auto') -> Reader | None:
    """Find what holds a split of a task.

    Args:
        task: that the split's data belongs to.
        split: one of the task's own.
        data_dir: the folder that holds benchmarks; None for TFDS's own.
        kind: 'official', 'hub', 'tfds', or 'auto' for the first of these that is there.

    Returns:
        What reads it; None where nothing is found.

    Raises:
        ValueError: no such kind.
    """
    if kind != 'auto' and kind not in _FINDERS:
        raise ValueError(f'source of task {task.name} is {kind!r}; expected auto or one of '
                         f'{", ".join(_FINDERS)}')
    folder = None if data_dir is None else os.path.expanduser(data_dir)
    if folder is not None and not os.path.isdir(folder):
        raise FileNotFoundError(f'data_dir {data_dir} is no folder; name the one that '
                                'jax-prompt data prepare has filled, or that holds '
                                f'{task.folders[0]}')
    if kind != 'auto':
        return _FINDERS[kind](task, split, folder, True)
    return next(filter(None, (find(task, split, folder, False) for find in _FINDERS.values())),
                None)


def _official(task: TaskDefinition, split: str, folder: str | None, asked: bool) -> Reader | None:
    """Find an official file, plain or .gz."""
    del asked
    names = task.files.get(task.splits[split], ())
    # A folder for one task alone may have any name.
    for inside, name, end in itertools.product(
            (*task.folders, '') if folder else (), names, ('', '.gz')):
        path = os.path.join(folder, inside, name + end)
        if os.path.exists(path):
            return lambda: task.read(path)
    return None


def _hub(task: TaskDefinition, split: str, folder: str | None, asked: bool) -> Reader | None:
    """Find Parquet or Arrow files as the Hugging Face hub, its cache or `save_to_disk` lay out."""
    del asked
    name = task.hub_splits.get(split, task.splits[split])
    for inside, owner, pattern in itertools.product(
            task.folders if folder else (), ('', '*___'), _HUB_FILES):
        found = sorted(glob.glob(os.path.join(glob.escape(folder), f'{owner}{inside}',
                                              pattern.format(split=name))))
        if found:
            return lambda: itertools.chain.from_iterable(map(_read_columnar, found))
    return None


def _read_columnar(path: str) -> Iterable[Row]:
    folder, name = os.path.split(path)
    return read_rows(folder if name == 'state.json' else path)


def _tfds(task: TaskDefinition, split: str, folder: str | None, asked: bool) -> Reader | None:
    """Find what TFDS has prepared; where it is asked for, leave the finding to TFDS."""
    if task.tfds is None or task.cuts_validation and split == 'validation':
        return None
    versions = sorted(glob.glob(os.path.join(glob.escape(folder or ''), task.tfds, '*',
                                             'dataset_info.json')))
    if versions and folder:
        name = f'{task.tfds}:{os.path.basename(os.path.dirname(versions[-1]))}'
    elif asked:
        name = task.tfds
    else:
        return None
    return lambda: read_tfds(name, task.splits[split], folder)


def read_tfds(name: str, split: str, data_dir: str | None = None) -> Iterator[Row]:
    """Read what TensorFlow Datasets has prepared; nothing is downloaded.

    Args:
        name: 'super_glue/boolq', with ':1.0.2' for a version.
        split: its name there.
        data_dir: TFDS's folder; None for its own.

    Yields:
        Rows in TFDS's columns, as text, numbers, lists and dicts.

    Raises:
        ValueError: it is not prepared there, or TFDS is not installed.
    """
    from jax_prompt.data.quiet_tensorflow import tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
        dataset = builder.as_dataset(split=split, shuffle_files=False)
    except (AssertionError, tfds.core.DatasetNotFoundError, ValueError, OSError) as error:
        raise ValueError(f'{name} cannot be read by TFDS from {data_dir or "its own folder"}: '
                         f'{first_line(error)}; prepare it by: python -m tensorflow_datasets '
                         f'build {name}') from error
    for number, example in enumerate(tfds.as_numpy(dataset), 1):
        yield Row(_plain(example), f'example {number} of {name} {split}')


def _plain(value: Any) -> Any:
    """Return numpy's values as Python's own text, numbers, lists and dicts."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(value, 'tolist'):
        value = value.tolist()
        return _plain(value) if isinstance(value, bytes | list) else value
    return list(map(_plain, value)) if isinstance(value, list | tuple) else value


_FINDERS = {'official': _official, 'hub': _hub, 'tfds': _tfds}
