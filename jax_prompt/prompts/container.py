"""The bytes of a prompt file: safetensors with one tensor and a checksum over everything.

Written out here, rather than left to the safetensors package, because a prompt file is read whole
and distrusted whole: every size is compared with the file's before memory is asked for, and the
checksum covers the metadata as well. Any safetensors reader opens the result. The format:
https://huggingface.co/docs/safetensors/index#format
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

TENSOR = 'prompt'
CHECKSUM = 'sha256'
# A header is two or three kilobytes; the bound leaves room for templates and long label lists, and
# for the header of a whole model taken for a prompt, which gets an error of its own.
MAX_HEADER_BYTES = 16 * 2**20


def pack(prompt_PD: np.ndarray, metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a prompt file.

    Args:
        prompt_PD: float32[P, D].
        metadata: text to keep beside it; the checksum is added.
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
    return struct.pack('<Q', len(text)) + text + data


def read(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """Read what `pack` gave.

    Returns:
        float32[P, D] and the metadata without the checksum.

    Raises:
        ValueError: says what is wrong with the content; the caller names the file.
        OSError: the file cannot be read.
    """
    with path.open('rb') as file:
        # Of the open file: by its name another may be found, put there since.
        size = os.fstat(file.fileno()).st_size
        header = _read_header(file, size)
        shape = _check_tensor(header, data_bytes=size - file.tell())
        metadata = _check_metadata(header)
        data = file.read()
    checksum = metadata.pop(CHECKSUM)
    if checksum != _checksum(metadata, shape, data):
        raise ValueError('its content does not match its checksum: it was damaged or edited')
    prompt_PD = np.frombuffer(data, '<f4').reshape(shape).astype(np.float32)
    return prompt_PD, metadata


def _checksum(metadata: Mapping[str, str], shape: list[int], data: bytes) -> str:
    """Digest the metadata, the shape and the numbers."""
    described = json.dumps([dict(metadata), shape], sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(described.encode() + b'\0' + data).hexdigest()


def _read_header(file, size: int) -> dict:
    """Read the JSON header, whose length stands in front of it."""
    start = file.read(8)
    length = struct.unpack('<Q', start)[0] if len(start) == 8 else 0
    if length < 2 or length > MAX_HEADER_BYTES or length > size - 8:
        raise ValueError('it is truncated or no safetensors file')
    try:
        header = json.loads(file.read(length).decode())
    except (ValueError, RecursionError) as error:
        raise ValueError('its header is damaged or it is no safetensors file') from error
    if not isinstance(header, dict):
        raise ValueError('its header is damaged or it is no safetensors file')
    return header


def _check_tensor(header: dict, data_bytes: int) -> list[int]:
    """Return the tensor's shape when the tensor is there, alone, float32[P, D] and complete."""
    names = sorted(name for name in header if name != '__metadata__')
    if names != [TENSOR]:
        found = ', '.join(names[:3]) + (', ...' if len(names) > 3 else '') if names else 'none'
        raise ValueError(f"it is no prompt file: expected the one tensor 'prompt', found {found}")
    entry = header[TENSOR]
    if not isinstance(entry, dict) or set(entry) != {'dtype', 'shape', 'data_offsets'}:
        raise ValueError("its header does not describe the tensor 'prompt'")
    if entry['dtype'] != 'F32':
        raise ValueError(f"its tensor 'prompt' is {entry['dtype']!r}; expected 'F32' (float32)")
    shape = entry['shape']
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("its header does not describe the tensor 'prompt'")
    if len(shape) != 2:
        raise ValueError(f"its tensor 'prompt' has shape {shape}; expected [rows, width]")
    num_bytes = 4 * shape[0] * shape[1]
    if entry['data_offsets'] != [0, num_bytes] or num_bytes != data_bytes:
        raise ValueError(
            f"it is truncated or damaged: its tensor 'prompt' of shape {shape} takes {num_bytes} "
            f'bytes, the file holds {data_bytes}'
        )
    return shape


def _check_metadata(header: dict) -> dict[str, str]:
    """Return the metadata, a flat dictionary of text with a checksum."""
    metadata = header.get('__metadata__')
    if not isinstance(metadata, dict):
        raise ValueError('it holds no metadata, so jax_prompt did not write it')
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError('its metadata are damaged')
    if CHECKSUM not in metadata:
        raise ValueError('its metadata hold no checksum, so jax_prompt did not write it')
    return dict(metadata)
