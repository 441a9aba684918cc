"""One tensor of a checkpoint: what is known before it is read, and reading some rows of it.

Files are read by `pread` into memory of our own. Pages of a mapped file would count as the
process's memory, and a file that is cut short under a mapping ends the process. What is converted
was written to be used as it lies there and is replaced as a whole: that may be mapped.
"""

import dataclasses
import functools
import hashlib
import mmap
import os
import pathlib
import threading
import zlib
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np

from jax_prompt.models.architecture import ModelConfig

#: How much of each end of a tensor entered a model's fingerprint before all of it did.
_SAMPLE_BYTES = 4096
#: The kinds of numbers that weights may be stored as.
FLOATS = tuple(np.dtype(kind) for kind in (np.float32, ml_dtypes.bfloat16, np.float16, np.float64))
_PASSING_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor that a source holds, read when it is needed.

    Attributes:
      where: the file that holds it, for messages.
      dtype: of its numbers, as stored.
      shape: in Hugging Face's layout, or `[inputs, outputs]` where `inputs_first`.
      read: (start, stop) -> those rows of the first axis.
      inputs_first: whether it is a matrix as one multiplies by it, as JAX and ONNX keep it.
      sliced: whether reading a few rows costs about a few rows.
      scale: of a matrix that is stored in eight bits, one number a column; None for any other.
      ends: the arrays whose ends told it from others before, where `read` gives other numbers.
    """

    where: str
    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[int, int], np.ndarray]
    inputs_first: bool = False
    sliced: bool = True
    scale: 'Stored | None' = None
    ends: tuple[np.ndarray, ...] = ()

    @property
    def row_bytes(self) -> int:
        """The bytes of one row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


class Checkpoint(NamedTuple):
    """What a source holds, before its numbers are read.

    Attributes:
      config: the model's shape.
      tensors: Hugging Face name -> tensor.
      fingerprint: of the model; None where it follows from the tensors.
      weights: what they were converted to; None for a source that was not converted.
      mapped: 'path/of/leaf' -> the whole leaf as it lies in the file, once it is checked; None for
        a source that holds none.
    """

    config: ModelConfig
    tensors: dict[str, Stored]
    fingerprint: str | None = None
    weights: str | None = None
    mapped: Callable[[str], np.ndarray] | None = None


class RawFile:
    """A file opened for reading at any place, from several threads at once."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size

    def __enter__(self) -> 'RawFile':
        return self

    def __exit__(self, *_) -> None:
        os.close(self._descriptor)

    @functools.cached_property
    def memory(self) -> np.ndarray:
        """The file as memory that cannot be written to; it stays when the file is closed."""
        return np.frombuffer(mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ), np.uint8)

    def read(self, offset: int, size: int) -> np.ndarray:
        """Return `size` bytes as uint8.

        Raises:
          ValueError: when the file ends before, or cannot be read.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ValueError(f'{self.path} ends at byte {self.size}, before byte {offset + size}; '
                             'copy or download the file again')
        content = np.empty(size, np.uint8)
        view, done = memoryview(content), 0
        while done < size:
            try:
                count = os.preadv(self._descriptor, [view[done:done + 2**30]], offset + done)
            except OSError as error:
                raise ValueError(f'cannot read {self.path}: {error}; '
                                 'copy or download the file again') from error
            if not count:
                raise ValueError(f'{self.path} was cut short while it was read; '
                                 'copy or download the file again')
            done += count
        return content


