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
    return jnp.einsum(equation, left.astype(dtype), right.astype(dtype),
                      preferred_element_type=jnp.float32)


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
