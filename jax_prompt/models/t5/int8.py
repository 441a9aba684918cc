"""Frozen kernels in eight bits: symmetric, one scale per output channel (and layer).

A kernel w is kept as int8 values q and float32 scales s with w ~ q s, where s is the largest |w| of
its output channel over 127: no number is off by more than s / 2. The channel's scale does not
depend on what is summed over, so x w = (x q) s: products read the eight-bit values, which bfloat16
holds exactly, and a few numbers are scaled afterwards. Only the layer at work is ever wide.

What is quantised is what is large: the layers' attention and feed-forward kernels, 98 % of XXL.
Norms and position biases are small, and prompts are made of rows of the embedding table; these stay
wide. So does the head, since nothing after it evens its error out: on the demo's 842 test sentences
a head in eight bits moved the labels' log-probabilities by 0.082 (root mean square) and 14 answers,
the layers' kernels alone moved them by 0.018, less than bfloat16 weights did, and no answer. It
would save 1.2 % of XXL's bytes.

Source: symmetric weight-only quantisation by largest value, as in Dettmers et al. 2022
(arXiv:2208.07339), section 2.1, with channels for rows, and without outliers set apart: activations
are not quantised.
"""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.models.t5.products import Precision
from jax_prompt.parallel.rules import path_name
from jax_prompt.types import Array, Params

LARGEST = 127

#: Kernels by path, and the axes that a product sums over, counted from the end: what stands before
#: them (N) and the other axes have a scale each.
_SUMMED = (
    (r'.*attention/(query|key|value)/kernel', (-3,)),    # [N, D, H, K]
    (r'.*attention/out/kernel', (-3, -2)),               # [N, H, K, D]
    (r'.*feed_forward/(wi|wi_0|wi_1|wo)/kernel', (-2,)),  # [N, D, F], [N, F, D]
)


