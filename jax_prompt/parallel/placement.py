"""Putting arrays where the rules say, on one host or on many."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jax_prompt.parallel.mesh import DATA, divisors, one_of
from jax_prompt.parallel.rules import batch_sharding
from jax_prompt.types import Batch


def place(tree: Any, shardings: Any) -> Any:
    """Put a tree on the devices; every process gives the same values.

    Args:
      tree: a pytree of numpy or JAX arrays, whole.
      shardings: the same pytree of shardings (or one sharding for all leaves).

    Returns:
      The tree, of global JAX arrays. A device receives its own part of each array and no more.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    if isinstance(shardings, jax.sharding.Sharding):
        return jax.tree.map(lambda leaf: _place_part(leaf, shardings), tree)
    return jax.tree.map(_place_part, tree, shardings)


def host_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Say which rows of the global batch this process has to read.

    Args:
      mesh: from `make_mesh`.
      batch_size: rows of the global batch.

    Returns:
      int64[rows], ascending. Processes that share a place on the 'data' axis, since 'model' spans
      them, get the same rows.

    Raises:
      ValueError: the rows do not divide among the places of the 'data' axis.
    """
    places = mesh.shape[DATA]
    if batch_size % places:
        raise ValueError(
            f'batch_size={batch_size} does not divide by {DATA}={places}; choose a multiple of '
            f'{places}, or with {mesh.size} devices '
            f'{DATA}:{one_of(divisors(np.gcd(batch_size, mesh.size)))}')
    parts = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for rows in parts]))


def global_batch(batch: Batch, mesh: Mesh) -> Batch:
    """Make one global batch of the rows that each process has read.

    Args:
      batch: numpy arrays whose leading dimension are this process's rows, `host_rows` of the
        global batch in that order.
      mesh: from `make_mesh`.

    Returns:
      The global batch: rows over 'data', on this process's devices its own rows.
    """
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, np.asarray(feature))
            for name, feature in batch.items()}


def _place_part(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """Build a global array from what each process holds whole, without comparing the copies."""
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
