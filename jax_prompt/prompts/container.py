"""The bytes of a prompt file: safetensors with one tensor and a checksum over everything.

The safetensors package reads it, and holds every size that the header tells to the file's own. It
is written out here, since the package puts metadata in an order that differs from run to run: the
same prompt shall give the same bytes. The format:
https://huggingface.co/docs/safetensors/index#format
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from jax_prompt.files import brief, first_line, listed

TENSOR = 'prompt'
CHECKSUM = 'sha256'

#: Bytes of what a file says of itself, and rows: more than any prompt has, and quickly read.
MOST_HEADER, MOST_ROWS = 2**20, 10_000


def pack(prompt_PD: np.ndarray, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a prompt file.

    Args:
        prompt_PD: float32[P, D].
        metadata: text to keep beside it; the checksum is added.

    Raises:
        ValueError: the metadata are longer than `read` accepts.
    """
    data = np.ascontiguousarray(prompt_PD, '<f4').tobytes()
    shape = list(prompt_PD.shape)
    checksum = _checksum(metadata, shape, data)
    header = {
        '__metadata__': {**metadata, CHECKSUM: checksum},
        TENSOR: {'dtype': 'F32', 'shape': shape, 'data_offsets': [0, len(data)]},
    }
    text = json.dumps(header, separators=(',', ':')).encode()
    # Readers that map the file want the tensor aligned; the format pads with spaces.
    text += b' ' * (-len(text) % 8)
    if len(text) > MOST_HEADER:
        raise ValueError(f'the metadata of the prompt take {len(text):,} bytes; expected at most '
                         f'{MOST_HEADER:,}: shorten the labels or the template of its task')
    return struct.pack('<Q', len(text)) + text + data


def read(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """Read what `pack` gave.

    Returns:
        float32[P, D] and the metadata without the checksum.

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
            if names != [TENSOR]:
                raise ValueError("it is no prompt file: expected the one tensor 'prompt', found "
                                 f'{listed(names, 3)}')
            tensor = file.get_slice(TENSOR)
            dtype, shape = tensor.get_dtype(), tensor.get_shape()
            if dtype != 'F32' or len(shape) != 2:
                raise ValueError(f"its tensor 'prompt' is {dtype!r} of shape {brief(shape)}; "
                                 "expected 'F32' (float32) of [rows, width]")
            if shape[0] > MOST_ROWS:
                raise ValueError(f'it has {shape[0]:,} rows; expected at most {MOST_ROWS:,}')
            prompt_PD = file.get_tensor(TENSOR)
    except SafetensorError as error:
        raise ValueError(f'it is truncated, damaged or no safetensors file ({first_line(error)})'
                         ) from error
    if CHECKSUM not in (metadata or {}):
        raise ValueError('its metadata hold no checksum, so jax_prompt did not write it')
    checksum = metadata.pop(CHECKSUM)
    if checksum != _checksum(metadata, shape, prompt_PD.astype('<f4').tobytes()):
        raise ValueError('its content does not match its checksum: it was damaged or edited')
    return prompt_PD, metadata


def _checksum(metadata: Mapping[str, str], shape: list[int], data: bytes) -> str:
    """Digest the metadata, the shape and the numbers."""
    described = json.dumps([dict(metadata), shape], sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(described.encode() + b'\0' + data).hexdigest()
