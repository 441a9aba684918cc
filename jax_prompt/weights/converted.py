"""Read a model that was kept as it is used, so that the start of a large one converts nothing.

A converted model is a folder: `model.safetensors`, the leaves of the frozen tree, layers stacked,
kernels in eight bits as `.../values` and `.../scale`; `jax_prompt.json`, which says what model it
is and has a checksum for each layer of each leaf; and the tokenizer's files. Here the leaves are
cut into the tensors that any source of the model has. Safetensors does not notice damage to the
numbers; the checksums do, each when its layer is read. A CPU that takes the whole model as it was
converted takes it where it lies in the file, without a copy.
"""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import zlib
from typing import Any

import jax
import numpy as np

from jax_prompt.files import first_line, sealed
from jax_prompt.models.families import FAMILIES
from jax_prompt.weights.assemble import named_leaves, tree_shapes
from jax_prompt.weights.safetensors_file import Place, find_tensors
from jax_prompt.weights.tensors import (
    Checked,
    Checkpoint,
    RawFile,
    Stored,
    corrupt,
    stored_in_file,
)

RECORD = 'jax_prompt.json'
TREE = 'model.safetensors'
#: Format 1 kept the tree as Orbax does.
FORMAT = 2


def is_converted(folder: pathlib.Path) -> bool:
    """Tell whether a folder holds a converted model."""
    return (folder / RECORD).is_file()


def open_converted(folder: pathlib.Path, stack: contextlib.ExitStack) -> Checkpoint:
    """Open a model that `convert_model` wrote; it keeps the name and fingerprint of its source.

    Args:
      folder: the folder.
      stack: keeps the file open.

    Returns:
      The checkpoint.

    Raises:
      ValueError: when a file is missing or damaged, or the folder is of another format.
    """
    record = _read_record(folder)
    try:
        return _checkpoint(folder, record, stack)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise _damaged(folder, f'{RECORD} says what this version of jax_prompt does not read '
                               f'({first_line(error)})') from error


def _checkpoint(folder: pathlib.Path, record: dict[str, Any],
                stack: contextlib.ExitStack) -> Checkpoint:
    config = FAMILIES[record['family']].from_dict(record['config'])
    if not (folder / TREE).is_file():
        raise _damaged(folder, f'{TREE} is missing')
    file = stack.enter_context(RawFile(folder / TREE))
    places = find_tensors(file, integers=True)
    wanted = named_leaves(tree_shapes(config, record['dtype'], record['weights']))
    if {name: (place.shape, place.dtype) for name, place in places.items()} != {
            name: (leaf.shape, leaf.dtype) for name, leaf in wanted.items()}:
        raise _damaged(folder, f'{TREE} has other tensors than {RECORD} says')

    def part(leaf: str, layer: int | None, shape: tuple[int, ...] | None = None) -> Stored:
        place, number = places[leaf], layer or 0
        shape = shape or (place.shape if layer is None else place.shape[1:])
        size = math.prod(shape) * place.dtype.itemsize
        layer_bytes = Checked(file, place.offset + number * size, size,
                              record['checksums'][leaf][number], leaf)
        return stored_in_file(layer_bytes, 0, place.dtype, shape)

    tensors = {}
    for name, slot in config.slots().items():
        leaf, scale = '/'.join(slot.path), None
        if leaf not in places:
            leaf, scale = f'{leaf}/values', part(f'{leaf}/scale', slot.layer)
        tensors[name] = dataclasses.replace(part(leaf, slot.layer, slot.matrix_shape),
                                            inputs_first=True, scale=scale)
    return Checkpoint(config, tensors, record['fingerprint'], record['weights'],
                      functools.partial(_mapped, file, places, record['checksums']))


def _mapped(file: RawFile, places: dict[str, Place], known: dict[str, list[int]],
            leaf: str) -> np.ndarray:
    """Return a leaf as it lies in the file, held to its checksums."""
    place = places[leaf]
    size = math.prod(place.shape) * place.dtype.itemsize
    found = file.memory[place.offset:place.offset + size].view(place.dtype).reshape(place.shape)
    if checksums({leaf: found})[leaf] != known[leaf]:
        raise corrupt(file.path, leaf)
    return found


def checksums(leaves: dict[str, np.ndarray | jax.Array]) -> dict[str, list[int]]:
    """Return name of a leaf -> CRC-32 of each of its layers, or of all of it where it has none."""
    return {name: [zlib.crc32(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
                   for part in (leaf if '/layers/' in name else [leaf])]
            for name, leaf in leaves.items()}


def _read_record(folder: pathlib.Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, f'{RECORD} cannot be read') from error
    if not isinstance(record, dict) or sealed(record) != record:
        raise _damaged(folder, f'{RECORD} has been changed')
    if record.get('format_version') != FORMAT:
        raise ValueError(f'{folder} was converted in format {record.get("format_version")!r:.20}; '
                         f'expected {FORMAT}: convert the model again with this version of '
                         'jax_prompt')
    return record


def _damaged(folder: pathlib.Path, reason: str) -> ValueError:
    return ValueError(f'the converted model {folder} is damaged: {reason}; convert it again')
