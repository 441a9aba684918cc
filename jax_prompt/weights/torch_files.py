"""Read the tensors of `pytorch_model.bin` without PyTorch and without unpickling.

Since PyTorch 1.6 such a file is an uncompressed zip: `data.pkl` says which tensors there are, and
`data/0`, `data/1`, ... hold their numbers.

Source: torch/serialization.py, release 2.13.
"""

import dataclasses
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jax_prompt.weights.tensors import RawFile, Stored, digest_arrays, stored_in_file
from jax_prompt.weights.torch_pickle import (
    OTHER_STORAGES,
    STORAGES,
    Malformed,
    Tensor,
    interpret,
    what,
)

_LARGEST_PICKLE = 2**26
_CHECKED_BYTES = 2**24
_LOCAL_HEADER = 30


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
        with zipfile.ZipFile(file.path) as archive:
            entries = archive.infolist()
        parts = _parts(file, entries)
        state = interpret(parts['data.pkl'].read().tobytes())
        return {name: _stored(file, name, tensor, parts)
                for name, tensor in _named_tensors(state).items()}
    except Malformed as error:
        raise ValueError(f'{file.path} is not read: {error}') from error
    except zipfile.BadZipFile as error:
        raise ValueError(_why_no_zip(file, error)) from error
    # What zipfile and pickletools raise on damaged files, by their sources and by fuzzing.
    except (ValueError, IndexError, KeyError, TypeError, EOFError, OverflowError, RecursionError,
            NotImplementedError, RuntimeError, struct.error, zlib.error, OSError) as error:
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


class _Part:
    """A file within the zip: where its bytes lie, and whether they are what was written."""

    def __init__(self, file: RawFile, entry: zipfile.ZipInfo, has_checksum: bool):
        self.name, self.size = entry.filename, entry.file_size
        self._file, self._expected = file, entry.CRC if has_checksum else None
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise Malformed(f'{self.name!r:.80} within it is compressed; torch.save never does '
                            'that')
        header = file.read(entry.header_offset, _LOCAL_HEADER).tobytes()
        name_length, extra_length = struct.unpack('<HH', header[26:30])
        self.start = entry.header_offset + _LOCAL_HEADER + name_length + extra_length
        name = file.read(entry.header_offset + _LOCAL_HEADER, name_length).tobytes()
        if header[:4] != b'PK\x03\x04' or name != entry.orig_filename.encode():
            raise Malformed(f'{self.name!r:.80} is not where the zip says; download it again')

    def check(self) -> None:
        """Compare with the checksum, once.

        Raises:
          ValueError: they differ.
        """
        if self._expected is None:
            return
        found = 0
        for offset in range(0, self.size, _CHECKED_BYTES):
            part = self._file.read(self.start + offset, min(_CHECKED_BYTES, self.size - offset))
            found = zlib.crc32(part, found)
        if found != self._expected:
            raise ValueError(f'{self._file.path} is corrupt: {self.name!r:.80} within it does not '
                             'match its checksum; copy or download the file again')
        self._expected = None

    def read(self) -> np.ndarray:
        """Return all of it, checked, as uint8."""
        self.check()
        return self._file.read(self.start, self.size)


def _parts(file: RawFile, entries: list[zipfile.ZipInfo]) -> dict[str, _Part]:
    """The files of the zip by name within its one folder."""
    roots = {entry.filename.partition('/')[0] for entry in entries}
    # Without torch.serialization.set_crc32_options, which writes none, each has a checksum.
    has_checksums = any(entry.CRC for entry in entries)
    parts = {}
    for entry in entries:
        part = _Part(file, entry, has_checksums)
        if parts.setdefault(entry.filename.partition('/')[2], part) is not part:
            raise Malformed(f'it holds {entry.filename!r:.80} twice; copy or download it again')
    if len(roots) != 1 or 'data.pkl' not in parts:
        raise Malformed('it has no data.pkl in one folder; expected a file of torch.save (a '
                        'TorchScript archive or another zip is none)')
    if parts['data.pkl'].size > _LARGEST_PICKLE:
        raise Malformed('its list of tensors is longer than any state dict has')
    if 'byteorder' in parts and parts['byteorder'].read().tobytes() != b'little':
        raise Malformed('its numbers are not little-endian; save it again on another machine')
    return parts


def _named_tensors(state: Any) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not state:
        raise Malformed(f'it holds {what(state)}; expected a state dict, tensor name -> tensor')
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise Malformed(f'it has {what(tensor)} as {name!r:.80}; expected a state dict, '
                             'tensor name -> tensor: save model.state_dict() alone')
    return state


def _stored(file: RawFile, name: str, tensor: Tensor, parts: dict[str, _Part]) -> Stored:
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
    start = part.start + tensor.offset * dtype.itemsize
    if strides == _whole_rows(shape):
        described = stored_in_file(file, start, dtype, shape)
    else:
        described = _strided(file, start, dtype, tensor, last - tensor.offset + 1)
    return dataclasses.replace(described, read=_after_check(part, described.read))


def _whole_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a tensor in C order."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _strided(file: RawFile, start: int, dtype: np.dtype, tensor: Tensor, count: int) -> Stored:
    """A tensor that was saved transposed, or as a part of another."""
    def read(first: int, stop: int) -> np.ndarray:
        flat = file.read(start, count * dtype.itemsize).view(dtype)
        steps = [stride * dtype.itemsize for stride in tensor.strides]
        view = np.lib.stride_tricks.as_strided(flat, tensor.shape, steps, writeable=False)
        return view[first:stop]

    return Stored(str(file.path), dtype, tensor.shape, read,
                  lambda: digest_arrays((read(0, tensor.shape[0]),)), sliced=False)


def _after_check(part: _Part, read: Callable[[int, int], np.ndarray]
                 ) -> Callable[[int, int], np.ndarray]:
    """Compare a storage with its checksum before the first of its numbers is used."""
    def checked(first: int, stop: int) -> np.ndarray:
        part.check()
        return read(first, stop)

    return checked
