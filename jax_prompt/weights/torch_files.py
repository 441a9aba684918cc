"""Read the tensors of `pytorch_model.bin` without PyTorch and without unpickling.

Since PyTorch 1.6 such a file is an uncompressed zip: `data.pkl` says which tensors there are, and
`data/0`, `data/1`, ... hold their numbers.

Source: torch/serialization.py, release 2.13.
"""

import struct
import zipfile
from typing import Any

import numpy as np

from jax_prompt.weights.tensors import Checked, RawFile, Stored, stored_in_file
from jax_prompt.weights.torch_pickle import (
    OTHER_STORAGES,
    STORAGES,
    Malformed,
    Tensor,
    interpret,
    what,
)

_LARGEST_PICKLE = 2**26
#: Where an entry's own header has the lengths of its name and its extra field, which end it.
_LENGTHS_AT = 26


def open_torch(file: RawFile) -> dict[str, Stored]:
    """List the tensors of a file that `torch.save` made of a state dict.

    Args:
      file: stays open as long as tensors are read.

    Returns:
      Name -> tensor.

    Raises:
      ValueError: for a corrupt file, one in the format before PyTorch 1.6, one that holds anything
        but named tensors of floating-point numbers, or one that would run code.
    """
    try:
        parts = _parts(file)
        state = interpret(_content(parts['data.pkl']))
        return {name: _stored(name, tensor, parts)
                for name, tensor in _named_tensors(state).items()}
    except Malformed as error:
        raise ValueError(f'{file.path} is not read: {error}') from error
    except zipfile.BadZipFile as error:
        raise ValueError(_why_no_zip(file, error)) from error
    # What zipfile and pickletools raise on damaged files, by their sources and by fuzzing.
    except (ValueError, IndexError, KeyError, TypeError, EOFError, OverflowError, RecursionError,
            NotImplementedError, RuntimeError, struct.error, OSError) as error:
        raise ValueError(f'{file.path} is corrupt or truncated: {error!s:.200}; '
                         'copy or download the file again') from error


def _why_no_zip(file: RawFile, error: Exception) -> str:
    """Tell a file of before PyTorch 1.6 from a broken one."""
    start = file.read(0, min(file.size, 16)).tobytes()
    # Its first pickle is the number 0x1950a86a20f9469cfc6c, in protocol 2.
    if start.startswith(b'\x80\x02\x8a\x0a\x6c\xfc\x9c\x46'):
        return (f'{file.path} is in the format of PyTorch before 1.6, which cannot be read without '
                'running what it says; where you trust it, convert it: python -c "import torch; '
                "torch.save(torch.load('OLD', weights_only=True), 'NEW')\"")
    if start.startswith(b'\x80'):
        return (f'{file.path} is a bare pickle, which is never read here since a pickle can run '
                'code; expected a file of torch.save (PyTorch 1.6 or newer) or safetensors')
    return (f'{file.path} is corrupt or truncated: {error}; expected a file of torch.save '
            '(PyTorch 1.6 or newer): copy or download the file again')


def _parts(file: RawFile) -> dict[str, Checked]:
    """The files of the zip by name within its one folder: where each lies, and its checksum."""
    parts = {}
    with zipfile.ZipFile(file.path) as archive:
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise Malformed(f'{entry.filename!r:.80} within it is compressed; torch.save never '
                                'does that')
            archive.open(entry).close()  # holds the entry to the header in front of its content
            lengths = file.read(entry.header_offset + _LENGTHS_AT, 4).view('<u2')
            # Without torch.serialization.set_crc32_options, which writes none, each has a checksum.
            checksum = entry.CRC if any(entry.CRC for entry in entries) else None
            name = entry.filename.partition('/')[2]
            if name in parts:
                raise Malformed(f'it holds {entry.filename!r:.80} twice; copy or download it again')
            start = entry.header_offset + _LENGTHS_AT + 4 + int(lengths.sum(dtype=int))
            parts[name] = Checked(file, start, entry.file_size, checksum, entry.filename)
    if len({entry.filename.partition('/')[0] for entry in entries}) != 1 or 'data.pkl' not in parts:
        raise Malformed('it has no data.pkl in one folder; expected a file of torch.save (a '
                        'TorchScript archive or another zip is none)')
    if parts['data.pkl'].size > _LARGEST_PICKLE:
        raise Malformed('its list of tensors is longer than any state dict has')
    if 'byteorder' in parts and _content(parts['byteorder']) != b'little':
        raise Malformed('its numbers are not little-endian; save it again on another machine')
    return parts


def _content(part: Checked) -> bytes:
    return part.read(0, part.size).tobytes()


def _named_tensors(state: Any) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not state:
        raise Malformed(f'it holds {what(state)}; expected a state dict, tensor name -> tensor')
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise Malformed(f'it has {what(tensor)} as {name!r:.80}; expected a state dict, '
                             'tensor name -> tensor: save model.state_dict() alone')
    return state


def _stored(name: str, tensor: Tensor, parts: dict[str, Checked]) -> Stored:
    """Check one tensor against its storage's file, and describe it."""
    storage = tensor.storage
    if storage.kind in OTHER_STORAGES:
        raise Malformed(f'{name!r} is of type {storage.kind.removesuffix("Storage")}; expected '
                         'floating-point numbers: use the unquantised weights')
    dtype, part = STORAGES[storage.kind], parts.get(f'data/{storage.key}')
    if part is None or part.size != storage.count * dtype.itemsize:
        raise Malformed(f'{name!r} has {storage.count} numbers in data/{storage.key!s:.20}, which '
                        f'has {"none" if part is None else f"{part.size} bytes"}; '
                        'download the file again')
    shape, strides = tensor.shape, tensor.strides
    last = tensor.offset + sum((size - 1) * stride
                               for size, stride in zip(shape, strides, strict=True))
    if (min((0, tensor.offset, *strides, *(size - 1 for size in shape))) < 0 or len(shape) > 8
            or last >= storage.count or int(np.prod(shape, dtype=object)) > storage.count):
        raise Malformed(f'{name!r} of shape {list(shape)} does not lie within its storage; '
                        'download the file again')
    start = tensor.offset * dtype.itemsize
    if strides == _whole_rows(shape):
        return stored_in_file(part, start, dtype, shape)
    return _strided(part, start, dtype, tensor, last - tensor.offset + 1)


def _whole_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor in C order."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _strided(file: Checked, start: int, dtype: np.dtype, tensor: Tensor, count: int) -> Stored:
    """A tensor that was saved transposed, or as a part of another."""
    def read(first: int, stop: int) -> np.ndarray:
        flat = file.read(start, count * dtype.itemsize).view(dtype)
        steps = [stride * dtype.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(flat, tensor.shape, steps, writeable=False)
        return view[first:stop]

    return Stored(str(file.path), dtype, tensor.shape, read, sliced=False)
