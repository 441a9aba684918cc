"""Columns of Parquet and Arrow files, and of folders as Hugging Face's `datasets` lays them out.

Three layouts are read: `Dataset.save_to_disk` (state.json names its .arrow files),
`DatasetDict.save_to_disk` (dataset_dict.json names such folders), and files named by their split,
such as train-00000-of-00002.parquet, which a repository of the hub holds.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jax_prompt.files import brief, first_line, listed

#: Files that `save_to_disk` writes beside the data.
_STATE, _SPLITS = 'state.json', 'dataset_dict.json'
#: Names of splits as they are found, and as tasks have them.
_SPLIT_NAMES = {'train': 'train', 'training': 'train', 'validation': 'validation',
                'valid': 'validation', 'val': 'validation', 'dev': 'validation', 'test': 'test'}
_SPLIT_FILE = re.compile(r'(?:.*[-_])?(?P<split>[a-z]+)(?:-\d+-of-\d+)?'
                         r'\.(?:parquet|arrow|jsonl?(?:\.gz)?|[ct]sv(?:\.gz)?)', re.IGNORECASE)
#: What ends a stream of Arrow's messages since version 0.15.
_END_OF_STREAM = b'\xff\xff\xff\xff\0\0\0\0'


def is_dataset(path: str) -> bool:
    """Say whether a path is a folder that `Dataset.save_to_disk` has made."""
    return os.path.isfile(os.path.join(path, _STATE))


def split_files(folder: str) -> dict[str, list[str]]:
    """Return what holds the splits of a folder, in one of the layouts above.

    Args:
        folder: where to look; of the third layout also in its folder data/.

    Returns:
        Split -> what `read_rows` reads, in order; train, validation and test are called so whatever
        the files call them. Empty where nothing is found.

    Raises:
        ValueError: dataset_dict.json names a split that is not there.
    """
    if is_dataset(folder):
        return {'train': [folder]}
    if os.path.isfile(os.path.join(folder, _SPLITS)):
        names = _read_object(os.path.join(folder, _SPLITS)).get('splits')
        names = names if isinstance(names, list) else []
        for name in names:
            if not is_dataset(os.path.join(folder, str(name))):
                raise ValueError(f'{folder} lacks the split {brief(name)} that its {_SPLITS} '
                                 f'names; expected a folder of that name with {_STATE}')
        return {_SPLIT_NAMES.get(name, name): [os.path.join(folder, name)] for name in names}
    found: dict[str, list[str]] = {}
    for inside in (folder, os.path.join(folder, 'data')):
        for name in sorted(os.listdir(inside)) if os.path.isdir(inside) else ():
            match = _SPLIT_FILE.fullmatch(name)
            if match and (split := _SPLIT_NAMES.get(match['split'].lower())):
                found.setdefault(split, []).append(os.path.join(inside, name))
        if found:
            break
    return found


def read_dataset(folder: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a folder that `Dataset.save_to_disk` has made.

    Raises:
        ValueError: state.json or a file that it names is missing or cannot be read.
    """
    state = _read_object(os.path.join(folder, _STATE))
    if state.get('_indices_data_files'):
        raise ValueError(f'{folder} holds a selection of rows that an old version of datasets '
                         'kept aside; load it and save it again with a newer one')
    files = state.get('_data_files')
    names = [one.get('filename') for one in files or () if isinstance(one, dict)]
    if not isinstance(files, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f'{os.path.join(folder, _STATE)} names no data files; expected what '
                         'datasets.save_to_disk writes')
    missing = [name for name in names if not os.path.isfile(os.path.join(folder, name))]
    if missing:
        raise ValueError(f'{folder} lacks {listed(missing, 3)} that its {_STATE} names; copy the '
                         'folder as a whole')
    for name in names:
        yield from read_arrow(os.path.join(folder, name))


