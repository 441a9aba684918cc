"""Maps: directions of rows and words in a plane."""

import contextlib
import importlib.util
import warnings

import numpy as np

from jax_prompt.prompts.nearest import unit_rows


def pca(groups: list[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Project directions onto the two axes along which they differ most.

    Each group of rows weighs as much as each other, so that few rows of a prompt count as much as
    thousands of words.

    Args:
      groups: float32[R, D] each.

    Returns:
      (float64[R, 2] for each group, the share of the variance that the plane shows).
    """
    units = np.concatenate([unit_rows(rows) for rows in groups]).astype(np.float64)
    weights = np.concatenate([np.full(len(rows), 1 / max(1, len(rows))) for rows in groups])
    weights /= weights.sum()
    centred = (units - weights @ units) * np.sqrt(weights)[:, None]
    # Of the products of R rows, which are fewer than V and may be fewer than D.
    values, vectors = np.linalg.eigh(centred @ centred.T)
    largest = np.maximum(values[:-3:-1], 0)
    places = vectors[:, :-3:-1] * np.sqrt(largest) / np.sqrt(weights)[:, None]
    # The sign of an axis means nothing; fixed, so that the same prompt has the same map.
    places *= np.where(places[np.abs(places).argmax(axis=0), range(places.shape[1])] < 0, -1, 1)
    share = float(largest.sum() / max(np.maximum(values, 0).sum(), 1e-12))
    return np.split(places, np.cumsum([len(rows) for rows in groups])[:-1]), share


def has_umap() -> bool:
    """Say whether umap-learn is installed."""
    return importlib.util.find_spec('umap') is not None


def umap(groups: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Lay directions out so that neighbours stay neighbours (UMAP, by cosine).

    Args:
      groups: float32[R, D] each, together at least four.
      seed: of the layout.

    Returns:
      float32[R, 2] for each group.

    Source: McInnes et al. 2018 (arXiv:1802.03426), by its authors' umap-learn.
    """
    from umap import UMAP

    rows = np.concatenate([unit_rows(one) for one in groups])
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter('ignore')  # that a seed forbids threads, which is as it shall be
        places = UMAP(n_neighbors=min(15, len(rows) - 1), metric='cosine',
                      random_state=seed).fit_transform(rows)
    return np.split(places, np.cumsum([len(one) for one in groups])[:-1])
