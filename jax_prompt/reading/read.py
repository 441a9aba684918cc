"""Read a prompt: its rows by themselves, and what they do in use."""

import dataclasses
import os
from typing import Any

import numpy as np

from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.exchange.prompts_in_out import find_prompt, inspect_prompt
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.hosts import fetch
from jax_prompt.prompts.file import PromptFile
from jax_prompt.reading.positions import Places, read_rows
from jax_prompt.reading.rows import Words
from jax_prompt.reading.settings import ReadingSettings
from jax_prompt.reading.use import Use


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """What is told of a prompt.

    Attributes:
      told: what JSON can hold: 'prompt' (as `inspect_prompt` tells it), 'not_shown' (why which of
        the others are missing), 'norms', 'similarity', 'duplicates', 'movement', 'nearest',
        'labels', 'map', 'comparison', 'ablation', 'attention', 'discrete'.
      maps: name -> where rows and words stand.
      words: the vocabulary; None without a model.
      discrete: the prompt in words, as a prompt file; None where it was not measured.
    """

    told: dict[str, Any]
    maps: dict[str, Places]
    words: Words | None = None
    discrete: PromptFile | None = None


def words_of(opened: OpenedModel) -> Words:
    """Return the vocabulary of a model as its embeddings, on every host."""
    table_VD = fetch(opened.model.embedding_table(opened.frozen)).astype(np.float32)
    vocabulary = opened.vocabulary
    return Words(table_VD, vocabulary.word, vocabulary.encode_words, vocabulary.vocab_size)


def read_prompt(path: str | os.PathLike, opened: OpenedModel | None = None,
                task: TextTask | RegisteredTask | None = None,
                settings: ReadingSettings | None = None, count: int = 5,
                parameter: str | None = None) -> Reading:
    """Read a prompt.

    Args:
      path: of a prompt file, or of anything that can be imported.
      opened: the model that it was trained for; None to look at the rows alone.
      task: to measure on; None to measure nothing.
      settings: how to read.
      count: how many words a row.
      parameter: which of several prompts, as for `import_prompt`.

    Returns:
      The reading.

    Raises:
      FileNotFoundError, ValueError: in one line, for what cannot be read or measured.
    """
    settings, path = settings or ReadingSettings(), os.fspath(path)
    found = find_prompt(path, parameter)
    words = None if opened is None else words_of(opened)
    told, drawn = read_rows(path, found, words, settings, count)
    told = {'prompt': inspect_prompt(path, parameter=parameter)} | told
    if opened is None or found.file is None or not len(found.rows_PD):
        return Reading(told, drawn, words)
    use = Use(opened, found.file, words, task, settings)
    told['ablation'], told['attention'] = use.ablation(), use.attention()
    in_words, discrete = use.discrete(told.get('start')) or (None, None)
    told['discrete'] = in_words
    if found.file.metadata.design is not None:
        told['not_shown'].append('The prompt words its inputs by a design, which stays in place '
                                 'for losses and attention; words as text are left out.')
    told['not_shown'] += [why for name, why in {
        'ablation': 'No task was given (--task): what each row is worth, and what words in place '
                    'of the rows cost, are left out.',
        'attention': 'Attention is left out: no texts were given (--texts, or --task), or the '
                     'model does not attend.'}.items() if told[name] is None]
    return Reading({name: one for name, one in told.items() if one is not None}, drawn, words,
                   discrete)
