"""Keep a frozen tree as it is used, so that the next start of a large model converts nothing.

A converted model is a folder: `tree/`, the frozen tree as Orbax keeps arrays, from which each
device is given its own parts; `jax_prompt.json`, saying what model it is and what each file of
`tree/` has for size and checksum; and the tokenizer's files. It is written under another name and
renamed when it is whole. Orbax does not notice damage to the numbers; the checksums do.
"""

import concurrent.futures
import functools
import hashlib
import itertools
import json
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jax_prompt.models.t5.config import T5Config
from jax_prompt.types import Params
from jax_prompt.weights.array_folder import FLOATS, Array, Folder
from jax_prompt.weights.assemble import (
    Shardings,
    check_weights,
    flat_shardings,
    tree_shapes,
)
from jax_prompt.weights.placing import Builder, read_ahead

RECORD = 'jax_prompt.json'
TREE = 'tree'
FORMAT = 1
_READ_BYTES = 2**22
#: Each chunk is read once, but the list of chunks for each of them.
_CACHE_BYTES = 2**24


def is_converted(folder: pathlib.Path) -> bool:
    """Tell whether a folder holds a converted model."""
    return (folder / RECORD).is_file()


def load_converted(folder: str | pathlib.Path, dtype: str = 'float32', name: str | None = None,
                   weights: str | None = None,
                   shardings: Shardings = None) -> tuple[T5Config, Params, str]:
    """Read a model that `convert_model` wrote.

    Args:
      folder: the folder.
      dtype: what the weights become that are not int8; those kept as bfloat16 were rounded when
        they were converted, whatever they become.
      name: unused: a converted model keeps the name of its source.
      weights: None for what was kept; anything else must agree with it.
      shardings: as for `weights.load_t5`.

    Returns:
      The configuration, the frozen tree and the fingerprint of the source.

    Raises:
      ValueError: when a file is missing or damaged, or the model was kept otherwise than wanted.
    """
    folder = pathlib.Path(folder)
    kind, _ = check_weights(dtype, weights)
    record = _read_record(folder)
    kept = record['weights']
    if weights is not None and (weights == 'int8') != (kept == 'int8'):
        raise ValueError(f'{folder} was converted to {kept}, but {weights} is wanted; convert the '
                         f'model again with weights={weights}, or leave weights out')
    config = T5Config(**record['config'])
    _check_files(folder, record['files'])
    shapes = tree_shapes(config, kind.name, 'int8' if kept == 'int8' else None)
    tree = _restore(folder, shapes, flat_shardings(shapes, shardings))
    return config, tree, record['fingerprint']


def _restore(folder: pathlib.Path, shapes: Params, placed: dict[str, Any]) -> Params:
    """Read the tree chunk by chunk, each straight to the devices that have a part of it.

    Orbax's own restore reads a chunk anew for each device that has a part of it: a model of 5 GiB
    on eight devices took 16 GiB of reading and decoding, and more memory.
    """
    store = Folder(os.path.abspath(folder / TREE), _CACHE_BYTES)
    leaves = [(jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
              for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]]
    opening = [store.start_opening(name.replace('/', '.'), 'zarr', database=True)
               for name, _ in leaves]
    restored = []
    for (name, leaf), started in zip(leaves, opening, strict=True):
        array = store.opened(name, started, leaf.shape, (*FLOATS.values(), np.int8))
        if (array.dtype == np.int8) != (leaf.dtype == np.int8):
            raise _damaged(folder, f'{name} is {array.dtype} instead of {leaf.dtype}')
        builder = Builder(leaf.shape, leaf.dtype, placed.get(name))
        jobs = ((region, functools.partial(array.read, tuple(slice(*span) for span in region)))
                for region in _chunks(array) if builder.needs(region))
        for region, block in read_ahead(jobs):
            builder.write(region, block.astype(leaf.dtype, copy=False))
        restored.append(builder.finish())
    return jax.tree.unflatten(jax.tree.structure(shapes), restored)


def _chunks(array: Array) -> Iterator[tuple[tuple[int, int], ...]]:
    """The regions that an array is stored in."""
    return itertools.product(*(
        [(start, min(start + step, size)) for start in range(0, size, step)]
        for size, step in zip(array.shape, array.chunk, strict=True)))


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record with a digest of all else in it."""
    content = {key: value for key, value in record.items() if key != 'digest'}
    text = json.dumps(content, sort_keys=True)
    return content | {'digest': hashlib.sha256(text.encode()).hexdigest()}


def _read_record(folder: pathlib.Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding='utf-8'))
        whole = isinstance(record, dict) and sealed(record) == record
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, f'{RECORD} cannot be read') from error
    if not whole:
        raise _damaged(folder, f'{RECORD} has been changed')
    if record['format_version'] != FORMAT:
        raise ValueError(f'{folder} was converted in format {record["format_version"]}; expected '
                         f'{FORMAT}: convert the model again with this version of jax_prompt')
    return record


def _check_files(folder: pathlib.Path, files: dict[str, list]) -> None:
    """Raise ValueError when a file is missing or not as it was written."""
    def check(name: str) -> None:
        path, (size, crc) = folder / name, files[name]
        if not path.is_file():
            raise _damaged(folder, f'{name} is missing')
        if path.stat().st_size != size:
            raise _damaged(folder, f'{name} has {path.stat().st_size} bytes instead of {size}')
        if sum_of(path) != [size, crc]:
            raise _damaged(folder, f'{name} does not match its checksum')

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(check, files))
    found = {path.relative_to(folder).as_posix() for path in (folder / TREE).rglob('*')
             if path.is_file()}
    if found - files.keys():
        raise _damaged(folder, f'{sorted(found - files.keys())[0]} does not belong to it')


def sum_of(path: pathlib.Path) -> list[int]:
    """Return size and CRC-32 of a file."""
    size, crc = 0, 0
    with path.open('rb') as file:
        while part := file.read(_READ_BYTES):
            size, crc = size + len(part), zlib.crc32(part, crc)
    return [size, crc]


def _damaged(folder: pathlib.Path, reason: str) -> ValueError:
    return ValueError(f'the converted model {folder} is damaged: {reason}; convert it again')
