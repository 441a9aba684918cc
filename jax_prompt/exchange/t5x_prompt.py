"""Prompts out of T5X training checkpoints, the first implementation's own.

A checkpoint is read as whole models are (`weights.t5x_arrays`), but of its arrays the prompt alone
is opened, so that nothing else need be copied.
"""

import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jax_prompt.exchange.prompt_rows import as_prompt
from jax_prompt.files import listed
from jax_prompt.weights.array_folder import Array, Folder
from jax_prompt.weights.t5x_arrays import find_model

_FILES = ('checkpoint', '.zarray', '_METADATA', 'state/_METADATA')
#: 16,384 rows of T5-XXL's width in float32: far more than any prompt.
MOST_BYTES = 256 * 2**20


def is_t5x(path: str | os.PathLike) -> bool:
    """Tell whether a folder looks like a T5X checkpoint, or like one array of one."""
    return any((Path(path) / name).is_file() for name in _FILES)


def read_t5x_prompt(folder: str | os.PathLike, parameter: str | None = None) -> np.ndarray:
    """Read the prompt of a T5X checkpoint.

    Args:
        folder: one checkpoint, a folder or gs:// address such as `run/checkpoint_3000`; or the
            zarr folder of the prompt alone (`target.encoder.prompt.prompt.prompt`).
        parameter: which one, such as 'encoder/prompt/prompt/prompt'; needed only where the model
            has several parameters named prompt.

    Returns:
        float32[P, D]; float32 as it was stored, to the last bit.

    Raises:
        FileNotFoundError: no such folder, or it is no checkpoint.
        ValueError: damaged, of another version, without a prompt or with several, or no prompt of
            rows and columns.
    """
    address = os.fspath(folder)
    if (Path(address) / '.zarray').is_file():
        parent, name = os.path.split(os.path.abspath(address))
        store = Folder(parent)
        array = store.opened(name, store.start_opening(name, 'zarr', database=False), None)
        return _read(array, address)
    model = find_model(address)
    name = _choose(model.leaves, parameter, address)
    return _read(model.open([name])[name], f'parameter {name} of {address}')


def _read(array: Array, where: str) -> np.ndarray:
    """Read a whole array; what no prompt needs is refused before memory is asked for."""
    if math.prod(array.shape) * array.dtype.itemsize > MOST_BYTES:
        raise ValueError(f'{where} describes {array.dtype}{list(array.shape)}, '
                         f'over {MOST_BYTES // 2**20} MiB: no prompt is so large')
    return as_prompt(array.read((slice(None),) * len(array.shape)), where)


def _choose(names: Iterable[str], parameter: str | None, where: str) -> str:
    """Find the one parameter that is the prompt."""
    names = list(names)
    if parameter is not None:
        wanted = parameter.strip('/').removeprefix('target/')
        if wanted not in names:
            raise ValueError(f'{where} has no parameter {parameter!r}; found '
                             f'{listed(names, 4)}')
        return wanted
    found = [name for name in names if name.split('/')[-1] == 'prompt']
    if not found:
        raise ValueError(f'{where} has no parameter named prompt among its {len(names)}: it is '
                         'no prompt-tuning checkpoint; name it with --parameter=NAME if it is '
                         'called otherwise')
    if len(found) > 1:
        raise ValueError(f'{where} has {len(found)} prompts ({listed(found, 4)}); '
                         'name the one that is meant with --parameter=NAME')
    return found[0]
