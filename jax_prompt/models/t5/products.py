"""In what products are computed: factors in one dtype, their sum, perhaps, in a wider one.

A matrix unit takes bfloat16 and sums in float32. On TPU and GPU the compiler rounds that sum to
bfloat16 as it leaves the unit, for nothing, and activations are bfloat16. XLA on a CPU has no such
product: one of bfloat16 *into bfloat16* is slower than float32's, and everything between products
is converted to and fro. One of bfloat16 *into float32* does run on the units that some CPUs have
(AVX-512 BF16, AMX, NEON BF16), at twice float32's rate or more. So there activations stay float32
and are rounded where they enter a product, forward and backward.
"""

import functools
import re
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_prompt.types import Array

#: What `bfloat16_is_faster` multiplies: a batch of short texts by a kernel of a small model.
_SIZES = 1024, 512, 1024
#: A smaller advantage would be eaten up by the conversions between products.
_WORTH_IT = 1.25


class Precision(NamedTuple):
    """Dtypes of a model's arithmetic.

    Attributes:
      activations: what layers hand on, and what products give.
      factors: what products multiply; None for `activations`.
    """

    activations: jnp.dtype
    factors: jnp.dtype | None = None

    @property
    def kept(self) -> jnp.dtype:
        """What is kept only to be multiplied, such as keys and values of a cache."""
        return self.factors or self.activations

    def multiply(self, equation: str, left: Array, right: Array,
                 result: jnp.dtype | None = None) -> Array:
        """Multiply as an einsum, rounding the factors.

        Args:
          equation: with every letter in at least two of its three terms.
          left, right: of any dtype.
          result: dtype to sum in and return; None for the activations'.

        Returns:
          result[...]; float32 where the factors have a dtype of their own.
        """
        if self.factors is not None:
            return _rounded_product(equation, self.factors, left, right)
        return jnp.einsum(equation, left.astype(self.activations), right.astype(self.activations),
                          preferred_element_type=result)


def bfloat16_is_faster() -> bool:
    """Time products of bfloat16 into float32 against float32's on this machine, in half a second.

    On CPUs with units for it they are about twice as fast; on others they are slower.
    """
    rows, depth, columns = _SIZES
    seconds = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        factors = jnp.ones((rows, depth), dtype), jnp.ones((depth, columns), dtype)
        multiply = jax.jit(functools.partial(jnp.matmul, preferred_element_type=jnp.float32))
        jax.block_until_ready(multiply(*factors))
        seconds[dtype] = min(_seconds(multiply, *factors) for _ in range(8))
    return seconds[jnp.float32] > _WORTH_IT * seconds[jnp.bfloat16]


def _seconds(function, *args: Array) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - start


# The plain derivative would multiply gradients in float32 by factors in bfloat16, which XLA does by
# widening the factors: the backward pass, half of a step, would have nothing of the units.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rounded_product(equation: str, dtype: jnp.dtype, left: Array, right: Array) -> Array:
    """Multiply factors rounded to `dtype`, into float32."""
    return _wide(equation, left.astype(dtype), right.astype(dtype))


def _forward(equation: str, dtype: jnp.dtype, left: Array,
             right: Array) -> tuple[Array, tuple[Array, Array, tuple]]:
    kept = left.astype(dtype), right.astype(dtype)
    like = jnp.zeros(0, left.dtype), jnp.zeros(0, right.dtype)
    return _rounded_product(equation, dtype, *kept), (*kept, like)


def _backward(equation: str, dtype: jnp.dtype, residuals: tuple[Array, Array, tuple],
              gradient: Array) -> tuple[Array, Array]:
    first, second, result = re.split(',|->', equation)
    left, right, like = residuals
    return tuple(
        _rounded_product(f'{result},{others}->{own}', dtype, gradient, other).astype(one.dtype)
        for others, own, other, one in ((second, first, right, like[0]),
                                        (first, second, left, like[1])))


_rounded_product.defvjp(_forward, _backward)


