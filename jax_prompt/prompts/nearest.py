"""Read a prompt by the vocabulary entries that its rows point towards.

Lester et al. 2021 (arXiv:2104.08691, section 7) compare by cosine: a trained row is many times as
long as an embedding, so that distances say little. Khashabi et al. 2022 (arXiv:2112.08348) project
by distance.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jax_prompt.files import brief
from jax_prompt.types import Array

_BLOCK_ROWS = 8192

COSINE, DISTANCE, INNER_PRODUCT = MEASURES = ('cosine', 'distance', 'inner_product')


def nearest_words(prompt_PD: Array | np.ndarray, table_VD: Array | np.ndarray, count: int = 5,
                  num_special_ids: int = 3, num_words: int | None = None, by: str = COSINE,
                  ) -> tuple[np.ndarray, np.ndarray]:
    """Find the vocabulary entries whose embeddings are nearest to each row.

    The table is read some thousand rows at a time, so that it may be large and bfloat16.

    Args:
        prompt_PD: float32[P, D].
        table_VD: float[V, D], the frozen embedding table, numpy or JAX.
        count: how many entries a row; fewer where the vocabulary has fewer.
        num_special_ids: ids below this are no words (T5: pad, end and unknown token).
        num_words: how many ids the tokenizer has; the table's rows beyond them are padding.
        by: what is near: 'cosine', the 'distance' between the ends of two vectors, or the
            'inner_product'; the largest cosine or product comes first, and the smallest distance.

    Returns:
        (int32[P, count] ids, float[P, count] cosines, distances or products), the nearest first and
        the lowest id among equals. A row or an entry of zeros has cosine 0 with everything.

    Raises:
        ValueError: a count below 1, an unknown measure, or another width than the table's.
    """
    if count < 1:
        raise ValueError(f'count={count} nearest words; expected 1 or more')
    if by not in _NEARNESS:
        raise ValueError(f'words are to be near by {brief(by)}; expected {", ".join(MEASURES)}')
    if prompt_PD.ndim != 2 or prompt_PD.shape[1] != table_VD.shape[1]:
        raise ValueError(f'the prompt has shape {list(prompt_PD.shape)} but the embedding table '
                         f'{list(table_VD.shape)}; give the model that it was trained for')
    end = min(table_VD.shape[0], table_VD.shape[0] if num_words is None else num_words)
    prepare, nearness = _NEARNESS[by]
    rows_PD = prepare(prompt_PD)
    found = np.concatenate([np.zeros((len(rows_PD), 0), np.float32)] + [
        nearness(rows_PD, prepare(table_VD[start:min(start + _BLOCK_ROWS, end)]))
        for start in range(num_special_ids, end, _BLOCK_ROWS)], axis=1)
    # Stable, so that among equals the lowest id stays in front.
    best = np.argsort(-found, axis=1, kind='stable')[:, :count]
    ids = (best + num_special_ids).astype(np.int32)
    if by == DISTANCE:
        found = [np.linalg.norm(row - prepare(table_VD[some]), axis=1)
                 for row, some in zip(rows_PD, ids, strict=True)]
        return ids, np.reshape(found, ids.shape)
    return ids, np.take_along_axis(found, best, axis=1)


def row_norms(prompt_PD: Array | np.ndarray) -> np.ndarray:
    """Return the length of each row: float32[P, D] -> float64[P], where no square overflows."""
    return np.linalg.norm(np.asarray(prompt_PD, np.float64), axis=1)


def unit_rows(rows: Array | np.ndarray) -> np.ndarray:
    """Scale rows to length one, float32; rows of zeros stay."""
    if isinstance(rows, jnp.ndarray):
        rows = rows.astype(jnp.float32)
    rows = np.asarray(rows, np.float32)
    norms = row_norms(rows)[:, None]
    return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)


def _wide(rows: Array | np.ndarray) -> np.ndarray:
    """Return rows as float64: of long rows float32 does not tell near words apart."""
    if isinstance(rows, jnp.ndarray):
        rows = rows.astype(jnp.float32)
    return np.asarray(rows, np.float64)


def _products(rows_PD: np.ndarray, words_VD: np.ndarray) -> np.ndarray:
    return rows_PD @ words_VD.T


def _near(rows_PD: np.ndarray, words_VD: np.ndarray) -> np.ndarray:
    """Return what is the greater the nearer a word: |p - e|^2 = |p|^2 - 2 (p e - |e|^2 / 2)."""
    return rows_PD @ words_VD.T - np.sum(words_VD**2, axis=1) / 2


#: How rows are prepared, and how near words are to them.
_NEARNESS: dict[str, tuple[Callable, Callable]] = {
    COSINE: (unit_rows, _products), DISTANCE: (_wide, _near), INNER_PRODUCT: (_wide, _products)}
