"""Read tensors of a safetensors file row by row, without mapping it."""

import json
import pathlib
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from jax_prompt.files import first_line
from jax_prompt.weights.tensors import FLOATS, RawFile, Stored, stored_in_file

_KINDS = dict(zip(('F32', 'BF16', 'F16', 'F64'), FLOATS, strict=True)) | {'I8': np.dtype(np.int8)}


def kind_of(dtype: np.dtype) -> str:
    """Return what safetensors calls a dtype of weights."""
    return next(kind for kind, known in _KINDS.items() if known == dtype)


class Place(NamedTuple):
    """Where a tensor lies in a file, in C order."""

    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]


def open_safetensors(file: RawFile) -> dict[str, Stored]:
    """List the tensors of a safetensors file.

    Args:
      file: stays open as long as tensors are read.

    Returns:
      Name -> tensor.

    Raises:
      ValueError: for a corrupt file, or a tensor that holds no floating-point numbers.
    """
    return {name: stored_in_file(file, *place) for name, place in find_tensors(file).items()}


def find_tensors(file: RawFile, integers: bool = False) -> dict[str, Place]:
    """Say where each tensor of a safetensors file lies.

    The header is checked by the safetensors package: offsets without gaps or overlaps, sizes that
    fit shapes, all within the file.

    Args:
      file: a file of any size, of which the header alone is read.
      integers: whether there may be numbers of eight bits.

    Returns:
      Name -> place.

    Raises:
      ValueError: for a corrupt file, or a tensor of other numbers.
    """
    try:
        with safe_open(file.path, framework='numpy') as checked:
            names = set(checked.keys())
        length = int(file.read(0, 8).view('<u8')[0])
        header = json.loads(file.read(8, length).tobytes())
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise _corrupt(file.path, error) from error
    header.pop('__metadata__', None)
    if set(header) != names:
        raise _corrupt(file.path, 'its header names a tensor twice')
    places = {}
    for name, entry in header.items():
        if entry['dtype'] not in _KINDS or (entry['dtype'] == 'I8' and not integers):
            raise ValueError(f'{file.path} has {name!r} as {entry["dtype"]}; expected '
                             f'one of {", ".join(kind for kind in _KINDS if kind != "I8")}: '
                             'use the unquantised weights')
        places[name] = Place(8 + length + entry['data_offsets'][0], _KINDS[entry['dtype']],
                             tuple(entry['shape']))
    return places


def _corrupt(path: pathlib.Path, reason: Exception | str) -> ValueError:
    return ValueError(f'{path} is corrupt or truncated: {first_line(reason)}; '
                      'copy or download the file again')