@functools.partial(jax.tree_util.register_dataclass, data_fields=['values', 'scale'],
                   meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Int8:
    """Stand in a parameter tree for a kernel; its leaves are `.../kernel/values` and `.../scale`.

    Attributes:
      values: int8[...], the kernel's shape. (The first leaf: Flax checks its shape.)
      scale: float32[...], the same number of dimensions, 1 where a product sums.
    """

    values: Any
    scale: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The kernel's shape."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.nbytes + self.scale.nbytes

    def product(self, equation: str, inputs: Array, precision: Precision) -> Array:
        """Multiply by the kernel, whose scales stand along letters of the result or of the inputs.

        Args:
          equation: an einsum's, inputs first; every letter stands in two of its three terms.
          inputs: activations.
          precision: that is multiplied in.

        Returns:
          The product, activations again.
        """
        before, letters, after = _letters(equation)
        channels = {letter for letter, size in zip(letters, self.scale.shape, strict=True)
                    if size > 1}
        if channels <= set(after):
            return _scaled(_product(equation, precision, inputs, self.values), after, self.scale,
                           letters)
        return _product(equation, precision, _scaled(inputs, before, self.scale, letters),
                        self.values)


def summed_axes(path: str) -> tuple[int, ...] | None:
    """Say which axes of a parameter a product sums over.

    Args:
      path: 'encoder/layers/feed_forward/wo/kernel'.

    Returns:
      The axes, counted from the end, or None for a parameter that is not quantised.
    """
    for pattern, axes in _SUMMED:
        if re.fullmatch(pattern, path):
            return axes
    return None


def quantise(path: str, kernel: Any) -> Any:
    """Quantise one parameter, if it is one of those that are.

    Args:
      path: 'encoder/layers/feed_forward/wo/kernel'; decides whether, and along which axes.
      kernel: numpy array (of ml_dtypes' bfloat16, too) or JAX array, sharded in any way, of one
        layer or stacked.

    Returns:
      `Int8` of numpy arrays for a numpy array, of JAX arrays for a JAX array; `kernel` itself if it
      is not to be quantised.

    Raises:
      ValueError: the kernel holds numbers that are not finite.
    """
    axes = summed_axes(path)
    if axes is None:
        return kernel
    if isinstance(kernel, np.ndarray):
        result = _quantise_on_host(kernel, axes)
    else:
        result = _quantise_on_device(kernel, axes)
    traced = isinstance(result.scale, jax.core.Tracer)
    if not traced and not jnp.isfinite(result.scale).all():
        raise ValueError(f'parameter {path} holds numbers that are not finite (inf or NaN), which '
                         'cannot be stored as int8; load it as float32 or mend the checkpoint')
    return result


def quantise_tree(frozen: Params) -> Params:
    """Quantise the kernels of a parameter tree, on the host or on the devices they stand on.

    Args:
      frozen: a tree of numpy or JAX arrays; kernels that are `Int8` already stay.

    Returns:
      The tree with `Int8` in the place of kernels.

    Raises:
      ValueError: a kernel holds numbers that are not finite.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if isinstance(leaf, Int8) else quantise(path_name(path), leaf),
        frozen, is_leaf=lambda leaf: isinstance(leaf, Int8))


def quantised_shapes(shapes: Params) -> Params:
    """Return what `quantise_tree` makes of a tree of `jax.ShapeDtypeStruct`, allocating nothing."""
    return jax.eval_shape(quantise_tree, shapes)


def widen(params: Any, dtype: jnp.dtype) -> Any:
    """Give every `Int8` of a tree, or one alone, back as an array.

    Args:
      params: a pytree; arrays in it stay as they are.
      dtype: of the arrays that are made.

    Returns:
      The pytree, without `Int8`.
    """
    def wide(leaf: Any) -> Any:
        if not isinstance(leaf, Int8):
            return leaf
        return (jnp.asarray(leaf.values, jnp.float32) * leaf.scale).astype(dtype)

    return jax.tree.map(wide, params, is_leaf=lambda leaf: isinstance(leaf, Int8))


# With the plain derivative, a scan over layers would keep every layer's wide kernel for the
# backward pass: the whole stack. Here the eight-bit values are what is kept, and those are there.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(equation: str, precision: Precision, inputs: Array, values: Array) -> Array:
    """Multiply by unscaled eight-bit values."""
    return precision.multiply(equation, inputs, values)


def _product_forward(equation: str, precision: Precision, inputs: Array,
                     values: Array) -> tuple[Array, Array]:
    # The einsum itself, so that rematerialisation sees a product whose result it may keep. The
    # barrier keeps one product from being fused into the next: where both are computed again, that
    # overflows the stack of the TPU's compiler (libtpu 0.0.42).
    return jax.lax.optimization_barrier(precision.multiply(equation, inputs, values)), values


def _product_backward(equation: str, precision: Precision, values: Array,
                      gradient: Array) -> tuple[Array, None]:
    before, letters, after = _letters(equation)
    return precision.multiply(f'{after},{letters}->{before}', gradient, values), None


_product.defvjp(_product_forward, _product_backward)


def _letters(equation: str) -> list[str]:
    """Split 'BSD,DF->BSF' into the letters of inputs, kernel and result."""
    return re.split(',|->', equation)


def _scaled(array: Array, its_letters: str, scale: Array, letters: str) -> Array:
    """Multiply by scales along the letters they share with an array; in float32, then rounded."""
    kept = [letter for letter in its_letters if letter in letters]
    summed = [axis for axis, letter in enumerate(letters) if letter not in kept]
    names = [letter for letter in letters if letter in kept]
    scale = jnp.squeeze(scale, summed).transpose([names.index(letter) for letter in kept])
    scale = scale.reshape([scale.shape[kept.index(letter)] if letter in kept else 1
                           for letter in its_letters])
    return (array.astype(jnp.float32) * scale).astype(array.dtype)


def _quantise_on_host(kernel: np.ndarray, axes: tuple[int, ...]) -> Int8:
    """Quantise layer by layer, so that one layer is the most that is held in float32."""
    if kernel.ndim > 1 - min(axes):
        layers = [_quantise_on_host(layer, axes) for layer in kernel]
        return Int8(np.stack([layer.values for layer in layers]),
                    np.stack([layer.scale for layer in layers]))
    wide = kernel.astype(np.float32)
    scale = _scale_of(np.abs(wide).max(axis=axes, keepdims=True), np)
    with np.errstate(invalid='ignore'):  # what is not finite is refused by the caller
        values = np.clip(np.rint(wide / scale), -LARGEST, LARGEST).astype(np.int8)
    return Int8(values, scale)


@functools.partial(jax.jit, static_argnames='axes')
def _quantise_on_device(kernel: Array, axes: tuple[int, ...]) -> Int8:
    """Quantise where the kernel stands; a channel that is split over devices has one scale."""
    wide = kernel.astype(jnp.float32)
    scale = _scale_of(jnp.abs(wide).max(axis=axes, keepdims=True), jnp)
    values = jnp.clip(jnp.rint(wide / scale), -LARGEST, LARGEST).astype(jnp.int8)
    return Int8(values, scale)


def _scale_of(largest: Any, xp: Any) -> Any:
    """Return a scale above zero, also for channels of zeros; NaN stays NaN."""
    # Multiplied, not divided: XLA would turn a division by a constant into this, and host and
    # devices should agree to the last bit.
    return xp.maximum(largest * np.float32(1 / LARGEST), np.finfo(np.float32).tiny)
