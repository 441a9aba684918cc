"""Numpy files of others: told by their content, read without unpickling, sizes distrusted."""

import os
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np

MAGIC = b'\x93NUMPY'
#: numpy has no name for bfloat16 and writes its arrays as two opaque bytes a number.
_OPAQUE_PAIR = np.dtype('V2')


def is_numpy_file(path: str | os.PathLike) -> bool:
    """Tell whether a file begins as numpy's do, whatever its name."""
    with Path(path).open('rb') as file:
        return file.read(len(MAGIC)) == MAGIC


def read_array(path: str | os.PathLike) -> np.ndarray:
    """Read one array of numbers from a numpy file, with or without the suffix .npy.

    Args:
        path: the file. bfloat16 arrays, which numpy stores without their type, are recognised.

    Returns:
        An array in the file's own dtype, in memory of its own.

    Raises:
        ValueError: the file is missing, no numpy file, truncated, lengthened, or holds Python
            objects; one line that names it.
    """
    path = Path(path)
    if not path.is_file():  # a pipe would be waited for
        reason = 'No such file' if not path.exists() else 'Is no file'
        raise ValueError(f'cannot read numpy file {path}: {reason}; check the path')
    try:
        # Mapped, so that a header which promises more than the file holds is found out before
        # memory is asked for; arrays of Python objects cannot be mapped at all.
        with np.errstate(over='raise'):
            mapped = np.load(path, mmap_mode='r', allow_pickle=False)
        held, described = path.stat().st_size - mapped.offset, mapped.nbytes
    # numpy's header parser lets errors of Python's own parser through; a zipped .npz has no offset.
    except Exception as error:
        raise ValueError(
            f'file {path} is no readable numpy array of numbers (truncated, corrupt, of another '
            'kind or holding Python objects); write it again with numpy.save') from error
    if held != described:
        raise ValueError(
            f'file {path} is damaged: its header describes {mapped.dtype}{list(mapped.shape)} of '
            f'{described} bytes, {held} follow; copy it or write it again')
    array = np.array(mapped)
    return array.view(ml_dtypes.bfloat16) if array.dtype == _OPAQUE_PAIR else array


def as_float32(array: np.ndarray, where: str) -> np.ndarray:
    """Make rows of any float type float32, in memory of their own.

    Raises:
        ValueError: they are no floats, or not finite in float32; says where they are from.
    """
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f'{where} holds {array.dtype}, not floats; save the prompt as float32')
    # A float64 past float32's range becomes infinite here, which the check below reports.
    with np.errstate(over='ignore'):
        array = np.array(array, np.float32, order='C')
    if not np.isfinite(array).all():
        raise ValueError(
            f'{where} holds numbers that are not finite in float32, first in row '
            f'{np.argwhere(~np.isfinite(array))[0, 0]}; use a prompt from a run that did not '
            'diverge')
    return array
