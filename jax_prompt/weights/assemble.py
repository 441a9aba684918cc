"""Fill the frozen tree tensor by tensor, each accounted for, and tell what model it is.

Leaf after leaf is filled and handed to its devices before the next is begun, so that the host holds
one leaf (all layers of one kernel) and a few blocks of rows, whatever the model's size.
"""

import collections
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np

from jax_prompt.models.architecture import ModelConfig, Slot, leaf_shapes
from jax_prompt.models.t5.int8 import Int8, quantise, quantised_shapes, summed_axes
from jax_prompt.parallel.rules import Rule
from jax_prompt.types import Params
from jax_prompt.weights.placing import Builder, read_ahead
from jax_prompt.weights.tensors import Checkpoint, Digest, Stored, ends_of, is_finite

_DTYPES = {'float32': np.dtype(np.float32), 'bfloat16': np.dtype(ml_dtypes.bfloat16)}
_BLOCK_BYTES = 2**25

#: A tree of shardings, or what makes one of a tree of `jax.ShapeDtypeStruct` and a model's rules.
Shardings = Params | Callable[[Params, Sequence[Rule]], Params] | None


def check_dtype(dtype: str) -> np.dtype:
    """Return the numpy dtype to keep the weights in.

    Raises:
      ValueError: for anything but 'float32' and 'bfloat16'.
    """
    name = getattr(dtype, '__name__', None) or str(dtype)
    if name not in _DTYPES:
        raise ValueError(f'weights cannot be kept in {name!r:.60}; expected float32 or bfloat16 '
                         '(T5 overflows in float16), or weights=int8 for the kernels')
    return _DTYPES[name]


def check_weights(dtype: str, weights: str | None) -> tuple[np.dtype, bool]:
    """Return the dtype of what is not quantised, and whether kernels are.

    Args:
      dtype: 'float32' or 'bfloat16'.
      weights: None to keep all in `dtype`; 'int8' for kernels in int8 and the rest in `dtype`;
        'float32' or 'bfloat16' to keep all in that instead.

    Raises:
      ValueError: for any other.
    """
    if weights == 'int8':
        return check_dtype(dtype), True
    return check_dtype(weights or dtype), False


def assemble(checkpoint: Checkpoint, source: str, dtype: str = 'float32',
             weights: str | None = None, shardings: Shardings = None) -> tuple[Params, str]:
    """Make the frozen tree of a model's tensors.

    The fingerprint is a sha256 over the configuration and, for each tensor, its name, dtype, shape
    and bytes as they are read, before any cast, and 16 digits of what it was before it heeded more
    than their first and last 4 KiB; see `prompts.file.same_model`. It tells models apart whatever
    dtype they are loaded in and however the files are split.

    Args:
      checkpoint: the model's shape and tensors.
      source: what to call the source in messages.
      dtype, weights: how to keep the weights; see `check_weights`.
      shardings: where they live, a tree as the frozen tree (or a function that returns it of a
        tree of `jax.ShapeDtypeStruct` and the model's rules): leaves are then JAX arrays, placed
        part by part. None for numpy arrays.

    Returns:
      The tree and its fingerprint.

    Raises:
      ValueError: for a missing, extra or misshapen tensor, naming it.
    """
    config, tensors = checkpoint.config, checkpoint.tensors
    table = config.slots()
    _check_tensors(config, table, tensors, source)
    shapes = tree_shapes(config, dtype, weights)
    placed = _flat_shardings(shapes, shardings, config.rules)
    by_leaf = collections.defaultdict(list)
    for name, slot in table.items():
        by_leaf[slot.path].append((name, slot))
    shared = not all(one.is_fully_addressable for one in placed.values())
    digests = {} if checkpoint.fingerprint else _digests(tensors, shared)
    tree: Params = {}
    for path, members in by_leaf.items():
        if (leaf := _mapped(checkpoint, path, _at(shapes, path), placed)) is not None:
            _put_at(tree, path, leaf)
            continue
        stored = [(name, slot, tensors[name], digests.get(name)) for name, slot in members]
        _put_at(tree, path, _leaf(path, _at(shapes, path), stored, placed))
    return tree, checkpoint.fingerprint or _fingerprint(config, tensors, digests, shared)