def read_parquet(path: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a Parquet file.

    Raises:
        ValueError: pyarrow is not installed, or the file cannot be read.
    """
    pyarrow, number = _pyarrow(path), 0
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in _rows(batch):
                    number += 1
                    yield row
    except (pyarrow.ArrowException, OSError) as error:
        raise _unread(path, 'Parquet', number, error) from error


def read_arrow(path: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of an Arrow file, be it a stream (as `datasets` writes) or a file (Feather).

    Raises:
        ValueError: pyarrow is not installed, or the file cannot be read to its end.
    """
    pyarrow, number = _pyarrow(path), 0
    try:
        with pyarrow.memory_map(path) as source:
            is_file = source.read(6) == b'ARROW1'
            source.seek(max(0, source.size() - len(_END_OF_STREAM)))
            if not is_file and source.read() != _END_OF_STREAM:
                raise ValueError(f'{path} is no whole Arrow file: it does not end as one does; it '
                                 'was cut off, or is of another kind; copy it again')
            reader = _reader(pyarrow, source, is_file)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            for batch in batches:
                for row in _rows(batch):
                    number += 1
                    yield row
    except (pyarrow.ArrowException, OSError) as error:
        raise _unread(path, 'Arrow', number, error) from error


def class_names(path: str, column: str) -> tuple[str, ...] | None:
    """Return the names that Hugging Face's `datasets` keeps for the numbers of a column of labels.

    Args:
        path: of a file or a folder that can be read.
        column: of the labels.

    Returns:
        The names in the order of their numbers; None where there are none.
    """
    if is_dataset(path):
        first = _read_object(os.path.join(path, _STATE))['_data_files'][0]
        path = os.path.join(path, first['filename'])
    if not path.lower().endswith(('.parquet', '.arrow')):
        return None
    pyarrow = _pyarrow(path)
    if path.lower().endswith('.parquet'):
        import pyarrow.parquet as parquet

        schema = parquet.read_schema(path)
    else:
        with pyarrow.memory_map(path) as source:
            schema = _reader(pyarrow, source, source.read(6) == b'ARROW1').schema
    try:
        feature = json.loads((schema.metadata or {})[b'huggingface'])['info']['features'][column]
        return tuple(feature['names']) if feature['_type'] == 'ClassLabel' else None
    except (KeyError, TypeError, ValueError):
        return None


def _reader(pyarrow: Any, source: Any, is_file: bool) -> Any:
    """Open an Arrow file or stream."""
    source.seek(0)
    return pyarrow.ipc.open_file(source) if is_file else pyarrow.ipc.open_stream(source)


def _rows(batch: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a batch; columns of one name are told together, as of a table."""
    names = batch.schema.names
    values = [column.to_pylist() for column in batch.columns]
    several = {name for name in names if names.count(name) > 1}
    for row in zip(*values, strict=True):
        columns = dict(zip(names, row, strict=True))
        for name in several:
            columns[name] = tuple(value for one, value in zip(names, row, strict=True)
                                  if one == name)
        yield columns


def _read_object(path: str) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        with open(path, encoding='utf-8') as file:
            found = json.load(file)
    except ValueError as error:
        raise ValueError(f'{path} is not JSON: {first_line(error)}') from None
    if not isinstance(found, dict):
        raise ValueError(f'{path} is a JSON {type(found).__name__}; expected an object')
    return found


def _pyarrow(path: str) -> Any:
    """Import pyarrow, which weighs more than all that most users need."""
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise ValueError(f'{path} needs the Python package pyarrow, which is not installed; '
                         "install it by: pip install 'jax-prompt[arrow]'") from None
    return pyarrow


def _unread(path: str, kind: str, number: int, error: Exception) -> ValueError:
    """Return an error of a file that ends or is broken after so many rows."""
    after = f' after row {number:,}' if number else ''
    return ValueError(f'{path} cannot be read as {kind}{after}: {first_line(error)}; copy it '
                      'again, or save it as another kind')