class Checked:
    """A range of a file that is compared with its checksum before any of it is used."""

    def __init__(self, file: RawFile, start: int, size: int, crc: int | None, name: str):
        """Name a range.

        Args:
          file: stays open as long as the range is read.
          start, size: in bytes.
          crc: its CRC-32; None where none is known.
          name: what to call it in messages.
        """
        self.path, self.size = file.path, size
        self._file, self._start, self._crc, self._name = file, start, crc, name
        self._lock = threading.Lock()

    def read(self, offset: int, size: int) -> np.ndarray:
        """Return `size` bytes as uint8; what is read for the first time is checked as a whole.

        Raises:
          ValueError: the range is not what was written, or cannot be read.
        """
        with self._lock:
            if self._crc is None:
                pass
            elif size == self.size:
                content = self._file.read(self._start, size)
                self._compare(zlib.crc32(content))
                return content
            else:
                found = 0
                for at in range(0, self.size, _PASSING_BYTES):
                    part = self._file.read(self._start + at, min(_PASSING_BYTES, self.size - at))
                    found = zlib.crc32(part, found)
                self._compare(found)
        return self._file.read(self._start + offset, size)

    def _compare(self, found: int) -> None:
        if found != self._crc:
            raise corrupt(self.path, self._name)
        self._crc = None


def corrupt(path: pathlib.Path, name: str) -> ValueError:
    """Return the error of a range of a file that is not what was written."""
    return ValueError(f'{path} is corrupt: {name!r:.80} within it does not match its checksum; '
                      'copy or download the file again')


def stored_in_file(file: RawFile | Checked, offset: int, dtype: np.dtype,
                   shape: tuple[int, ...]) -> Stored:
    """Describe a tensor that lies in a file in C order, in Hugging Face's layout."""
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    row = size // shape[0] if shape and shape[0] else size

    def read(start: int, stop: int) -> np.ndarray:
        content = file.read(offset + start * row, (stop - start) * row)
        return content.view(dtype).reshape(stop - start, *shape[1:])

    return Stored(str(file.path), dtype, shape, read)


class Digest:
    """What tells an array from any other: a hash of its dtype, shape and bytes in C order.

    Beside it stands what identified arrays before: their first and last 4 KiB.
    """

    def __init__(self, dtype: np.dtype, shape: tuple[int, ...]):
        """Begin; `add` is called for each of its rows once, by any thread in any order."""
        self._head = f'{dtype} {tuple(shape)} '.encode()
        self._whole = hashlib.sha256(self._head)
        self._first = self._last = b''
        self._next, self._waiting, self._lock = 0, {}, threading.Lock()

    def add(self, row: int, block: np.ndarray) -> None:
        """Hash some rows, which begin at `row`; those that come too early are kept until then."""
        with self._lock:
            self._waiting[row] = block
            while self._next in self._waiting:
                block = self._waiting.pop(self._next)
                self._next += len(block)
                content = np.ascontiguousarray(block).reshape(-1).view(np.uint8)
                self._whole.update(content)
                self._first += content[:_SAMPLE_BYTES - len(self._first)].tobytes()
                self._last = (self._last + content[-_SAMPLE_BYTES:].tobytes())[-_SAMPLE_BYTES:]

    def finish(self) -> tuple[bytes, bytes]:
        """Return the hash of all, and what its ends are hashed from."""
        assert not self._waiting
        return self._whole.digest(), self._head + self._first + self._last


def ends_of(arrays: tuple[np.ndarray, ...]) -> bytes:
    """Return what the ends of several arrays are hashed from, as `Digest.finish` does of one."""
    told = b''
    for array in arrays:
        digest = Digest(array.dtype, array.shape)
        digest.add(0, np.atleast_1d(array))
        told += digest.finish()[1]
    return told


def is_finite(block: np.ndarray) -> bool:
    """Tell whether all of an array's floats are finite, by its bits: quick in any dtype."""
    signed, unsigned = f'i{block.itemsize}', f'u{block.itemsize}'
    inf = np.array([np.inf, -np.inf], block.dtype).view(unsigned)
    # By size, negative ones come last among the unsigned and before the others among the signed.
    return bool(block.view(signed).max() < inf[0] and block.view(unsigned).max() < inf[1])


def equal(one: Stored, other: Stored) -> bool:
    """Tell whether two tensors hold the same numbers, compared some rows at a time."""
    if one.shape != other.shape or not one.shape:
        return False
    step = max(1, _PASSING_BYTES // max(one.row_bytes, 1))
    rows = one.shape[0]
    return all(np.array_equal(one.read(start, min(start + step, rows)),
                              other.read(start, min(start + step, rows)))
               for start in range(0, rows, step))
