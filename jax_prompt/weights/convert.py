"""Write a model as it is used; `converted.py` says what is written, and reads it."""

import itertools
import json
import os
import pathlib
import shutil
import struct

import numpy as np

import jax_prompt
from jax_prompt.files import TOKENIZER_FILES, sealed, write_file, writing
from jax_prompt.weights.assemble import check_weights, named_leaves
from jax_prompt.weights.converted import FORMAT, RECORD, TREE, checksums, is_converted
from jax_prompt.weights.load import Weights, load_weights
from jax_prompt.weights.placing import ALIGNMENT
from jax_prompt.weights.safetensors_file import kind_of


def convert_model(source: str | pathlib.Path, output: str | pathlib.Path,
                  weights: str = 'bfloat16', dtype: str = 'bfloat16',
                  overwrite: bool = False) -> pathlib.Path:
    """Load a model and keep it as it is used.

    The host holds the converted model once meanwhile.

    Args:
      source: as for `weights.load_weights`.
      output: the folder to write.
      weights: 'float32' or 'bfloat16' for all weights, or 'int8' for the kernels.
      dtype: with 'int8', of what is no kernel: embeddings, norms, position biases.
      overwrite: whether a converted model that is there is replaced.

    Returns:
      The folder.

    Raises:
      FileNotFoundError: when the source is not there.
      FileExistsError: when the output is there and may not be replaced.
      ValueError: for a source that cannot be loaded, or unknown `weights`.
    """
    check_weights(dtype, weights)
    output = pathlib.Path(output)
    _refuse_to_replace(output, overwrite)
    loaded = load_weights(source, dtype, weights=weights)
    keep_weights(output, loaded, weights, dtype)
    return output


def keep_weights(output: pathlib.Path, loaded: Weights, weights: str, dtype: str) -> None:
    """Write a converted model; it appears whole, in the place of one that is there.

    Args:
      output: the folder to write.
      loaded: the weights, of the dtypes that the next two say, and where its tokenizer is.
      weights, dtype: as for `convert_model`.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f'.{output.name}.{os.getpid()}.unfinished')
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        with writing(f'output {output}'):
            _write(unfinished, loaded, weights, dtype if weights == 'int8' else weights)
        replaced = unfinished.with_suffix('.replaced')
        if output.exists():
            output.rename(replaced)
        unfinished.rename(output)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(folder: pathlib.Path, loaded: Weights, weights: str, dtype: str) -> None:
    """Write all of a converted model."""
    leaves = {name: np.ascontiguousarray(leaf)
              for name, leaf in named_leaves(loaded.frozen).items()}
    _write_tree(folder / TREE, leaves)
    # config.json says which tokenizer they are read by.
    for name in (*TOKENIZER_FILES, 'config.json') if loaded.folder is not None else ():
        if (loaded.folder / name).is_file():
            shutil.copyfile(loaded.folder / name, folder / name)
    record = sealed(dict(
        format_version=FORMAT, jax_prompt_version=jax_prompt.__version__, name=loaded.name,
        fingerprint=loaded.fingerprint, weights=weights, dtype=dtype,
        family=loaded.config.family, config=loaded.config.to_dict(), checksums=checksums(leaves)))
    write_file(folder / RECORD, json.dumps(record, indent=1).encode())


def _write_tree(path: pathlib.Path, leaves: dict[str, np.ndarray]) -> None:
    """Write a safetensors file whose tensors can be used where they lie in memory.

    The safetensors package aligns them to 8 bytes. Those whose sizes would end that come last.
    """
    order = sorted(leaves, key=lambda name: (leaves[name].nbytes % ALIGNMENT > 0, name))
    ends = [0, *itertools.accumulate(leaves[name].nbytes for name in order)]
    header = json.dumps({name: {'dtype': kind_of(leaves[name].dtype),
                                'shape': leaves[name].shape, 'data_offsets': ends[at:at + 2]}
                         for at, name in enumerate(order)}).encode()
    header += b' ' * (-(8 + len(header)) % ALIGNMENT)
    with open(path, 'wb') as file:
        file.write(struct.pack('<Q', len(header)) + header)
        for name in order:
            file.write(leaves[name].reshape(-1).view(np.uint8))


def _refuse_to_replace(output: pathlib.Path, overwrite: bool) -> None:
    """Raise FileExistsError where something would be lost that was not meant."""
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()
    if not output.exists():
        return
    if not (output.is_dir() and is_converted(output)):
        raise FileExistsError(f'{output} is there and is no converted model; '
                              'choose another output folder')
    if not overwrite:
        raise FileExistsError(f'{output} is there; choose another folder, or say that it may '
                              'be overwritten (--overwrite)')
