"""Read a prompt by the vocabulary entries that its rows point towards.

Lester et al. 2021 (arXiv:2104.08691, section 7) compare by cosine: a trained row is many times as
long as an embedding, so that distances say little.
"""

import jax.numpy as jnp
import numpy as np

from jax_prompt.types import Array

_BLOCK_ROWS = 8192


def nearest_words(prompt_PD: Array | np.ndarray, table_VD: Array | np.ndarray, count: int = 5,
                  num_special_ids: int = 3, num_words: int | None = None
                  ) -> tuple[np.ndarray, np.ndarray]:
    """Find the vocabulary entries whose embeddings have the largest cosine with each row.

    The table is read some thousand rows at a time, so that it may be large and bfloat16.

    Args:
        prompt_PD: float32[P, D].
        table_VD: float[V, D], the frozen embedding table, numpy or JAX.
        count: how many entries a row; fewer where the vocabulary has fewer.
        num_special_ids: ids below this are no words (T5: pad, end and unknown token).
        num_words: how many ids the tokenizer has; the table's rows beyond them are padding.

    Returns:
        (int32[P, count] ids, float32[P, count] cosines), the nearest first and the lowest id among
        equals. A row or an entry of zeros has cosine 0 with everything.

    Raises:
        ValueError: a count below 1, or another width than the table's.
    """
    if count < 1:
        raise ValueError(f'count={count} nearest words; expected 1 or more')
    if prompt_PD.ndim != 2 or prompt_PD.shape[1] != table_VD.shape[1]:
        raise ValueError(f'the prompt has shape {list(prompt_PD.shape)} but the embedding table '
                         f'{list(table_VD.shape)}; give the model that it was trained for')
    end = min(table_VD.shape[0], table_VD.shape[0] if num_words is None else num_words)
    unit_PD = _unit_rows(prompt_PD)
    cosines = np.concatenate([np.zeros((len(unit_PD), 0), np.float32)] + [
        unit_PD @ _unit_rows(table_VD[start:min(start + _BLOCK_ROWS, end)]).T
        for start in range(num_special_ids, end, _BLOCK_ROWS)], axis=1)
    # Stable, so that among equals the lowest id stays in front.
    best = np.argsort(-cosines, axis=1, kind='stable')[:, :count]
    return (best + num_special_ids).astype(np.int32), np.take_along_axis(cosines, best, axis=1)


def row_norms(prompt_PD: Array | np.ndarray) -> np.ndarray:
    """Return the length of each row: float32[P, D] -> float64[P], where no square overflows."""
    return np.linalg.norm(np.asarray(prompt_PD, np.float64), axis=1)


def _unit_rows(rows: Array | np.ndarray) -> np.ndarray:
    """Scale rows to length one; rows of zeros stay."""
    if isinstance(rows, jnp.ndarray):
        rows = rows.astype(jnp.float32)
    rows = np.asarray(rows, np.float32)
    norms = row_norms(rows)[:, None]
    return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)
