"""Where every array lives: partition rules by parameter path, as each model's table has them.

A rule says which letter each dimension of a parameter is (the dimension key of `types.py`), which
letter is split over the mesh's `model` axis, and which further one over `data` where weights are
fully sharded.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_prompt.parallel.mesh import DATA, MODEL, divisors, one_of
from jax_prompt.types import Params


@dataclasses.dataclass(frozen=True)
class Rule:
    """Say how parameters of one kind are split.

    Attributes:
      pattern: a regular expression for the whole path, 'encoder/final_norm/scale'.
      dimensions: one letter a dimension; those of `types.py`.
      model: the letter that is split over 'model', or '' to keep a copy on every device.
      data: the letter that is split over 'data' too where weights are fully sharded, or ''.
    """

    pattern: str
    dimensions: str
    model: str = ''
    data: str = ''


#: The parts of a kernel that is stored as int8 follow the kernel's rule.
_INT8_PART = re.compile('/kernel/(values|scale)$')

#: What the split letters are called in models' configurations.
_NAMES = {'H': 'num_heads', 'F': 'd_ff', 'V': 'vocab_size', 'D': 'd_model'}


def frozen_shardings(mesh: Mesh, shapes: Params, rules: Sequence[Rule],
                     shard_weights_over_data: bool = False) -> Params:
    """Say where the frozen weights live.

    Args:
      mesh: from `make_mesh`.
      shapes: the parameter tree; anything with a shape (`tree_shapes`, numpy, JAX arrays).
      rules: the model's.
      shard_weights_over_data: fully sharded: besides heads and widths over 'model', the kernels'
        dimension D over 'data'. Each device then holds 1/(data * model) of the kernels, and fetches
        a layer's others whenever it computes the layer.

    Returns:
      The tree, of `NamedSharding`.

    Raises:
      ValueError: a parameter has no rule, or another number of dimensions than its rule says, or a
        dimension does not divide by its mesh axis.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    split = [_split(path_name(path), leaf, rules, shard_weights_over_data) for path, leaf in leaves]
    for one in split:
        _check_divides(one, split, mesh)
    return structure.unflatten(NamedSharding(mesh, one.spec) for one in split)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Say where a batch lives: its rows (the leading dimension of every feature) over 'data'."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def replicated(mesh: Mesh) -> NamedSharding:
    """Say that every device holds a copy, as of all that is trained."""
    return NamedSharding(mesh, PartitionSpec())


def rule_for(path: str, rules: Sequence[Rule]) -> Rule:
    """Find the one rule of a parameter.

    Args:
      path: 'encoder/layers/feed_forward/wo/kernel'; `values` and `scale` of an int8 kernel have
        the kernel's rule.
      rules: the model's.

    Returns:
      The rule.

    Raises:
      ValueError: there is none.
    """
    whole = _INT8_PART.sub('/kernel', path)
    found = [rule for rule in rules if re.fullmatch(rule.pattern, whole)]
    if not found:
        raise ValueError(f'parameter {path} has no partition rule; '
                         "add one to the model's table of rules")
    assert len(found) == 1, f'parameter {path} has {len(found)} partition rules: {found}'
    return found[0]


def path_name(path: tuple) -> str:
    """Write a pytree path as parameter paths are written here, 'encoder/final_norm/scale'."""
    return jax.tree_util.keystr(path, simple=True, separator='/')


@dataclasses.dataclass(frozen=True)
class _Split:
    """One parameter with the mesh axis of each dimension, None where it is whole."""

    path: str
    letters: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]

    @property
    def spec(self) -> PartitionSpec:
        return PartitionSpec(*self.axes) if any(self.axes) else PartitionSpec()

    def over(self, axis: str) -> list[tuple[str, int]]:
        """List letter and size of the dimensions that are split over an axis."""
        return [(letter, size) for letter, size, name
                in zip(self.letters, self.shape, self.axes, strict=True) if name == axis]


def _split(path: str, leaf: Any, rules: Sequence[Rule], over_data: bool) -> _Split:
    """Apply a parameter's rule."""
    rule, shape = rule_for(path, rules), tuple(leaf.shape)
    if len(shape) != len(rule.dimensions):
        raise ValueError(f'parameter {path} has the shape {shape}, but its partition rule '
                         f'says [{", ".join(rule.dimensions)}]')
    axis_of = {rule.model: MODEL} | ({rule.data: DATA} if over_data else {})
    # Along what a product sums over, all of an int8 kernel's numbers share a scale.
    shared = path.endswith('/kernel/scale')
    axes = tuple(None if shared and size == 1 else axis_of.get(letter)
                 for letter, size in zip(rule.dimensions, shape, strict=True))
    return _Split(path, rule.dimensions, shape, axes)


def _check_divides(one: _Split, everything: list[_Split], mesh: Mesh) -> None:
    """Raise ValueError where a dimension does not divide by its axis; say which sizes would do."""
    for axis, parts in mesh.shape.items():
        for letter, size in one.over(axis):
            if size % parts == 0:
                continue
            common = math.gcd(mesh.size, *(n for other in everything for _, n in other.over(axis)))
            raise ValueError(
                f'{_NAMES[letter]}={size} does not divide by {axis}={parts} (dimension {letter} of '
                f'{one.path}); with {mesh.size} devices choose {axis}:{one_of(divisors(common))}')