def tree_shapes(config: ModelConfig, dtype: str, weights: str | None = None) -> Params:
    """Return the tree of `jax.ShapeDtypeStruct` that loading gives; nothing is allocated."""
    kind, int8 = check_weights(dtype, weights)
    tree: Params = {}
    for path, shape in leaf_shapes(config).items():
        _put_at(tree, path, jax.ShapeDtypeStruct(shape, kind))
    return quantised_shapes(tree) if int8 else tree


def named_leaves(tree: Params) -> dict[str, Any]:
    """Return 'path/of/leaf' -> leaf; of a kernel in eight bits 'path/values' and 'path/scale'."""
    return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _flat_shardings(shapes: Params, shardings: Shardings,
                    rules: Sequence[Rule]) -> dict[str, Any]:
    """Return 'path/of/leaf' -> sharding; empty for None."""
    if shardings is None:
        return {}
    wanted = named_leaves(shapes)
    tree = shardings(shapes, rules) if callable(shardings) else shardings
    if isinstance(tree, jax.sharding.Sharding):
        return dict.fromkeys(wanted, tree)
    flat = named_leaves(tree)
    if flat.keys() != wanted.keys():
        odd = sorted(flat.keys() ^ wanted.keys())
        raise ValueError(f'the shardings are not of this model: {len(odd)} paths differ, the first '
                         f'{odd[0]!r}; make them of the shapes that loading gives')
    return flat


