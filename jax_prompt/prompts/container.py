"""The bytes of a prompt file: safetensors with few tensors and a checksum over everything.

The safetensors package reads it, and holds every size that the header tells to the file's own. It
is written out here, since the package puts metadata in an order that differs from run to run: the
same prompt shall give the same bytes. The format:
https://huggingface.co/docs/safetensors/index#format
"""

import hashlib
import json
import os
import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from jax_prompt.files import brief, first_line, listed

TENSOR = 'prompt'
CHECKSUM = 'sha256'

#: Bytes of what a file says of itself, and rows: more than any prompt has, and quickly read.
MOST_HEADER, MOST_ROWS = 2**20, 10_000


def pack(prompt_PD: np.ndarray, metadata: Mapping[str, str],
         more: Mapping[str, np.ndarray] = MappingProxyType({})) -> bytes:
    """Return the bytes of a prompt file.

    Args:
        prompt_PD: float32[P, D], the rows of virtual tokens.
        metadata: text to keep beside it; the checksum is added.
        more: what a prompt has besides, name -> float32 array.

    Raises:
        ValueError: the metadata are longer than `read` accepts.
    """
    tensors = {TENSOR: prompt_PD} | {name: more[name] for name in sorted(more)}
    blobs = {name: _bytes(array) for name, array in tensors.items()}
    checksum = _checksum(metadata, {name: array.shape for name, array in tensors.items()}, blobs)
    header, end = {'__metadata__': {**metadata, CHECKSUM: checksum}}, 0
    for name, array in tensors.items():
        begin, end = end, end + len(blobs[name])
        header[name] = {'dtype': 'F32', 'shape': list(array.shape), 'data_offsets': [begin, end]}
    text = json.dumps(header, separators=(',', ':')).encode()
    # Readers that map the file want the tensors aligned; the format pads with spaces.
    text += b' ' * (-len(text) % 8)
    if len(text) > MOST_HEADER:
        raise ValueError(f'the metadata of the prompt take {len(text):,} bytes; expected at most '
                         f'{MOST_HEADER:,}: shorten the labels or the template of its task')
    return struct.pack('<Q', len(text)) + text + b''.join(blobs.values())


def read(path: Path, known: Collection[str] = (),
         ) -> tuple[np.ndarray, dict[str, str], dict[str, np.ndarray]]:
    """Read what `pack` gave.

    Args:
        path: the file.
        known: names of tensors that there may be besides the rows.

    Returns:
        float32[P, D], the metadata without the checksum, and the other tensors.

    Raises:
        ValueError: says what is wrong with the content; the caller names the file.
        OSError: the file cannot be read.
    """
    with path.open('rb') as file:  # the package says of a folder that it is no such device
        length = int.from_bytes(file.read(8), 'little')
        if MOST_HEADER < length < os.fstat(file.fileno()).st_size:
            raise ValueError(f'its metadata take {length:,} bytes; expected at most '
                             f'{MOST_HEADER:,}')
    try:
        with safe_open(path, framework='numpy') as file:
            names, metadata = sorted(file.keys()), file.metadata()
            if TENSOR not in names or set(names) - {TENSOR, *known}:
                raise ValueError("it is no prompt file: expected the one tensor 'prompt', found "
                                 f'{listed(names, 3)}')
            tensors = {name: _read_tensor(file, name) for name in names}
    except SafetensorError as error:
        raise ValueError(f'it is truncated, damaged or no safetensors file ({first_line(error)})'
                         ) from error
    if CHECKSUM not in (metadata or {}):
        raise ValueError('its metadata hold no checksum, so jax_prompt did not write it')
    checksum = metadata.pop(CHECKSUM)
    if checksum != _checksum(metadata, {name: array.shape for name, array in tensors.items()},
                             {name: _bytes(array) for name, array in tensors.items()}):
        raise ValueError('its content does not match its checksum: it was damaged or edited')
    return tensors.pop(TENSOR), metadata, tensors


def _read_tensor(file: Any, name: str) -> np.ndarray:
    """Read a tensor after a look at its dtype, its shape and, of rows, their number."""
    part = file.get_slice(name)
    dtype, shape = part.get_dtype(), part.get_shape()
    if dtype != 'F32' or (name == TENSOR and len(shape) != 2):
        raise ValueError(f'its tensor {name!r} is {dtype!r} of shape {brief(shape)}; expected '
                         "'F32' (float32)" + ' of [rows, width]' * (name == TENSOR))
    if name == TENSOR and shape[0] > MOST_ROWS:
        raise ValueError(f'it has {shape[0]:,} rows; expected at most {MOST_ROWS:,}')
    return file.get_tensor(name)


def _bytes(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array, '<f4').tobytes()


def _checksum(metadata: Mapping[str, str], shapes: Mapping[str, Sequence[int]],
              blobs: Mapping[str, bytes]) -> str:
    """Digest the metadata, the shapes and the numbers; of rows alone as ever."""
    alone = list(shapes) == [TENSOR]
    told = list(shapes[TENSOR]) if alone else {name: list(shapes[name]) for name in shapes}
    described = json.dumps([dict(metadata), told], sort_keys=True, separators=(',', ':'))
    digest = hashlib.sha256(described.encode() + b'\0')
    for name in sorted(blobs):
        digest.update(blobs[name])
    return digest.hexdigest()
