"""Virtual tokens: ids past the vocabulary stand for rows of the trained prompt.

Ids `0..V-1` are the vocabulary's and are looked up in the frozen table; id `V + i` is row `i` of
the prompt. Everything else that a prompt could change (lengths, masks, positions, packing) follows
from which ids stand where, so nothing else in the model knows of prompts.

A prompt may also add rows to tokens of the text (DePT). Which row is added to which token is said
by the same ids: id `w + stride * (1 + j)` is the token `w` with row `j` added to its embedding.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.types import Array


def stride(vocab_size: int) -> int:
    """Return what an id grows by for each row, when that row is added to its embedding.

    Args:
        vocab_size: V. Ids of virtual tokens stay below the stride too, so that of T5's 32,128 there
            may be 98,944 rows, the first 16,383 of which can be added to tokens: ids are int32. Of
            250,112 tokens there may be 274,176 and 4,095.
    """
    return max(2**17, 2 ** (2 * vocab_size - 1).bit_length())


def with_rows_added(ids: np.ndarray, rows: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return ids that ask for a row to be added to each embedding.

    Args:
        ids: int32[...], of tokens.
        rows: int[...], which row of the prompt each gets.
        vocab_size: V.

    Raises:
        ValueError: no int32 can say so high a row.
    """
    found = ids + stride(vocab_size) * (1 + np.asarray(rows, np.int64))
    if found.size and found.max() >= 2**31:
        raise ValueError(f'row {int(np.max(rows))} cannot be added to tokens: with {vocab_size:,} '
                         f'token ids only the first {2**31 // stride(vocab_size) - 1:,} rows can; '
                         'have fewer prompts in use')
    return found.astype(np.int32)


def shifted(ids: np.ndarray, by: int, vocab_size: int) -> np.ndarray:
    """Return the ids of an input whose prompt stands so many rows further back.

    Args:
        ids: int32[...].
        by: rows that stand before.
        vocab_size: V.

    Raises:
        ValueError: no int32 can say a row that is added to tokens there.
    """
    base, rows = ids % stride(vocab_size), ids // stride(vocab_size)
    moved = np.where(base >= vocab_size, base + np.int32(by), base)
    adds = rows > 0
    if adds.any():
        moved[adds] = with_rows_added(moved[adds], rows[adds] - 1 + by, vocab_size)
    return moved


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


def apart(ids_BS: Array, vocab_size: int) -> tuple[Array, Array]:
    """Take ids apart: int32[..., S] -> (ids of tokens and of rows, the row to add or -1)."""
    return ids_BS % stride(vocab_size), ids_BS // stride(vocab_size) - 1


def add(hidden_BSD: Array, prompt_RD: Array, row_BS: Array) -> Array:
    """Add rows of the prompt to embeddings, in float32.

    Args:
        hidden_BSD: float[..., S, D].
        prompt_RD: float32[R, D], the trained rows.
        row_BS: int32[..., S], the row that each gets; below 0 for none.

    Returns:
        [..., S, D] in the dtype of `hidden_BSD`, bit for bit the same where no row is added.
    """
    rows_BSD = _prompt_rows(prompt_RD.astype(jnp.float32), row_BS)
    sum_BSD = (hidden_BSD.astype(jnp.float32) + rows_BSD).astype(hidden_BSD.dtype)
    return jnp.where((row_BS >= 0)[..., None], sum_BSD, hidden_BSD)


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
