"""Weights that are trained: where they and their optimizer's state live, whether they fit, and the
folder that they are kept in."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jax_prompt.files import TOKENIZER_FILES
from jax_prompt.inference.programs import with_weights
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.hosts import fetch, is_first
from jax_prompt.parallel.placement import place
from jax_prompt.parallel.rules import path_name, replicated, rule_for
from jax_prompt.prompts.initializers import InitContext, uniform
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.methods.model_tuning import MODEL, joined, matrix_shape
from jax_prompt.prompts.prompt import Tuned
from jax_prompt.training.settings import TrainSettings
from jax_prompt.training.step import init_state
from jax_prompt.types import Params, TrainState
from jax_prompt.weights.assemble import named_leaves
from jax_prompt.weights.convert import keep_weights
from jax_prompt.weights.load import Weights, locate

_BUCKET = 'gs://'
_CGROUP_LIMIT = pathlib.Path('/sys/fs/cgroup/memory.max')


def state_shardings(opened: OpenedModel, state: Any) -> Any:
    """Say where a training state lives: weights and moments of them where the model has them.

    Args:
      opened: the model.
      state: a pytree of arrays or shapes; what stands below `model` in it has the paths of the
        frozen tree, and the shapes of the trained matrices, of stacks of them, or of these without
        one dimension (factored moments).

    Returns:
      The tree, of `NamedSharding`; all that is no weights on every device.
    """
    places = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(opened.frozen)[0]:
        rule = rule_for(path_name(path), opened.model.rules)
        axes = (*leaf.sharding.spec, *(None,) * leaf.ndim)[:leaf.ndim]
        places[path_name(path)] = matrix_shape(rule, leaf.shape), joined(rule, axes)

    def living(path: tuple, leaf: Any) -> NamedSharding:
        _, below, name = path_name(path).partition(f'{MODEL}/')
        place = places.get(name) or places.get(name.rpartition('/')[0])
        if not below or place is None:
            return replicated(opened.mesh)
        return NamedSharding(opened.mesh, PartitionSpec(*_axes_of(leaf.shape, *place)))

    return jax.tree_util.tree_map_with_path(living, state)


def begin(opened: OpenedModel, initial: Params, optimizer: optax.GradientTransformation,
          settings: TrainSettings) -> tuple[TrainState, Any]:
    """Make the state before the first update, where it is to live.

    Args:
      opened: the model.
      initial: what a method starts from; stays as it is.
      optimizer, settings: as for `init_state`.

    Returns:
      The state and its shardings.
    """
    def make(params: Params) -> TrainState:
        return init_state(jax.tree.map(jnp.copy, params), optimizer, settings)

    if MODEL not in initial:
        living = replicated(opened.mesh)
        return place(make(initial), living), living
    living = state_shardings(opened, jax.eval_shape(make, initial))
    return jax.jit(make, out_shardings=living)(initial), living


def place_tuned(opened: OpenedModel, tuned: Tuned) -> Tuned:
    """Put what was restored where it lives; prompts stay on the host, for whoever uses them."""
    if not tuned.weights:
        return tuned
    living = state_shardings(opened, {MODEL: tuned.weights})[MODEL]
    return Tuned(tuned.prompt, place(tuned.weights, living))


def _axes_of(shape: Sequence[int], matrix: Sequence[int], axes: Sequence[str | None]) -> tuple:
    """Return the mesh axes of what has the shape of a matrix, or nearly so."""
    if tuple(shape) == matrix:
        return axes
    if tuple(shape[1:]) == matrix:
        return None, *axes
    for gone in range(len(matrix)):
        if tuple(shape) == matrix[:gone] + matrix[gone + 1:]:
            return axes[:gone] + axes[gone + 1:]
    return ()


def check_weights(opened: OpenedModel, method: Method, rows: int,
                  optimizer: optax.GradientTransformation, settings: TrainSettings) -> None:
    """Refuse to train weights where that cannot be done rightly, or at all; allocates nothing.

    Args:
      opened: the model.
      method: that trains them.
      rows: of the prompt that is trained beside them.
      optimizer, settings: of the run.

    Raises:
      ValueError: weights in int8, an attention that computes no gradient of what is trained, or too
        few bytes on a device.
    """
    context = InitContext(opened.model.embedding_table(opened.frozen), rows, list,
                          initializer=uniform(), frozen=opened.frozen, rules=opened.model.rules)
    state = jax.eval_shape(lambda: init_state(method.init(jax.random.key(0), context)[0],
                                              optimizer, settings))
    trained = [path_name(path) for path, _ in
               jax.tree_util.tree_flatten_with_path(state.params[MODEL])[0]]
    if opened.model.numerics.get('attention') == 'cudnn' and any(
            'relative_bias' in name for name in trained):
        raise ValueError("attention='cudnn' computes no gradient of the relative position bias, "
                         "which model_tuning trains; choose layers.attention='xla', or "
                         'model_tuning.layers')
    where = state_shardings(opened, state)
    frozen, weights, all_of_it = (
        _local_bytes(tree, places) for tree, places in (
            (opened.frozen, jax.tree.map(lambda leaf: leaf.sharding, opened.frozen)),
            (state.params, where.params), (state, where)))
    # What the run began with, the best so far and the gradient are as large as the weights.
    needed, has = frozen + all_of_it + 3 * weights, _device_bytes()
    if needed > has:
        raise ValueError(
            f'model tuning needs {needed:,} bytes on a device: {frozen:,} for the model, '
            f'{all_of_it:,} for what is trained and its optimizer, {3 * weights:,} for the '
            f'gradient, the start and the best, activations not counted; there are {has:,}: spread '
            'the weights over more devices (mesh.shape, mesh.shard_weights_over_data), train fewer '
            '(model_tuning.layers, model_tuning.weights) or use adafactor')


def _local_bytes(tree: Any, shardings: Any) -> int:
    """Sum the bytes of a tree on one device."""
    return sum(int(np.prod(place.shard_shape(leaf.shape))) * leaf.dtype.itemsize
               for leaf, place in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings),
                                      strict=True))


def _device_bytes() -> int:
    """Return the memory of a device; on CPU, its share of what the process may have."""
    device = jax.local_devices()[0]
    told = (device.memory_stats() or {}).get('bytes_limit')
    if told:
        return told
    sizes = [os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')]
    if _CGROUP_LIMIT.is_file() and _CGROUP_LIMIT.read_text().strip().isdigit():
        sizes.append(int(_CGROUP_LIMIT.read_text()))
    return min(sizes) // jax.local_device_count()


def keep_model(folder: pathlib.Path, opened: OpenedModel, weights: Params,
               called: str) -> tuple[str, str]:
    """Write the model with its tuned weights as a folder that `open_model` reads.

    All processes of a job call it; the first one writes.

    Args:
      folder: the folder; one that is there is replaced.
      opened: the model that was tuned.
      weights: the tuned ones.
      called: what to call the result.

    Returns:
      Its name and its fingerprint.
    """
    digest, leaves = hashlib.sha256(opened.fingerprint.encode()), {}
    tree = with_weights(_in_float32(opened), weights).frozen
    for name, leaf in named_leaves(tree).items():
        leaves[name] = np.asarray(fetch(leaf), np.float32)
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaves[name]).tobytes())
    told = digest.hexdigest()
    fingerprint = f'{told}-{told[:16]}'
    if is_first():
        frozen = jax.tree.unflatten(jax.tree.structure(tree), leaves.values())
        config = dataclasses.replace(opened.model.config, name=called)
        keep_weights(folder, Weights(config, frozen, fingerprint, called, _tokenizer_of(opened)),
                     'float32', 'float32')
    return called, fingerprint


def _in_float32(opened: OpenedModel) -> OpenedModel:
    """Return the model with wide weights, so that nothing that was trained is rounded."""
    return dataclasses.replace(opened, frozen=jax.tree.map(
        lambda leaf: leaf.astype(np.float32), opened.frozen))


def _tokenizer_of(opened: OpenedModel) -> pathlib.Path | None:
    """Return the folder of the model's tokenizer files, where it has one."""
    source = opened.vocabulary_source or opened.source
    if source.startswith(_BUCKET) or (opened.vocabulary_source and
                                      not pathlib.Path(source).expanduser().is_dir()):
        return None
    folder, _ = locate(source)
    return folder if any((folder / name).is_file() for name in TOKENIZER_FILES) else None
