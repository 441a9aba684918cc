"""Files and zarr arrays of a folder, local or in a bucket, read by TensorStore."""

import dataclasses
import math
import os
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from jax_prompt.files import first_line

_BUCKET = re.compile(r'gs://([^/]+)/(.+)')
FLOATS = {'float32': np.float32, 'float64': np.float64, 'float16': np.float16,
          'bfloat16': ml_dtypes.bfloat16}
AGAIN = 'copy the checkpoint again'
#: Chunks that several reads of one large array share are decoded once.
_CACHE_BYTES = 2**28
#: The embedding table of mT5-XXL in float32, in one piece, is half of it.
_LARGEST_CHUNK = 2**33


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of a checkpoint: its shape and dtype, and how to read a part of it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[tuple[slice, ...]], np.ndarray]


def kvstore(folder: str) -> dict[str, str]:
    """Return TensorStore's specification of a folder.

    Args:
      folder: a local path, or 'gs://bucket/path'.

    Returns:
      A JSON-ready dict.

    Raises:
      ValueError: for gs:// without a bucket or a path.
    """
    if folder.startswith('gs://'):
        found = _BUCKET.fullmatch(folder)
        if not found:
            raise ValueError(f'{folder!r} is no address of a checkpoint; '
                             'expected gs://bucket/path/checkpoint_1100000')
        return {'driver': 'gcs', 'bucket': found[1], 'path': found[2].strip('/') + '/'}
    return {'driver': 'file', 'path': os.path.abspath(folder) + '/'}


class Folder:
    """A folder of files and arrays, local or in a bucket."""

    def __init__(self, path: str):
        import tensorstore as ts
        self.path = path.rstrip('/')
        self._ts = ts
        self._store = kvstore(self.path)
        # Without a limit, a bucket that does not answer is asked for minutes.
        self._context = ts.Context({
            'cache_pool': {'total_bytes_limit': _CACHE_BYTES},
            'gcs_request_retries': {'max_retries': 4, 'max_delay': '4s'}})

    def file(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is no such file.

        Raises:
          ValueError: it cannot be read.
        """
        if self._store['driver'] == 'file' and not os.path.isfile(self._store['path'] + name):
            return None
        try:
            store = self._ts.KvStore.open(self._store, context=self._context).result()
            found = store.read(name).result()
        except Exception as error:  # TensorStore's errors are of many kinds
            raise ValueError(f'cannot read {self.path}/{name}: {first_line(error)}') from error
        return None if found.state == 'missing' else found.value

    def start_opening(self, name: str, driver: str, database: bool):
        """Begin to open an array; give the result to `opened`."""
        store = self._store | {'path': f'{self._store["path"]}{name}/'}
        if database:
            store = {'driver': 'ocdbt', 'base': self._store, 'path': f'{name}/'}
        # A chunk that is not there is an error, never a chunk of zeros.
        spec = {'driver': driver, 'kvstore': store, 'fill_missing_data_reads': False}
        return self._ts.open(spec, context=self._context, read=True, open=True)

    def opened(self, name: str, opening, shape: tuple[int, ...] | None) -> Array:
        """Wait until an array is open.

        Args:
          name: what to call it in messages.
          opening: from `start_opening`.
          shape: the one it should have, None for any.

        Raises:
          ValueError: it is not there, or damaged, or of another shape than expected, or holds no
            floating-point numbers.
        """
        try:
            array = opening.result()
            dtype = np.dtype(array.dtype.numpy_dtype)
            said = array.spec().to_json()['metadata']
            stored = said.get('dtype')
            chunk = array.chunk_layout.read_chunk.shape
        except Exception as error:
            raise ValueError(f'cannot read the array {name!r} of {self.path}: {first_line(error)}; '
                             f'{AGAIN}') from error
        if dtype not in [np.dtype(kind) for kind in FLOATS.values()]:
            raise ValueError(f'{self.path} has {name!r} as {dtype}; expected floating-point '
                             'numbers (checkpoints of before June 2021 keep bfloat16 as uint16: '
                             'save them again with a later T5X)')

        # T5X writes little-endian rows alone; one flipped bit makes '<f4' '>f4'.
        if shape not in (None, tuple(array.shape)) or (
                str(stored).startswith('>') or said.get('order', 'C') != 'C'):
            raise ValueError(f'{self.path} has {name!r} as {stored}{list(array.shape)}, but its '
                             f'list of arrays says {list(shape or array.shape)} and numbers should '
                             f'be little-endian, rows first; {AGAIN}')

        # TensorStore ends the process where there is no memory for a chunk that a file declares.
        if any(part > max(size, 1) for part, size in zip(chunk, array.shape, strict=True)) or (
                int(np.prod(chunk, dtype=object)) * dtype.itemsize > _LARGEST_CHUNK):
            raise ValueError(f'{self.path} has {name!r} of {list(array.shape)} in chunks of '
                             f'{list(chunk)}; expected parts of it; {AGAIN}')

        checked = []

        def read(index: tuple[slice, ...]) -> np.ndarray:
            try:
                if not checked and (said.get('compressor') or {}).get('id') in ('gzip', 'zlib'):
                    self._check_ends(array, said)
                    checked.append(True)
                return np.asarray(array[index].read(order='C').result())
            except Exception as error:
                raise ValueError(f'cannot read the array {name!r} of {self.path}: '
                                 f'{first_line(error)}; {AGAIN}') from error

        return Array(tuple(array.shape), dtype, read)

    def _check_ends(self, array: Any, said: dict[str, Any]) -> None:
        """Hold chunks to gzip's last bytes: TensorStore does not where some of them are missing."""
        if said['compressor']['id'] == 'zlib':
            raise ValueError('it is compressed by zlib, whose checksum may be missing without a '
                             'word; expected gzip, as T5X writes it')
        # A bucket has checksums of its own for what is brought there and back.
        if self._store['driver'] != 'file':
            return
        chunk, separator = said['chunks'], said.get('dimension_separator', '.')
        for index in np.ndindex(*map(lambda size, part: -(-size // part), array.shape, chunk)):
            path = array.kvstore.path + separator.join(map(str, index))
            if not os.path.isfile(path):
                return  # within a database, or missing, which TensorStore says
            with open(path, 'rb') as file:
                file.seek(max(os.path.getsize(path) - 8, 0))
                end = file.read()
            span = tuple(slice(at * part, (at + 1) * part)
                         for at, part in zip(index, chunk, strict=True))
            # What stands beyond the array in a chunk at its border is not known.
            whole = all(part.stop <= size for part, size in zip(span, array.shape, strict=True))
            crc = zlib.crc32(array[span].read(order='C').result()) if whole else None
            size = math.prod(chunk) * array.dtype.numpy_dtype.itemsize % 2**32
            if end[4:] != struct.pack('<I', size) or (whole and end[:4] != struct.pack('<I', crc)):
                raise ValueError(f'{path} does not end in its checksum and size, as gzip does')