def _put_at(tree: Params, path: tuple[str, ...], leaf: Any) -> None:
    """Put a leaf into a nested dict, making the dicts on the way."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = leaf


def _digests(tensors: dict[str, Stored], shared: bool) -> dict[str, Digest]:
    """Begin to hash the tensors; where processes share the model, each takes some of them."""
    turns = jax.process_count() if shared else 1
    return {name: Digest(tensors[name].dtype, tensors[name].shape)
            for name in sorted(tensors)[jax.process_index() % turns::turns]}


def _fingerprint(config: ModelConfig, tensors: dict[str, Stored], digests: dict[str, Digest],
                 shared: bool) -> str:
    """A hash of a model's shape and all of its numbers, and a part of the one of their ends."""
    names = sorted(tensors)
    found = np.zeros((len(names), 2, 32), np.uint8)
    for number, name in enumerate(names):
        if name in digests:
            whole, ends = digests[name].finish()
            ends = ends_of(tensors[name].ends) or ends
            found[number] = [list(hashlib.sha256(one).digest()) for one in (whole, ends)]
    if shared:
        from jax.experimental import multihost_utils
        found = multihost_utils.process_allgather(found).sum(axis=0, dtype=np.uint8)

    def together(column: int) -> str:
        told = [(name, one.tobytes().hex())
                for name, one in zip(names, found[:, column], strict=True)]
        text = json.dumps([config.identity(), told], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    return f'{together(0)}-{together(1)[:16]}'


def _check_tensors(config: ModelConfig, table: dict[str, Slot], tensors: dict[str, Stored],
                   source: str) -> None:
    """Hold the tensors to the table, before any is read."""
    for name, tensor in sorted(tensors.items()):
        if name not in table:
            raise ValueError(f'{tensor.where} has an unexpected tensor {name!r:.200} '
                             f'{list(tensor.shape)}; {config.describe()} has no such tensor: '
                             'does config.json belong to these weights?')
        slot = table[name]
        shape = slot.matrix_shape if tensor.inputs_first else slot.hugging_face_shape
        if tensor.shape != shape:
            raise ValueError(f'{tensor.where} has {name!r} with shape {list(tensor.shape)}; '
                             f'expected {list(shape)} for {config.describe()}; '
                             'the weights belong to another configuration')
    missing = [name for name in table if name not in tensors]
    if missing:
        more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
        raise ValueError(f'{source} has no tensor {missing[0]!r}{more}; {config.describe()} needs '
                         'it; use a complete T5 with encoder, decoder and head')


def _mapped(checkpoint: Checkpoint, path: tuple[str, ...], shape: Any,
            placed: dict[str, Any]) -> Any:
    """Return a leaf that its only device, the host's processor, can use where the file has it."""
    name = '/'.join(path)

    def part(ending: str, kind: jax.ShapeDtypeStruct) -> jax.Array | None:
        sharding = placed.get(name + ending)
        if sharding is None or [one.platform for one in sharding.device_set] != ['cpu']:
            return None
        found = checkpoint.mapped(name + ending)
        # XLA takes over as it is what stands at such an address, and copies anything else.
        return None if found.dtype != kind.dtype else jax.device_put(found, sharding)

    if checkpoint.mapped is None:
        return None
    if not isinstance(shape, Int8):
        return part('', shape)
    both = part('/values', shape.values), part('/scale', shape.scale)
    return None if None in both else Int8(*both)


def _leaf(path: tuple[str, ...], shape: Any,
          members: list[tuple[str, Slot, Stored, Digest | None]], placed: dict[str, Any]) -> Any:
    """Fill one leaf, or the values and scales of a quantised one, from its tensors."""
    name = '/'.join(path)
    int8 = isinstance(shape, Int8)
    parts = {'/values': shape.values, '/scale': shape.scale} if int8 else {'': shape}
    builders = {part: Builder(kind.shape, kind.dtype, placed.get(name + part))
                for part, kind in parts.items()}
    whole = next(iter(builders.values()))
    jobs = (((slot, region, tensor), functools.partial(
                _read, stored, tensor, rows, np.dtype(np.float32) if int8 and not tensor.scale
                else whole.dtype, digest))
            for stored, slot, tensor, digest in members
            for region, rows in _blocks(name, slot, tensor, int8)
            if digest is not None or whole.needs(region))
    for (slot, region, tensor), block in read_ahead(jobs):
        if slot.inputs and not tensor.inputs_first:
            block = block.T
        lead = 0 if slot.layer is None else 1
        blocks = (block.reshape([stop - start for start, stop in region[lead:]]),)
        if tensor.scale:
            blocks = (*blocks, tensor.scale.read(0, tensor.scale.shape[0]))
        elif int8:
            quantised = quantise(name, blocks[0])
            blocks = (quantised.values, quantised.scale)
        for builder, one in zip(builders.values(), blocks, strict=True):
            spans = [(0, 1) if size == 1 else span  # scales have one for all inputs
                     for span, size in zip(region[lead:], builder.shape[lead:], strict=True)]
            builder.write((*region[:lead], *spans), one[(None,) * lead])
    done = [builder.finish() for builder in builders.values()]
    return Int8(*done) if int8 else done[0]


def _read(name: str, tensor: Stored, rows: tuple[int, int], dtype: np.dtype,
          digest: Digest | None) -> np.ndarray:
    """Read some rows of a tensor, hash them as they are, and cast them."""
    block = tensor.read(*rows)
    if digest is not None:
        digest.add(rows[0], block)
    # Cast first: a cast in the order of memory, then a transposed copy, is the faster way.
    block = block.astype(dtype, copy=False)
    if dtype.kind != 'i' and not is_finite(block):
        raise ValueError(f'{tensor.where} has {name!r} with numbers that are not finite (inf or '
                         f'NaN as {dtype}), with which no result means anything; get the weights '
                         'anew')
    return block


def _blocks(name: str, slot: Slot, tensor: Stored, int8: bool) -> Iterator[tuple[tuple, tuple]]:
    """Cut a tensor into blocks of rows: where each stands in the leaf, and which rows it is."""
    axis = slot.inputs if slot.inputs and not tensor.inputs_first else 0
    # Rows of a projection join heads and head width; a block takes whole heads.
    joined = slot.shape[axis + 1:] if axis else slot.shape[1:slot.inputs or 1]
    each = int(np.prod(joined, dtype=np.int64))
    length = slot.shape[axis]
    summed = summed_axes(name) if int8 and not tensor.scale else None
    whole = not tensor.sliced or (summed is not None and axis - len(slot.shape) in summed)
    step = length if whole else max(1, _BLOCK_BYTES // max(1, tensor.row_bytes * each))
    lead = () if slot.layer is None else ((slot.layer, slot.layer + 1),)
    for start in range(0, length, step):
        stop = min(start + step, length)
        inner = [(0, size) for size in slot.shape]
        inner[axis] = (start, stop)
        yield (*lead, *inner), (start * each, stop * each)


def _at(tree: Params, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
