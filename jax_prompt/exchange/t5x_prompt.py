"""Prompts out of T5X training checkpoints, the first implementation's own.

A native checkpoint is a folder with a msgpack file `checkpoint`: the state as nested dictionaries,
small arrays inline, large ones as a reference to a zarr folder beside it. T5X's early Orbax
checkpoints have the same two parts and refer to the folders by text. Of these, only that file and
the one array in question are read, so that nothing else need be copied, by a few lines of ours: no
size that a file declares is believed (a huge chunk in `.zarray` ends the process in TensorStore),
and a chunk that is not there is an error rather than zeros. Checkpoints in a bucket and of later
Orbax are read as whole models are, in `t5x_arrays`. Formats: t5x/checkpoints.py (version 3),
https://zarr-specs.readthedocs.io, version 2.
"""

import dataclasses
import itertools
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import ml_dtypes
import numpy as np

from jax_prompt.exchange.prompt_rows import as_prompt
from jax_prompt.weights.t5x_arrays import open_model

_VERSION = 3
_MSGPACK_ARRAY = 1  # flax.serialization's code for arrays
_ORBAX_REFERENCE = 'PLACEHOLDER://'
_ORBAX_LATER = ('_METADATA', 'state/_METADATA')
_DTYPES = {'float32': np.float32, 'float64': np.float64, 'float16': np.float16,
           'bfloat16': ml_dtypes.bfloat16, '<f4': '<f4', '<f8': '<f8', '<f2': '<f2'}
_AGAIN = 'copy the checkpoint again'
#: 16,384 rows of T5-XXL's width in float32: far more than any prompt.
MOST_BYTES = 256 * 2**20
_MOST_CHUNKS = 4096
_MOST_ZARRAY_BYTES = 65536


@dataclasses.dataclass(frozen=True)
class _Inline:
    """An array inside the msgpack file, not decoded yet."""

    content: bytes


