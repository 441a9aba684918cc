"""A prompt's rows by themselves, among words, from their start and beside other prompts."""

import dataclasses
import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jax_prompt.exchange.prompts_in_out import FoundPrompt, find_prompt
from jax_prompt.prompts.file import PromptFile
from jax_prompt.prompts.nearest import COSINE
from jax_prompt.prompts.versions import ENDING
from jax_prompt.reading import maps
from jax_prompt.reading.comparison import compare
from jax_prompt.reading.rows import (
    Words,
    cosines,
    duplicates,
    labels_kept,
    movement,
    neighbours,
    norms,
)
from jax_prompt.reading.settings import ReadingSettings

#: The folder beside a run's prompts, of what they started from (`training.folder.START`).
START = 'start'


@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """Where rows and words stand on a map.

    Attributes:
      title: what the plane is.
      groups: float[R, 2] of 'words', 'rows', and 'start' where it is known.
      named: number of a word -> its text.
    """

    title: str
    groups: dict[str, np.ndarray]
    named: dict[int, str]


def read_rows(path: str, found: FoundPrompt, words: Words | None, settings: ReadingSettings,
              count: int) -> tuple[dict[str, Any], dict[str, Places]]:
    """Tell of a prompt's rows all that needs no run of the model.

    Args:
      path: of the prompt.
      found: what is there.
      words: the model's vocabulary; None without a model.
      settings: how to read.
      count: how many words a row.

    Returns:
      (what JSON can hold, and the maps 'pca' and, where umap-learn is installed, 'umap'). What is
      not told, and why, stands under 'not_shown', in sentences.

    Raises:
      ValueError: a prompt to compare with, or a start, that is unreadable or of another size.
    """
    rows_PD = found.rows_PD
    told: dict[str, Any] = {'not_shown': list(_not_shown(found, words))}
    if not len(rows_PD):
        return told, {}
    told['norms'] = norms(rows_PD, words)
    told['similarity'] = np.round(cosines(rows_PD, rows_PD).astype(float), 4).tolist()
    told['duplicates'] = duplicates(rows_PD, settings.duplicates)
    start_PD = _start(path, found, settings, told)
    if start_PD is not None:
        told['movement'] = movement(rows_PD, start_PD, words)
    if settings.against is not None:
        told['comparison'] = compare(rows_PD, _others(settings.against, rows_PD.shape[1]), words,
                                     count)
    if words is None:
        return told, {}
    told['nearest'] = neighbours(rows_PD, words, count)
    labels = _labels(found.file)
    if labels:
        told['labels'] = labels_kept(rows_PD, words, labels, count, start_PD)
    drawn = _maps(rows_PD, start_PD, words, settings, told)
    told['map'] = {name: {'title': one.title} | {
        group: np.round(places.astype(float), 5).tolist()
        for group, places in one.groups.items() if group != 'words'}
        for name, one in drawn.items()}
    return told, drawn


def _not_shown(found: FoundPrompt, words: Words | None) -> Iterator[str]:
    """Say what nothing is told of, and why."""
    if words is None:
        yield ('No model was given (--model=SOURCE): nearest words, labels, the map, losses and '
               'attention are left out.')
    if found.file is None:
        yield (f'A prompt of this kind ({found.form}) says neither its task nor its layout: what '
               'became of labels, losses and attention are left out. `jax-prompt import` makes a '
               'prompt file of it, which has them.')
        return
    prompt = found.file.prompt
    if prompt.prefix:
        yield (f'The prompt has a prefix of keys and values ({", ".join(prompt.prefix)}). These '
               'are no points among words, so nothing here is said of them; losses and attention '
               'are measured with the prefix in place.')
    if prompt.added:
        yield (f'The prompt adds {prompt.added} rows to the first {prompt.added} tokens of each '
               'text. These are changes of words, not words of their own, so nothing here is said '
               'of them; losses and attention are measured with them in place.')
    if not len(found.rows_PD):
        yield ('The prompt has no virtual tokens, so there are no rows to read; see '
               'docs/howto/reading.md for what can be told of such a prompt.')


