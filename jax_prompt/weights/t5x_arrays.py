"""The arrays of a T5X checkpoint, native or Orbax's, in a local folder or in a bucket.

A native checkpoint is a folder with a msgpack file `checkpoint`, the state as nested dictionaries:
small arrays stand in it, large ones in zarr folders beside it that it refers to. T5X's early Orbax
checkpoints have the same two parts and name the folders by text; the later ones have a JSON file
`_METADATA` and keep everything in one OCDBT database, in the folder or in `state` within it.

All of it is read by TensorStore, which knows local files and `gs://` alike. What a file says of
other places (drivers, buckets, paths) is not followed: arrays are looked for in the checkpoint.

Sources: t5x/checkpoints.py (version 3), orbax.checkpoint's tree metadata.
"""

import ast
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from jax_prompt.files import first_line
from jax_prompt.types import Params
from jax_prompt.weights.array_folder import AGAIN, FLOATS, Array, Folder

_VERSION = 3
_ARRAY_CODE = 1  # flax.serialization's msgpack code for arrays
_PLACEHOLDER = 'PLACEHOLDER://'
_PLAIN_NAME = re.compile(r'[\w.\-]+')
#: Where a checkpoint keeps the model, in the order of looking.
_MODEL = (('optimizer', 'target'), ('target',), ('params',))


@dataclasses.dataclass(frozen=True)
class _Reference:
    """The name of the folder that an array is in, and the shape it should have, if that is said."""

    name: str
    shape: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Model:
    """The model's parameters in a checkpoint, without the optimizer's.

    Attributes:
      folder: that the arrays are in.
      leaves: 'encoder/layers_0/mlp/wo/kernel' -> array, or where it is.
      driver: TensorStore's name of the format of arrays.
    """

    folder: Folder
    leaves: dict[str, np.ndarray | _Reference]
    driver: str = 'zarr'

    def open(self, names: Iterable[str] | None = None) -> dict[str, Array]:
        """Open some arrays, or all, at once: in a bucket each takes a while.

        Raises:
          ValueError: one is not there, or is damaged.
        """
        leaves = {name: self.leaves[name] for name in names or self.leaves}
        database = self.folder.file('manifest.ocdbt') is not None
        opening = {name: self.folder.start_opening(leaf.name, self.driver, database)
                   for name, leaf in leaves.items() if isinstance(leaf, _Reference)}
        return {name: self.folder.opened(name, opening[name], leaf.shape) if name in opening
                else Array(leaf.shape, leaf.dtype, leaf.__getitem__)
                for name, leaf in leaves.items()}


def find_model(path: str) -> Model:
    """List the parameters of the model in a checkpoint.

    Args:
      path: one checkpoint, a folder or gs:// address such as '.../checkpoint_1100000'.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: it is damaged, or its format is another.
    """
    folder = Folder(path)
    for inside in (folder, Folder(f'{folder.path}/state')):
        content = inside.file('checkpoint')
        if content is not None:
            return Model(inside, _model_leaves(_of_msgpack(content, inside.path), inside.path))
        content = inside.file('_METADATA')
        if content is not None:
            state, driver = _of_metadata(content, inside.path)
            return Model(inside, _model_leaves(state, inside.path), driver)
    steps = sorted(pathlib.Path(path).glob('checkpoint_*'))
    raise FileNotFoundError(f'no T5X checkpoint at {path}: there is neither a file checkpoint nor '
                            '_METADATA; give one checkpoint, such as '
                            f'{steps[-1] if steps else f"{folder.path}/checkpoint_1100000"}')


def _of_msgpack(content: bytes, path: str) -> Params:
    """The state of a native checkpoint."""
    import msgpack
    try:
        # Sizes that the file declares are held against its own by msgpack.
        state = msgpack.unpackb(content, ext_hook=_decode, raw=False, strict_map_key=False)
    except Exception as error:  # beside Python's errors it raises its own
        raise ValueError(f'{path}/checkpoint is no T5X checkpoint: truncated, corrupt or of '
                         f'another kind ({first_line(error)}); {AGAIN}') from error
    if not isinstance(state, dict) or state.get('version', _VERSION) != _VERSION:
        version = state.get('version') if isinstance(state, dict) else None
        raise ValueError(f'{path}/checkpoint has the version {version!r:.40} of T5X checkpoints; '
                         f'expected {_VERSION}: save it again with T5X as of June 2021 or later')
    return state


def _decode(code: int, content: bytes) -> np.ndarray | None:
    """Flax's form of an array: shape, dtype and bytes. Other extensions are no weights."""
    if code != _ARRAY_CODE:
        return None
    import msgpack
    shape, dtype, numbers = msgpack.unpackb(content, raw=False)
    if dtype not in FLOATS:
        return None
    return np.frombuffer(numbers, FLOATS[dtype]).reshape(shape)


def _model_leaves(state: Params, path: str) -> dict[str, np.ndarray | _Reference]:
    """Find the model within a state, and flatten it."""
    for keys in _MODEL:
        node: Any = state
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict) and node:
            return {name: _leaf(leaf, name, path) for name, leaf in _flatten(node).items()}
    raise ValueError(f'{path} has no model among {sorted(map(str, state))!s:.200}; expected '
                     '"optimizer" with a "target", as T5X writes it, or "target"')


def _flatten(tree: Params) -> dict[str, Any]:
    """'a/b' -> leaf; a reference to a zarr folder is a leaf."""
    leaves, waiting = {}, [('', tree)]
    while waiting:  # not by recursion: a file decides the depth
        name, node = waiting.pop()
        if isinstance(node, dict) and 'kvstore' not in node:
            waiting += [(f'{name}/{key}' if name else str(key), child)
                        for key, child in reversed(node.items())]
        else:
            leaves[name] = node
    return leaves


def _leaf(leaf: Any, name: str, path: str) -> np.ndarray | _Reference:
    """An array, or where it is."""
    if isinstance(leaf, np.ndarray):
        return leaf
    inner = shape = None
    if isinstance(leaf, str) and leaf.startswith(_PLACEHOLDER):
        inner = leaf.removeprefix(_PLACEHOLDER)
    elif isinstance(leaf, dict) and isinstance(leaf.get('kvstore'), dict):
        inner = leaf['kvstore'].get('path', leaf.get('path'))
        said = leaf.get('metadata')
        shape = said.get('shape') if isinstance(said, dict) else None
    inner = inner.removesuffix('/') if isinstance(inner, str) else None
    # A checkpoint from elsewhere must not make us open files outside of its folder.
    if inner is None or not _PLAIN_NAME.fullmatch(inner) or inner in ('.', '..'):
        raise ValueError(f'{path} has {name!r:.200} as {leaf!r:.200}; expected an array of floats '
                         f'or the name of a folder beside it; {AGAIN}')
    return _Reference(inner, tuple(shape) if isinstance(shape, list) else None)


def _of_metadata(content: bytes, path: str) -> tuple[Params, str]:
    """The state by Orbax's tree metadata, and which zarr it wrote."""
    try:
        said = json.loads(content)
        state: Params = {}
        for key in said['tree_metadata']:
            *inner, last = keys = ast.literal_eval(key)
            node = state
            for part in inner:
                node = node.setdefault(part, {})
            node[last] = _PLACEHOLDER + '.'.join(keys)
    except (ValueError, SyntaxError, KeyError, TypeError, AttributeError, MemoryError,
            RecursionError) as error:
        raise ValueError(f"{path}/_METADATA is not Orbax's list of arrays; {AGAIN}") from error
    return state, 'zarr3' if said.get('use_zarr3') else 'zarr'
