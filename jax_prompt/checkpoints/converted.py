"""Keep a frozen tree as it is used, so that the next start of a large model converts nothing.

A converted model is a folder: `tree/`, the frozen tree as Orbax keeps arrays, from which each
device is given its own parts; `jax_prompt.json`, saying what model it is and what each file of
`tree/` has for size and checksum; and the tokenizer's files. It is written under another name and
renamed when it is whole. Orbax does not notice damage to the numbers; the checksums do.
"""

import concurrent.futures
import functools
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import jax_prompt
from jax_prompt.checkpoints.array_folder import FLOATS, Array, Folder
from jax_prompt.checkpoints.assemble import (
    Shardings,
    check_weights,
    flat_shardings,
    put_at,
    tree_shapes,
)
from jax_prompt.checkpoints.placing import Builder, read_ahead
from jax_prompt.checkpoints.weights import LoadedModel, load_t5
from jax_prompt.t5.config import T5Config
from jax_prompt.types import Params

RECORD = 'jax_prompt.json'
_TREE = 'tree'
_FORMAT = 1
_READ_BYTES = 2**22
#: How much Orbax may hold on the host, beside the tree, while it writes.
_CONCURRENT_GB = 1
_CHUNK_BYTES = 2**25
#: Each chunk is read once, but the list of chunks for each of them.
_CACHE_BYTES = 2**24
_TOKENIZER_FILES = ('tokenizer.json', 'spiece.model', 'tokenizer_config.json',
                    'special_tokens_map.json', 'added_tokens.json')


def is_converted(folder: pathlib.Path) -> bool:
    """Tell whether a folder holds a converted model."""
    return (folder / RECORD).is_file()


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


def load_converted(folder: str | pathlib.Path, dtype: str = 'float32', name: str | None = None,
                   weights: str | None = None,
                   shardings: Shardings = None) -> tuple[T5Config, Params, str]:
    """Read a model that `convert_model` wrote.

    Args:
      folder: the folder.
      dtype: what the weights become that are not int8; those kept as bfloat16 were rounded when
        they were converted, whatever they become.
      name: unused: a converted model keeps the name of its source.
      weights: None for what was kept; anything else must agree with it.
      shardings: as for `weights.load_t5`.

    Returns:
      The configuration, the frozen tree and the fingerprint of the source.

    Raises:
      ValueError: when a file is missing or damaged, or the model was kept otherwise than wanted.
    """
    folder = pathlib.Path(folder)
    kind, _ = check_weights(dtype, weights)
    record = _read_record(folder)
    kept = record['weights']
    if weights is not None and (weights == 'int8') != (kept == 'int8'):
        raise ValueError(f'{folder} was converted to {kept}, but {weights} is wanted; convert the '
                         f'model again with weights={weights}, or leave weights out')
    config = T5Config(**record['config'])
    _check_files(folder, record['files'])
    shapes = tree_shapes(config, kind.name, 'int8' if kept == 'int8' else None)
    tree = _restore(folder, shapes, flat_shardings(shapes, shardings))
    return config, tree, record['fingerprint']