# Left to itself JAX keeps float32 weights and logits for the backward pass and gives XLA products
# that sum over the queries of both factors, which have no unit: they run in float32.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_rounded(dtype: jnp.dtype, query_BSHK: Array, keys_BTHK: Array, values_BTHK: Array,
                   biases: tuple[Array, ...]) -> Array:
    """Attend with the factors of all products rounded, forward and backward.

    Args:
      dtype: what factors are rounded to.
      query_BSHK, keys_BTHK, values_BTHK: float32.
      biases: each float32, such that it broadcasts to [B, H, S, T]; added to the logits.

    Returns:
      float32[B, S, H, K].
    """
    return _attend(dtype, query_BSHK, keys_BTHK, values_BTHK, biases)[0]


def _attend(dtype: jnp.dtype, query_BSHK: Array, keys_BTHK: Array, values_BTHK: Array,
            biases: tuple[Array, ...]) -> tuple[Array, tuple]:
    query_BSHK, keys_BTHK, values_BTHK = (
        one.astype(dtype) for one in (query_BSHK, keys_BTHK, values_BTHK))
    logits_BHST = _wide('BSHK,BTHK->BHST', query_BSHK, keys_BTHK)
    for bias in biases:
        logits_BHST += bias
    weights_BHST = jax.nn.softmax(logits_BHST, axis=-1).astype(dtype)
    mixed_BSHK = _wide('BHST,BTHK->BSHK', weights_BHST, values_BTHK)
    return mixed_BSHK, (query_BSHK, keys_BTHK, values_BTHK, weights_BHST, biases)


def _attend_backward(dtype: jnp.dtype, residuals: tuple, gradient_BSHK: Array) -> tuple:
    query_BSHK, keys_BTHK, values_BTHK, weights_BHST, biases = residuals
    gradient_BSHK = gradient_BSHK.astype(dtype)
    values_grad_BTHK = _wide('BHST,BSHK->BTHK', weights_BHST, gradient_BSHK)
    weights_grad_BHST = _wide('BSHK,BTHK->BHST', gradient_BSHK, values_BTHK)
    weights_BHST = weights_BHST.astype(jnp.float32)
    # Rounded weights do not sum to one, and what all gradients of a row have in common must cancel.
    mean_BHS1 = (jnp.sum(weights_grad_BHST * weights_BHST, axis=-1, keepdims=True)
                 / jnp.sum(weights_BHST, axis=-1, keepdims=True))
    logits_grad_BHST = weights_BHST * (weights_grad_BHST - mean_BHS1)
    rounded_BHST = logits_grad_BHST.astype(dtype)
    return (_wide('BHST,BTHK->BSHK', rounded_BHST, keys_BTHK),
            _wide('BHST,BSHK->BTHK', rounded_BHST, query_BSHK), values_grad_BTHK,
            tuple(_summed_to(logits_grad_BHST, bias.shape) for bias in biases))


attend_rounded.defvjp(_attend, _attend_backward)


@jax.custom_vjp
def rounded_rows(table_VD: Array, ids: Array) -> Array:
    """Look rows of a bfloat16 table up: int32[...] -> bfloat16[..., D].

    As integers: XLA on a CPU has no lookup in bfloat16 and would widen the whole table, in a
    decoding loop for every call.
    """
    rows = jnp.take(jax.lax.bitcast_convert_type(table_VD, jnp.uint16), ids, axis=0)
    return jax.lax.bitcast_convert_type(rows, jnp.bfloat16)


rounded_rows.defvjp(
    lambda table_VD, ids: (rounded_rows(table_VD, ids), (table_VD, ids)),
    lambda kept, gradient: (jnp.zeros_like(kept[0]).at[kept[1]].add(gradient), None))


def _wide(equation: str, left: Array, right: Array) -> Array:
    """Multiply into float32."""
    return jnp.einsum(equation, left, right, preferred_element_type=jnp.float32)


def _summed_to(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the axes along which a shape was broadcast."""
    lacking = gradient.ndim - len(shape)
    axes = tuple(axis for axis in range(gradient.ndim)
                 if axis < lacking or shape[axis - lacking] < gradient.shape[axis])
    return jnp.sum(gradient, axis=axes, keepdims=True).reshape(shape)
