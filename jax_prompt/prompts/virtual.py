"""Virtual tokens: ids past the vocabulary stand for rows of the trained prompt.

Ids `0..V-1` are the vocabulary's and are looked up in the frozen table; id `V + i` is row `i` of
the prompt. Everything else that a prompt could change (lengths, masks, positions, packing) follows
from which ids stand where, so nothing else in the model knows of prompts.
"""

import jax
import jax.numpy as jnp

from jax_prompt.types import Array


def join(hidden_BSD: Array, prompt_PD: Array, ids_BS: Array, vocab_size: int) -> Array:
    """Put the prompt's rows in the places of virtual ids.

    Ids outside `0..V+P-1`, a bug of the host, give unspecified rows.

    Args:
        hidden_BSD: float[..., S, D], the vocabulary's embeddings; anything where ids are virtual.
        prompt_PD: float32[P, D], the trained rows.
        ids_BS: int32[..., S], token ids and virtual ids.
        vocab_size: V, the first virtual id.

    Returns:
        [..., S, D] in the dtype of `hidden_BSD`.

    Example:
        >>> join(jnp.zeros((2, 3)), jnp.ones((1, 3)), jnp.array([4, 0]), 4)[:, 0].tolist()
        [1.0, 0.0]
    """
    # The cast is outside the custom gradient, so that its transpose restores the prompt's dtype.
    rows_BSD = _prompt_rows(prompt_PD.astype(jnp.float32), ids_BS - vocab_size)
    is_virtual_BS1 = (ids_BS >= vocab_size)[..., None]
    return jnp.where(is_virtual_BS1, rows_BSD.astype(hidden_BSD.dtype), hidden_BSD)


@jax.custom_vjp
def _prompt_rows(prompt_PD, row_BS):
    """Select prompt rows; positions with a negative row get row 0, which the caller discards."""
    return jnp.take(prompt_PD, jnp.maximum(row_BS, 0), axis=0)


def _prompt_rows_forward(prompt_PD, row_BS):
    return _prompt_rows(prompt_PD, row_BS), (row_BS, prompt_PD.shape[0])


def _prompt_rows_backward(residuals, grad_BSD):
    """Sum the gradient of each row's places as a one-hot product.

    The transpose of a lookup is a scatter-add, which a TPU executes one row after another. The
    product must be exact: by default TPUs and some GPUs would round float32 inputs.
    """
    row_BS, num_rows = residuals
    # Left to itself one_hot gives zeros to the negative rows of ordinary tokens.
    one_hot_BSP = jax.nn.one_hot(row_BS, num_rows, dtype=jnp.float32)
    places = list(range(row_BS.ndim))
    grad_PD = jnp.tensordot(
        one_hot_BSP, grad_BSD.astype(jnp.float32), axes=(places, places),
        precision=jax.lax.Precision.HIGHEST,
    )
    return grad_PD, None


_prompt_rows.defvjp(_prompt_rows_forward, _prompt_rows_backward)