def _write(folder: pathlib.Path, loaded: LoadedModel, weights: str, dtype: str) -> None:
    """Write all of a converted model."""
    _save(folder / _TREE, _plain(loaded.frozen))
    if loaded.folder is not None:
        for name in _TOKENIZER_FILES:
            if (loaded.folder / name).is_file():
                shutil.copyfile(loaded.folder / name, folder / name)
    files = [path for path in sorted(folder.rglob('*')) if path.is_file()]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sums = dict(zip((path.relative_to(folder).as_posix() for path in files),
                        pool.map(_sum, files), strict=True))
    record = _sealed(dict(
        format_version=_FORMAT, jax_prompt_version=jax_prompt.__version__, name=loaded.name,
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


def _restore(folder: pathlib.Path, shapes: Params, placed: dict[str, Any]) -> Params:
    """Read the tree chunk by chunk, each straight to the devices that have a part of it.

    Orbax's own restore reads a chunk anew for each device that has a part of it: a model of 5 GiB
    on eight devices took 16 GiB of reading and decoding, and more memory.
    """
    store = Folder(os.path.abspath(folder / _TREE), _CACHE_BYTES)
    leaves = [(jax.tree_util.keystr(path, simple=True, separator='/'), leaf)
              for path, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]]
    opening = [store.start_opening(name.replace('/', '.'), 'zarr', database=True)
               for name, _ in leaves]
    restored = []
    for (name, leaf), started in zip(leaves, opening, strict=True):
        array = store.opened(name, started, leaf.shape, (*FLOATS.values(), np.int8))
        if (array.dtype == np.int8) != (leaf.dtype == np.int8):
            raise _damaged(folder, f'{name} is {array.dtype} instead of {leaf.dtype}')
        builder = Builder(leaf.shape, leaf.dtype, placed.get(name))
        jobs = ((region, functools.partial(array.read, tuple(slice(*span) for span in region)))
                for region in _chunks(array) if builder.needs(region))
        for region, block in read_ahead(jobs):
            builder.write(region, block.astype(leaf.dtype, copy=False))
        restored.append(builder.finish())
    return jax.tree.unflatten(jax.tree.structure(shapes), restored)


def _chunks(array: Array) -> Iterator[tuple[tuple[int, int], ...]]:
    """The regions that an array is stored in."""
    return itertools.product(*(
        [(start, min(start + step, size)) for start in range(0, size, step)]
        for size, step in zip(array.shape, array.chunk, strict=True)))


def _plain(tree: Params) -> Params:
    """The tree with a dict for each Int8, as any reader of Orbax will know it."""
    plain: Params = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        names = jax.tree_util.keystr(path, simple=True, separator='/').split('/')
        put_at(plain, tuple(names), leaf)
    return plain


def _sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with a digest of all else in it."""
    content = {key: value for key, value in record.items() if key != 'digest'}
    text = json.dumps(content, sort_keys=True)
    return content | {'digest': hashlib.sha256(text.encode()).hexdigest()}


def _read_record(folder: pathlib.Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding='utf-8'))
        whole = isinstance(record, dict) and _sealed(record) == record
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(folder, f'{RECORD} cannot be read') from error
    if not whole:
        raise _damaged(folder, f'{RECORD} has been changed')
    if record['format_version'] != _FORMAT:
        raise ValueError(f'{folder} was converted in format {record["format_version"]}; expected '
                         f'{_FORMAT}: convert the model again with this version of jax_prompt')
    return record


def _check_files(folder: pathlib.Path, files: dict[str, list]) -> None:
    """Raise ValueError when a file is missing or not as it was written."""
    def check(name: str) -> None:
        path, (size, crc) = folder / name, files[name]
        if not path.is_file():
            raise _damaged(folder, f'{name} is missing')
        if path.stat().st_size != size:
            raise _damaged(folder, f'{name} has {path.stat().st_size} bytes instead of {size}')
        if _sum(path) != [size, crc]:
            raise _damaged(folder, f'{name} does not match its checksum')

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(check, files))
    found = {path.relative_to(folder).as_posix() for path in (folder / _TREE).rglob('*')
             if path.is_file()}
    if found - files.keys():
        raise _damaged(folder, f'{sorted(found - files.keys())[0]} does not belong to it')


def _sum(path: pathlib.Path) -> list[int]:
    """Size and CRC-32 of a file."""
    size, crc = 0, 0
    with path.open('rb') as file:
        while part := file.read(_READ_BYTES):
            size, crc = size + len(part), zlib.crc32(part, crc)
    return [size, crc]


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


def _damaged(folder: pathlib.Path, reason: str) -> ValueError:
    return ValueError(f'the converted model {folder} is damaged: {reason}; convert it again')
