"""How alike prompts are, which tells how well one would start another task (SPoT)."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_prompt.prompts.file import PromptFile, load_prompt
from jax_prompt.prompts.versions import ENDING

#: The measures, the one that sources are ranked by first.
PAIRS, MEANS = 'pairs', 'means'


def similarity(one_PD: np.ndarray, other_RD: np.ndarray) -> dict[str, float]:
    """Return two cosines that tell how alike prompts are, of any numbers of rows.

    Args:
        one_PD: float[P, D], the rows of one prompt.
        other_RD: float[R, D], those of the other.

    Returns:
        'pairs', the cosine of each row of one with each row of the other, averaged, and 'means',
        the cosine of the mean rows. A row of zeros is like nothing.

    Raises:
        ValueError: the prompts are of different widths.

    Source: Vu et al. 2022 (arXiv:2110.07904), section 5.1; of the two, the pairs' tells better how
    much a source helps.
    """
    one_PD, other_RD = np.asarray(one_PD, np.float64), np.asarray(other_RD, np.float64)
    if one_PD.shape[1] != other_RD.shape[1]:
        raise ValueError(f'the prompts have rows of width {one_PD.shape[1]} and '
                         f'{other_RD.shape[1]}; only prompts of one model can be compared')
    means = [rows.mean(axis=0, keepdims=True) for rows in (one_PD, other_RD)]
    # The mean over pairs of products is the product of means.
    return {PAIRS: float(np.dot(*(_directions(rows).mean(axis=0) for rows in (one_PD, other_RD)))),
            MEANS: float(np.dot(*(_directions(mean)[0] for mean in means)))}


def compare(one: PromptFile, other: PromptFile) -> dict[str, Any]:
    """Tell what differs between two prompt files.

    Returns:
        'metrics', name -> what each has, None for nothing; 'metadata', of all else that they tell
        what differs, name (of the task's entries task.NAME) -> what each has; 'rows', how many each
        has; 'similarity', which is None for different widths; and 'moved', the mean distance from a
        row of one to the same row of the other, None for different shapes.
    """
    told = [vars(file.metadata) for file in (one, other)]
    metrics = [dict(each['metrics']) for each in told]
    told = [{**{name: value for name, value in each.items() if name not in ('metrics', 'task')},
             'layout': each['layout'].describe(),
             **{f'task.{name}': value for name, value in each['task'].items()}} for each in told]
    rows = [file.prompt.virtual for file in (one, other)]
    same = rows[0].shape == rows[1].shape and len(rows[0])
    return {
        'metrics': _both(metrics),
        'metadata': {name: values for name, values in _both(told).items()
                     if values[0] != values[1]},
        'rows': [len(each) for each in rows],
        'similarity': similarity(*rows) if rows[0].shape[1] == rows[1].shape[1] else None,
        'moved': float(np.linalg.norm(rows[0] - rows[1], axis=1).mean()) if same else None}


def _both(told: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [each.get(name) for each in told]
            for name in dict.fromkeys([*told[0], *told[1]])}


def load_prompts(folder: str | os.PathLike) -> dict[str, PromptFile]:
    """Read all prompt files of a folder, by their names without the ending.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are none in it, or one cannot be read.
    """
    path = pathlib.Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f'no folder of prompts at {str(folder)!r}; name one that holds '
                                f'prompt files (*{ENDING})')
    found = {file.name.removesuffix(ENDING): load_prompt(file)
             for file in sorted(path.glob(f'*{ENDING}'))}
    if not found:
        raise ValueError(f'the folder {folder} holds no prompt files (*{ENDING})')
    return found


def ranked(prompt_PD: np.ndarray, sources: Mapping[str, PromptFile],
           by: str = PAIRS) -> list[tuple[str, dict[str, float]]]:
    """Rank prompts by how alike they are to one, the likest first.

    Args:
        prompt_PD: float[P, D], rows of the prompt.
        sources: by name.
        by: 'pairs' or 'means'.

    Returns:
        (name, its `similarity`) of each.

    Raises:
        ValueError: one is of another width, or another measure is asked for.
    """
    if by not in (PAIRS, MEANS):
        raise ValueError(f'prompts are to be ranked by {by!r}; expected {PAIRS} or {MEANS}')
    found = []
    for name, source in sources.items():
        try:
            found.append((name, similarity(prompt_PD, source.prompt.virtual)))
        except ValueError as error:
            raise ValueError(f'source prompt {source.path or name}: {error}') from None
    return sorted(found, key=lambda item: -item[1][by])


def _directions(rows_PD: np.ndarray) -> np.ndarray:
    """Return rows of length one."""
    lengths_P1 = np.linalg.norm(rows_PD, axis=-1, keepdims=True)
    return rows_PD / np.where(lengths_P1 > 0, lengths_P1, 1.0)