def is_t5x(path: str | os.PathLike) -> bool:
    """Tell whether a folder looks like a T5X checkpoint, or like one array of one."""
    return any((Path(path) / name).is_file() for name in ('checkpoint', '.zarray', *_ORBAX_LATER))


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
        FileNotFoundError: no such folder, or a part of the checkpoint is not there.
        ValueError: damaged, of another version, without a prompt or with several, or no prompt of
            rows and columns.
    """
    address, folder = os.fspath(folder), Path(folder)
    if address.startswith('gs://') or (not (folder / 'checkpoint').is_file() and any(
            (folder / name).is_file() for name in _ORBAX_LATER)):
        return _read_by_tensorstore(address, parameter)
    if (folder / '.zarray').is_file():
        return as_prompt(_read_zarr(folder), f'{folder}')
    name, leaf = _choose(_model_leaves(_read_state(folder)), parameter, address)
    where = f'parameter {name} of {folder}'
    if isinstance(leaf, _Inline):
        return as_prompt(_decode_inline(leaf, where), where)
    inner, shape = _reference(leaf, where)
    array = _read_zarr(folder / inner)
    if shape is not None and list(array.shape) != shape:
        raise ValueError(f'{where} has shape {list(array.shape)} in its zarr folder but {shape} in '
                         f'the file checkpoint; {_AGAIN}')
    return as_prompt(array, where)


def _read_state(folder: Path) -> dict:
    """Read the msgpack file; arrays stay as they are."""
    path = folder / 'checkpoint'
    if not path.is_file():
        inner = sorted(entry.name for entry in folder.glob('checkpoint_*')) if (
            folder.is_dir()) else []
        hint = f'; give one of its checkpoints, such as {folder / inner[-1]}' if inner else (
            ' (a folder such as checkpoint_3000)')
        raise FileNotFoundError(f'no T5X checkpoint at {folder}: there is no file {path}{hint}')
    import msgpack
    try:
        # Sizes that the file declares are held against its own by msgpack.
        state = msgpack.unpackb(path.read_bytes(), ext_hook=_keep_arrays, raw=False)
    # msgpack raises its own errors beside Python's: for depth, for leftovers, for text.
    except Exception as error:
        raise ValueError(f'{path} is no readable T5X checkpoint (truncated, corrupt or another '
                         f'kind of file); {_AGAIN}') from error
    if not isinstance(state, dict):
        raise ValueError(f'{path} holds {type(state).__name__}, not a training state; {_AGAIN}')
    version = state.get('version', _VERSION if '_optimizer' in state or 'target' in state else None)
    if version != _VERSION:
        raise ValueError(f'{path} has T5X checkpoint version {_brief(version)}; expected '
                         f'{_VERSION}: save it again with T5X as of June 2021 or later')
    return state


def _keep_arrays(code: int, content: bytes) -> Any:
    """Leave arrays undecoded and forget everything else."""
    return _Inline(content) if code == _MSGPACK_ARRAY else None


def _read_by_tensorstore(address: str, parameter: str | None) -> np.ndarray:
    """Read the prompt of a checkpoint in a bucket or of later Orbax."""
    name, array = _choose(open_model(address), parameter, address)
    where = f'parameter {name} of {address}'
    _check_size(array.shape, array.dtype, where)
    return as_prompt(array.read((slice(None),) * len(array.shape)), where)


def _model_leaves(state: dict) -> dict[str, Any]:
    """Return the model's parameters by name, without the optimizer's."""
    return {'/'.join(path[path.index('target') + 1:]): leaf
            for path, leaf in _leaves(state) if 'target' in path}


def _choose(model: Mapping[str, Any], parameter: str | None, where: str) -> tuple[str, Any]:
    """Find the one parameter that is the prompt."""
    if parameter is not None:
        wanted = parameter.strip('/').removeprefix('target/')
        if wanted not in model:
            raise ValueError(f'{where} has no parameter {parameter!r}; found '
                             f'{_some(model) or "no parameters at all"}')
        return wanted, model[wanted]
    found = [name for name in model if name.split('/')[-1] == 'prompt']
    if not found:
        raise ValueError(f'{where} has no parameter named prompt among its {len(model)}: it is '
                         'no prompt-tuning checkpoint; name the parameter if it has another name')
    if len(found) > 1:
        raise ValueError(f'{where} has {len(found)} prompts ({_some(found)}); '
                         'name the parameter that is meant')
    return found[0], model[found[0]]


def _leaves(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and leaf of nested dictionaries; a reference to a zarr folder is a leaf."""
    waiting = [((), tree)]
    while waiting:  # not by recursion: a file decides the depth
        path, node = waiting.pop()
        if isinstance(node, dict) and not {'driver', 'kvstore'} <= node.keys():
            waiting += [((*path, str(key)), node[key]) for key in reversed(node)]
        else:
            yield path, node


def _decode_inline(leaf: _Inline, where: str) -> np.ndarray:
    """Decode an array as flax writes it: (shape, name of the dtype, bytes)."""
    import msgpack
    try:
        shape, name, content = msgpack.unpackb(leaf.content, raw=False)
        dtype = np.dtype(_DTYPES[name])
        return np.frombuffer(content, dtype).reshape([int(size) for size in shape])
    except Exception as error:
        raise ValueError(f'{where} is damaged or holds no floats; {_AGAIN}') from error


def _reference(leaf: Any, where: str) -> tuple[str, list | None]:
    """Return the name of the zarr folder that a reference means, and the shape it declares."""
    shape, name = None, leaf
    if isinstance(leaf, str) and leaf.startswith(_ORBAX_REFERENCE):
        name = leaf.removeprefix(_ORBAX_REFERENCE)
    elif isinstance(leaf, dict):
        kvstore, metadata = leaf.get('kvstore'), leaf.get('metadata')
        name = kvstore.get('path') if isinstance(kvstore, dict) else None
        shape = metadata.get('shape') if isinstance(metadata, dict) else None
    else:
        raise ValueError(f'{where} is {type(leaf).__name__}; expected an array')
    name = name.strip('/') if isinstance(name, str) else None
    # What is read must lie within the checkpoint, wherever that came from.
    if not name or name in ('.', '..') or PurePath(name).name != name or '\\' in name or (
            '\0' in name):
        raise ValueError(f'{where} refers to {_brief(name)}; expected the name of a folder within '
                         'the checkpoint, without any path')
    return name, shape


