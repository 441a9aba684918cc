"""Read tensors of a safetensors file row by row, without mapping it."""

import json
import pathlib

import numpy as np
from safetensors import SafetensorError, safe_open

from jax_prompt.weights.tensors import FLOATS, RawFile, Stored, stored_in_file

_KINDS = dict(zip(('F32', 'BF16', 'F16', 'F64'), FLOATS, strict=True))


def open_safetensors(file: RawFile) -> dict[str, Stored]:
    """List the tensors of a safetensors file.

    The header is checked by the safetensors package (offsets without gaps or overlaps, sizes that
    fit shapes, all within the file); the numbers are then read here, where they are needed.

    Args:
      file: stays open as long as tensors are read.

    Returns:
      Name -> tensor.

    Raises:
      ValueError: for a corrupt file, or a tensor that holds no floating-point numbers.
    """
    try:
        with safe_open(file.path, framework='numpy') as checked:
            names = set(checked.keys())
    except (SafetensorError, OSError) as error:
        raise _corrupt(file.path, error) from error
    length = int(file.read(0, 8).view('<u8')[0])
    try:
        header = json.loads(file.read(8, length).tobytes())
    except (ValueError, RecursionError) as error:
        raise _corrupt(file.path, error) from error
    header.pop('__metadata__', None)
    if set(header) != names:
        raise _corrupt(file.path, 'its header names a tensor twice')
    return {name: _stored(file, name, entry, 8 + length) for name, entry in header.items()}


def _stored(file: RawFile, name: str, entry: dict, origin: int) -> Stored:
    """One tensor by its entry in the header."""
    if entry['dtype'] not in _KINDS:
        raise ValueError(f'{file.path} has {name!r} as {entry["dtype"]}; expected '
                         f'one of {", ".join(_KINDS)}: use the unquantised weights')
    dtype, shape = _KINDS[entry['dtype']], tuple(entry['shape'])
    start, stop = entry['data_offsets']
    if int(np.prod(shape, dtype=object)) * dtype.itemsize != stop - start:
        raise _corrupt(file.path, f'the size of {name!r} does not fit its shape')
    return stored_in_file(file, origin + start, dtype, shape)


def _corrupt(path: pathlib.Path, reason: object) -> ValueError:
    return ValueError(f'{path} is corrupt or truncated: {reason}; '
                      'copy or download the file again')
