"""The decoder's kernels once more, in the form that decoding steps on a CPU read fastest.

A step multiplies a few rows by every kernel of the decoder and the head. XLA's products on CPU
(YNNPACK's) first bring their right operand into tiles: with a kernel there, as [D, F] for rows
[B, D], that moves far more numbers than the rows have, at every step, and takes as long as the
product itself. Here the kernel is the left operand, stored [F, D], which is read as it stands, and
the rows are what is tiled. On two cores that takes two thirds of the time; see benchmarks.

All of this is a second copy of weights, so it is made once, and only for a model that generates. (A
program that lacks it makes the decoder's at every call, and needs the memory all the same.) On
accelerators layouts are the compiler's business: they have none of this.
"""

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.models.t5.int8 import Int8, summed_axes
from jax_prompt.models.t5.products import Precision
from jax_prompt.types import Array, Params

#: Where the copy stands in a parameter tree.
STEPS = 'steps'
#: From so many rows on a kernel is the better left operand on units for bfloat16, too.
_MANY = 16
#: Kernels that are multiplied by before the first step, with many rows.
_MANY_ROWS = re.compile(r'cross_attention/(key|value)/kernel')


@functools.partial(jax.tree_util.register_dataclass, data_fields=['values'], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class KernelFirst:
    """Stand in a parameter tree for a kernel whose outputs come first in memory.

    Attributes:
      values: dtype[...], in the kernel's usual shape; a transposed view of what is stored.
    """

    values: Any

    def product(self, equation: str, inputs: Array, precision: Precision) -> Array:
        """Multiply with the kernel as the left operand.

        Args:
          equation: an einsum's, inputs first, each letter in two of its three terms.
          inputs: activations.
          precision: that is multiplied in.

        Returns:
          The product, activations again.
        """
        before, letters, after = re.split(',|->', equation)
        outputs = ''.join(letter for letter in letters if letter in after)
        rows = ''.join(letter for letter in before if letter in after)
        count = math.prod(inputs.shape[before.index(letter)] for letter in rows)
        if precision.factors is not None and count < _MANY:
            return of_few_rows(equation, inputs, self.values, count, precision)
        result = precision.multiply(f'{letters},{before}->{outputs}{rows}', self.values, inputs)
        return jnp.einsum(f'{outputs}{rows}->{after}', result)


def of_few_rows(equation: str, rows: Array, kernel: Array, count: int,
                precision: Precision) -> Array:
    """Multiply few rows by a kernel on units for bfloat16.

    XLA on a CPU has no such product of a single row: it would widen the kernel first, which takes
    three times as long as the product of two rows.

    Args:
      equation: an einsum's, rows first.
      rows: their leading dimension leads in the result, too.
      kernel: what they are multiplied by.
      count: how many rows.
      precision: that is multiplied in.
    """
    if count == 1:
        return precision.multiply(equation, jnp.concatenate([rows, rows]), kernel)[:1]
    return precision.multiply(equation, rows, kernel)


def with_layers_apart(frozen: Params) -> Params:
    """Return a parameter tree with its layers as lists.

    A layer's slice of a stack is a copy in every program that is not a loop: of one row's ranking
    that is a third of the time.

    Args:
      frozen: the tree; on one CPU, its memory is used as it is, and copied elsewhere.
    """
    return frozen | {stack: frozen[stack] | {'layers': _views(frozen[stack]['layers'])}
                     for stack in ('encoder', 'decoder')}


def with_steps(frozen: Params) -> Params:
    """Return a parameter tree as generation on a CPU reads it.

    Args:
      frozen: the tree.

    Returns:
      That of `with_layers_apart`, with `STEPS` besides, see `steps_of`: a copy of the decoder's
      layers and the head.
    """
    return with_layers_apart(frozen) | {STEPS: _prepare(frozen)}


def steps_of(frozen: Params) -> Params:
    """Return what decoding steps read of a tree: copied once for all by `with_steps`, or now.

    Returns:
      `layers`, a list; where their kernels are no `Int8`, each has its outputs first. `head`
      [V, D], where it is not tied.
    """
    return frozen[STEPS] if STEPS in frozen else _prepare(frozen)


def for_step(layer: Params) -> Params:
    """Mark the kernels of one of `layers` of `steps_of` for what they are.

    Returns:
      The layer's parameters, each kernel that has its outputs first as a `KernelFirst`.
    """
    return _map(_usual_shape, layer)


def _views(stacked: Params) -> list[Params]:
    """Take layers apart, without a copy where one device is this host's processor."""
    leaves = jax.tree.leaves(stacked)
    if any(len(leaf.devices()) > 1 for leaf in leaves) or jax.default_backend() != 'cpu':
        return layers_apart(stacked)
    return [jax.tree.map(lambda leaf, n=n: jax.device_put(np.asarray(leaf)[n], leaf.device),
                         stacked) for n in range(leaves[0].shape[0])]


@jax.jit
def layers_apart(stacked: Params) -> list[Params]:
    """Take the parameters of stacked layers apart."""
    depth = jax.tree.leaves(stacked)[0].shape[0]
    return [jax.tree.map(lambda leaf, n=n: leaf[n], stacked) for n in range(depth)]


@jax.jit
def _prepare(frozen: Params) -> Params:
    """Copy layers apart, each kernel with its outputs first, and the head alike."""
    layers = layers_apart(frozen['decoder']['layers'])
    steps = {'layers': [_map(_outputs_first, layer) for layer in layers]}
    if 'lm_head' in frozen:
        steps['head'] = frozen['lm_head']['kernel'].T
    return steps


def _outputs_first(path: str, leaf: Array | Int8) -> Array | Int8:
    """Bring what a product sums over to the end."""
    axes = _summed(path, leaf)
    return leaf if axes is None else jnp.moveaxis(leaf, axes, range(-len(axes), 0))


def _usual_shape(path: str, leaf: Array | Int8) -> Array | Int8 | KernelFirst:
    """Bring what a product sums over back to where it was, for the compiler to see through."""
    axes = _summed(path, leaf)
    return leaf if axes is None else KernelFirst(jnp.moveaxis(leaf, range(-len(axes), 0), axes))


def _summed(path: str, leaf: Array | Int8) -> tuple[int, ...] | None:
    """Say which axes a step's product sums over; None for what stays as it is."""
    if isinstance(leaf, Int8) or _MANY_ROWS.fullmatch(path):
        return None
    return summed_axes(f'decoder/layers/{path}')


def _map(function: Any, layer: Params) -> Params:
    """Apply function(path, leaf) to the leaves of a layer."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(jax.tree_util.keystr(path, simple=True, separator='/'), leaf),
        layer, is_leaf=lambda leaf: isinstance(leaf, Int8))
