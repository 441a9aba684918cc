"""What the rows of a prompt are near to: words of the vocabulary."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.types import Array


def nearest_words(table_VD: Array, prompt_PD: np.ndarray, count: int = 5,
                  words: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Find the vocabulary entries whose embeddings point most nearly where each row points.

    Args:
      table_VD: float[V, D], the frozen embedding table.
      prompt_PD: float32[P, D], the folded prompt.
      count: how many entries a row.
      words: entries of the vocabulary; the table may have more rows, which mean nothing.

    Returns:
      (int32[P, count] ids, float32[P, count] cosines), the nearest first.

    Source: Lester et al. 2021, section 7, reads prompts so.
    """
    words = table_VD.shape[0] if words is None else min(words, table_VD.shape[0])
    # Padded to powers of two, so that prompts of all lengths share a few programs.
    padded = 1 << max(0, len(prompt_PD) - 1).bit_length()
    rows = np.zeros((padded, prompt_PD.shape[1]), np.float32)
    rows[:len(prompt_PD)] = prompt_PD
    ids, cosines = _nearest(table_VD, rows, min(count, words), words)
    return np.asarray(ids)[:len(prompt_PD)], np.asarray(cosines)[:len(prompt_PD)]


@functools.partial(jax.jit, static_argnames=('count', 'words'))
def _nearest(table_VD: Array, prompt_PD: Array, count: int, words: int) -> tuple[Array, Array]:
    # Lengths are divided out of the products, so that no second table is made.
    lengths_V = jnp.sqrt(jnp.sum(jnp.square(table_VD.astype(jnp.float32)), axis=1))
    lengths_P = jnp.sqrt(jnp.sum(jnp.square(prompt_PD), axis=1))
    products_PV = jnp.einsum('PD,VD->PV', prompt_PD.astype(table_VD.dtype), table_VD,
                             preferred_element_type=jnp.float32,
                             precision=jax.lax.Precision.HIGHEST)
    cosines_PV = products_PV / jnp.maximum(lengths_P[:, None] * lengths_V, 1e-20)
    cosines_PV = jnp.where(jnp.arange(cosines_PV.shape[1]) < words, cosines_PV, -2.0)
    cosines, ids = jax.lax.top_k(cosines_PV, count)
    return ids, cosines
