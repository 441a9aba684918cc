"""Where activations live on a mesh, where the compiler would choose badly."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jax_prompt.models.t5.config import T5Config
from jax_prompt.types import Array


def keep_rows_apart(array: Array, activation_sharding: NamedSharding | None) -> Array:
    """Split the leading dimension as activations are, and leave the others to the compiler."""
    if activation_sharding is None:
        return array
    free = [PartitionSpec.UNCONSTRAINED] * (array.ndim - 1)
    spec = PartitionSpec(activation_sharding.spec[0], *free)
    return jax.lax.with_sharding_constraint(array, NamedSharding(activation_sharding.mesh, spec))


def copies_for_heads(encoded_BTD: Array, config: T5Config,
                     activation_sharding: NamedSharding | None) -> Array:
    """Give each device that has some of the heads the encoder's outputs as an array of its own.

    Every layer of the decoder adds to their gradient, and each device knows its heads' share of it.
    Of one array the shares are added up over the devices in every layer; of copies, once.

    Args:
      encoded_BTD: the encoder's outputs.
      config: how many heads there are.
      activation_sharding: where rows live; heads are over the mesh's other axes.

    Returns:
      dtype[G, B, T, D], G splitting as heads do; as it was, where heads are not split evenly.
    """
    if activation_sharding is None:
        return encoded_BTD
    mesh, rows = activation_sharding.mesh, activation_sharding.spec[0]
    heads = tuple(axis for axis in mesh.axis_names if axis != rows)
    groups = math.prod(mesh.shape[axis] for axis in heads)
    if groups == 1 or config.num_heads % groups:
        return encoded_BTD
    return jax.lax.with_sharding_constraint(
        jnp.broadcast_to(encoded_BTD, (groups, *encoded_BTD.shape)),
        NamedSharding(mesh, PartitionSpec(heads, rows)))
