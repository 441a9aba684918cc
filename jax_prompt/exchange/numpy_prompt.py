"""Prompts as numpy files, the form in which the first implementation keeps and releases them."""

import os
from pathlib import Path

import numpy as np

from jax_prompt.exchange.prompt_rows import as_prompt
from jax_prompt.files import listed
from jax_prompt.prompts.numpy_file import is_numpy_file, read_array


def find_numpy_prompt(path: str | os.PathLike) -> Path | None:
    """Find the numpy file that a path means.

    Args:
        path: a file, or a folder `numpy_checkpoints/checkpoint_STEP` of the first implementation,
            which holds the prompt as a file named after its parameter, without a suffix.

    Returns:
        The file, or None where there is none.

    Raises:
        ValueError: the folder holds several.
    """
    path = Path(path)
    if not path.is_dir():
        return path if path.is_file() and is_numpy_file(path) else None
    found = [file for file in sorted(path.iterdir()) if file.is_file() and is_numpy_file(file)]
    if len(found) > 1:
        names = listed([file.name for file in found], 4)
        raise ValueError(f'folder {path} holds {len(found)} numpy files ({names}); '
                         'give the path of the one that is the prompt')
    return found[0] if found else None


def read_numpy_prompt(path: str | os.PathLike) -> np.ndarray:
    """Read a prompt from a numpy file of any float type, with or without a suffix.

    Args:
        path: the file, or a folder that holds no other numpy file.

    Returns:
        float32[P, D]; float32 as it was stored, to the last bit.

    Raises:
        ValueError: missing, unreadable, damaged, or no prompt; one line that names it.
    """
    file = find_numpy_prompt(path) or Path(path)
    return as_prompt(read_array(file), f'file {file}')
