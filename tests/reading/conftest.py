"""A prompt of the tiny world, what it started from, and one whole reading of it."""

import dataclasses

import numpy as np
import pytest

from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.models.open import open_model
from jax_prompt.prompts.file import PromptFile, PromptMetadata, load_prompt, save_prompt
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.reading.read import read_prompt, words_of
from jax_prompt.reading.settings import ReadingSettings

WORDS = 'great', 'dull', 'lovely', 'weak', 'warm', 'cold'
ROWS = [{'text': f'the film was {word}', 'label': str(number % 2)}
        for number, word in enumerate(WORDS)]
SETTINGS = ReadingSettings(split='test', batch_size=8, most_texts=6, map_words=30, umap=False)


@pytest.fixture(scope='session')
def opened(world):
    return open_model(str(world / 'model'))


@pytest.fixture(scope='session')
def words(opened):
    return words_of(opened)


@pytest.fixture(scope='session')
def task():
    return TextTask('reviews', {'test': lambda: ROWS}, 'review : {text}',
                    labels={'0': 'warm', '1': 'cold'}, inputs_length=32)


@pytest.fixture(scope='session')
def folder(opened, words, task, tmp_path_factory):
    """The folder of a run: a prompt of four rows, two of which began as labels, and its start."""
    folder = tmp_path_factory.mktemp('reading')
    drawn = np.random.default_rng(3)
    start = drawn.normal(size=(4, opened.model.d_model)).astype(np.float32)
    start[:2] = [words.table_VD[words.encode(label)].mean(0) for label in ('warm', 'cold')]
    rows = 3 * start + drawn.normal(size=start.shape).astype(np.float32)
    rows[0], rows[3] = 9 * start[0], 2 * rows[2]  # its direction kept; a duplicate
    metadata = PromptMetadata(opened.name, opened.fingerprint, opened.vocabulary_fingerprint,
                              task.to_dict(), Layout('around'), 'direct', 7, {'accuracy': 0.5}, 0)
    for path, array in ((folder / 'prompt.safetensors', rows),
                        (folder / 'start' / 'prompt.safetensors', start)):
        save_prompt(path, PromptFile(Prompt(array), metadata))
    other = PromptFile(Prompt(rows[::-1].copy()), dataclasses.replace(metadata, seed=1))
    save_prompt(folder / 'others' / 'turned.safetensors', other)
    return folder


@pytest.fixture(scope='session')
def file(folder):
    return load_prompt(folder / 'prompt.safetensors')


@pytest.fixture(scope='session')
def reading(opened, task, folder):
    settings = dataclasses.replace(SETTINGS, against=str(folder / 'others'))
    return read_prompt(folder / 'prompt.safetensors', opened, task, settings, count=3)
