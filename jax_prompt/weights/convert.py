"""Write a model as it is used; `converted.py` says what is written, and reads it."""

import concurrent.futures
import json
import os
import pathlib
import shutil
from typing import Any

import jax

import jax_prompt
from jax_prompt.types import Params
from jax_prompt.weights.assemble import check_weights, put_at
from jax_prompt.weights.converted import FORMAT, RECORD, TREE, is_converted, sealed, sum_of
from jax_prompt.weights.load import LoadedModel, load_t5

#: How much Orbax may hold on the host, beside the tree, while it writes.
_CONCURRENT_GB = 1
_CHUNK_BYTES = 2**25
_TOKENIZER_FILES = ('tokenizer.json', 'spiece.model', 'tokenizer_config.json',
                    'special_tokens_map.json', 'added_tokens.json')


def convert_model(source: str | pathlib.Path, output: str | pathlib.Path,
                  weights: str = 'bfloat16', dtype: str = 'bfloat16',
                  overwrite: bool = False) -> pathlib.Path:
    """Load a T5 and keep it as it is used.

    The host holds the converted model once meanwhile.

    Args:
      source: as for `weights.load_t5`.
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
    loaded = load_t5(source, dtype, weights=weights)
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f'.{output.name}.{os.getpid()}.unfinished')
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        _write(unfinished, loaded, weights, dtype if weights == 'int8' else weights)
        replaced = unfinished.with_suffix('.replaced')
        if output.exists():
            output.rename(replaced)
        unfinished.rename(output)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return output


def _write(folder: pathlib.Path, loaded: LoadedModel, weights: str, dtype: str) -> None:
    """Write all of a converted model."""
    _save(folder / TREE, _plain(loaded.frozen))
    if loaded.folder is not None:
        for name in _TOKENIZER_FILES:
            if (loaded.folder / name).is_file():
                shutil.copyfile(loaded.folder / name, folder / name)
    files = [path for path in sorted(folder.rglob('*')) if path.is_file()]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sums = dict(zip((path.relative_to(folder).as_posix() for path in files),
                        pool.map(sum_of, files), strict=True))
    record = sealed(dict(
        format_version=FORMAT, jax_prompt_version=jax_prompt.__version__, name=loaded.name,
        fingerprint=loaded.fingerprint, weights=weights, dtype=dtype,
        config=loaded.config.to_dict(), files=sums))
    with (folder / RECORD).open('w', encoding='utf-8') as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _save(path: pathlib.Path, tree: Params) -> None:
    import orbax.checkpoint as ocp

    def in_chunks(path: tuple, _: Any) -> ocp.SaveArgs:
        # Layer by layer, but not a table row by row, which is what 0 means to Orbax.
        layers = (0,) if jax.tree_util.DictKey('layers') in path else ()
        return ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES, shard_axes=layers)

    save_args = jax.tree_util.tree_map_with_path(in_chunks, tree)
    handler = ocp.PyTreeCheckpointHandler(save_concurrent_gb=_CONCURRENT_GB)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(os.path.abspath(path), args=ocp.args.PyTreeSave(
            tree, save_args=save_args))


def _plain(tree: Params) -> Params:
    """The tree with a dict for each Int8, as any reader of Orbax will know it."""
    plain: Params = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        names = jax.tree_util.keystr(path, simple=True, separator='/').split('/')
        put_at(plain, tuple(names), leaf)
    return plain


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
        raise FileExistsError(f'{output} is there; allow overwriting it, or choose another folder')