def _start(path: str, found: FoundPrompt, settings: ReadingSettings,
           told: dict[str, Any]) -> np.ndarray | None:
    """Return what a prompt started from: as given, or as its run has kept it beside the prompt."""
    where, given = settings.start, settings.start is not None
    if not given:
        beside = Path(path).parent / START / Path(path).name
        if found.file is None or not beside.is_file():
            told['not_shown'].append(
                'What the prompt started from is not known: its run has left no '
                f'{Path(START) / Path(path).name} beside it (runs of earlier versions and imported '
                'prompts have none). Name a file with --start=FILE to see how far rows moved.')
            return None
        where = os.fspath(beside)
    start_PD = find_prompt(where).rows_PD
    if start_PD.shape != found.rows_PD.shape:
        raise ValueError(f'start {where} has {start_PD.shape[0]} rows of width {start_PD.shape[1]} '
                         f'but the prompt {path} has {found.rows_PD.shape[0]} of '
                         f'{found.rows_PD.shape[1]}; '
                         + ('name the file that it started from' if given else
                            'it is not what this prompt started from: name it with --start=FILE'))
    told['start'] = where
    return start_PD


def _others(against: str, width: int) -> dict[str, np.ndarray]:
    """Return the rows of prompts to compare with, by the shortest names that tell them apart."""
    path = Path(against)
    if path.is_dir() and not (path / 'adapter_config.json').is_file():
        paths = sorted(path.glob(f'*{ENDING}'))
    else:
        paths = [path] if path.exists() else sorted(map(Path, glob.glob(against)))
    if not paths:
        raise ValueError(f'no prompts to compare with at {against!r}; name a prompt file, a folder '
                         'of them, or a pattern such as runs/seed*/prompt.safetensors')
    rows = {os.fspath(one): find_prompt(one).rows_PD for one in paths}
    for name, rows_PD in rows.items():
        if rows_PD.shape[1] != width:
            raise ValueError(f'prompt {name} has rows of width {rows_PD.shape[1]} but the one that '
                             f'is read has {width}; only prompts of one model can be compared')
        if not len(rows_PD):
            raise ValueError(f'prompt {name} has no virtual tokens, so no rows to compare; leave '
                             'it out')
    common = os.path.commonpath([os.path.dirname(name) for name in rows]) if len(rows) > 1 else ''
    return {os.path.relpath(name, common) if common else name: one for name, one in rows.items()}


def _labels(file: PromptFile | None) -> list[str]:
    """Return the different label words of a prompt file's task."""
    labels = None if file is None else file.metadata.task.get('labels')
    words = labels.values() if isinstance(labels, Mapping) else labels or ()
    return list(dict.fromkeys(words))


def _maps(rows_PD: np.ndarray, start_PD: np.ndarray | None, words: Words,
          settings: ReadingSettings, told: dict[str, Any]) -> dict[str, Places]:
    """Lay rows and words out: frequent ones, which have the lowest ids, and the nearest."""
    near = words.nearest(rows_PD, 1, COSINE)[0][:, 0]
    frequent = np.arange(words.num_special_ids,
                         min(words.num_words, words.num_special_ids + settings.map_words))
    ids = np.unique(np.concatenate([frequent, near]))
    groups = {'words': words.table_VD[ids], 'rows': rows_PD}
    if start_PD is not None:
        groups['start'] = start_PD
    named = {int(np.searchsorted(ids, one)): words.word(int(one)) for one in near}
    places, share = maps.pca([*groups.values()])
    title = f'principal components of directions ({100 * share:.0f} % of the variance)'
    made = {'pca': Places(title, dict(zip(groups, places, strict=True)), named)}
    if settings.umap and maps.has_umap():
        made['umap'] = Places('UMAP of directions, by cosine', dict(zip(
            groups, maps.umap([*groups.values()], settings.seed), strict=True)), named)
    elif settings.umap:
        told['not_shown'].append('The map by UMAP needs umap-learn: pip install '
                                 "'jax-prompt[reading]'.")
    return made