def _read_zarr(folder: Path) -> np.ndarray:
    """Read an array of zarr version 2, chunk by chunk, all of them there and as long as stated."""
    header = _read_zarray(folder / '.zarray')
    shape, chunks = header['shape'], header['chunks']
    array = np.zeros(shape, header['dtype'])
    grid = [range(-(-size // chunk)) for size, chunk in zip(shape, chunks, strict=True)]
    for index in itertools.product(*grid):
        path = folder / header['dimension_separator'].join(map(str, index or (0,)))
        content = _read_chunk(path, header, math.prod(chunks) * array.dtype.itemsize)
        block = np.frombuffer(content, array.dtype).reshape(chunks, order=header['order'])
        place = tuple(slice(i * chunk, min((i + 1) * chunk, size))
                      for i, chunk, size in zip(index, chunks, shape, strict=True))
        # The last chunk of an axis is stored whole, whatever reaches beyond the array.
        array[place] = block[tuple(slice(part.stop - part.start) for part in place)]
    return array


def _read_zarray(path: Path) -> dict[str, Any]:
    """Read and check the description of a zarr array."""
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; {_AGAIN}, hidden files with it')
    if path.stat().st_size > _MOST_ZARRAY_BYTES:
        raise ValueError(f'{path} is no zarr description: it is too long; {_AGAIN}')
    try:
        header = _checked_zarray(json.loads(path.read_text(encoding='utf-8')))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f'{path} describes no zarr array of floats as T5X writes them (version 2, '
                         f'gzip); {_AGAIN}') from error
    for sizes in (header['shape'], header['chunks']):
        _check_size(sizes, header['dtype'], str(path))
    count = math.prod(-(-a // b) for a, b in zip(header['shape'], header['chunks'], strict=True))
    if count > _MOST_CHUNKS:
        raise ValueError(f'{path} describes {count} chunks; no prompt has so many')
    return header


def _check_size(shape: Sequence[int], dtype: np.dtype, where: str) -> None:
    """Refuse what no prompt needs, before memory is asked for."""
    if math.prod(shape) * dtype.itemsize > MOST_BYTES:
        raise ValueError(f'{where} describes {dtype}{list(shape)}, '
                         f'over {MOST_BYTES // 2**20} MiB: no prompt is so large')


def _checked_zarray(said: dict[str, Any]) -> dict[str, Any]:
    """Return what is needed of a description; any error means that it is none of ours."""
    shape, chunks, compressor = said['shape'], said['chunks'], said['compressor']
    header = {'shape': shape, 'chunks': chunks, 'dtype': np.dtype(_DTYPES[said['dtype']]),
              'compressor': None if compressor is None else compressor['id'],
              'order': said.get('order', 'C'),
              'dimension_separator': said.get('dimension_separator', '.')}
    if not all(type(size) is int and size > 0 for size in [*shape, *chunks]):
        raise ValueError('sizes')
    if (len(shape) != len(chunks) or said['zarr_format'] != 2 or said.get('filters')
            or header['order'] not in ('C', 'F') or header['dimension_separator'] not in ('.', '/')
            or header['compressor'] not in (None, 'gzip', 'zlib')):
        raise ValueError('features')
    return header


def _read_chunk(path: Path, header: dict[str, Any], length: int) -> bytes:
    """Read the bytes of one chunk; never more of them than a chunk has."""
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist; {_AGAIN}')
    damaged = f'{path} is damaged: it does not hold the {length} bytes of a chunk; {_AGAIN}'
    with path.open('rb') as file:
        # gzip adds little to what does not compress.
        content = file.read(2 * length + 4096)
    if header['compressor'] is not None:
        unpack = zlib.decompressobj(wbits=31 if header['compressor'] == 'gzip' else 15)
        try:
            content = unpack.decompress(content, length + 1)
        except zlib.error as error:
            raise ValueError(damaged) from error
        # The checksum stands at the end, and is compared when the end is reached.
        if not unpack.eof or unpack.unused_data:
            raise ValueError(damaged)
    if len(content) != length:
        raise ValueError(damaged)
    return content


def _some(names) -> str:
    """Name a few of many."""
    names = list(names)
    return ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')


def _brief(value: Any) -> str:
    """Quote what a file says within a line."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + '...'
