"""A tiny model and prompts for it of different lengths, layouts, templates and labels."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from jax_prompt.data.vocabularies import load_vocabulary
from jax_prompt.models.open import OpenedModel
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.file import PromptFile, PromptMetadata
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt
from tests.models.t5.random_weights import init

#: (rows, layout, what the task is), each different from the others in several ways.
TASKS = {
    'mood': (5, Layout('before'), dict(
        inputs_template='review : {text}', labels={'0': 'negative', '1': 'positive'})),
    'words': (9, Layout('after'), dict(labels=['dull', 'great', 'warm film'])),
    'title': (3, Layout('around'), dict(targets_length=6)),
    'pair': (8, Layout('after', after_end=True), dict(
        inputs_template='{first} and {second}', labels=['great', 'weak cold'])),
    'marked': (2, Layout('marker'), dict(
        inputs_template='the <extra_id_99> {text}', targets_length=8)),
    'one': (1, Layout('before'), dict(labels=['film', 'plot', 'cast', 'hero', 'script'])),
    'long': (17, Layout('around', rows_before=3), dict(targets_length=12)),
    'short': (4, Layout('before'), dict(labels=['clumsy', 'clever'], inputs_length=4)),
}


def open_tiny(folder, seed: int = 0) -> OpenedModel:
    """Draw a model for the vocabulary in a folder; what an engine needs to know of it."""
    vocabulary = load_vocabulary(str(folder))
    config = T5Config(vocab_size=vocabulary.vocab_size, d_model=16, d_kv=8, d_ff=32, num_heads=2,
                      num_layers=1, num_decoder_layers=1, name='tiny')
    model = T5(config)
    frozen = init(model, jax.random.key(seed))
    return OpenedModel(model, frozen, None, vocabulary, str(folder), 'tiny', f'weights {seed}',
                       vocabulary.fingerprint)


def prompt_file(opened, rows: int, layout: Layout = Layout(), seed: int = 0,  # noqa: B008
                scale: float = 2.0, **task) -> PromptFile:
    """Draw a prompt for a model."""
    task = {'name': 'task', 'inputs_length': 24, **task}
    drawn = scale * np.random.default_rng(seed).normal(size=(rows, opened.model.d_model))
    metadata = PromptMetadata(opened.name, opened.fingerprint, opened.vocabulary_fingerprint, task,
                              layout, 'direct', 1, {'accuracy': 0.5}, seed)
    return PromptFile(Prompt(drawn.astype(np.float32)), metadata)


def prefixed(opened, seed: int, stacks: Sequence[str], positions: int, rows: int = 0,
             **task) -> PromptFile:
    """Draw a prompt with a prefix."""
    draw, file = np.random.default_rng(seed), prompt_file(opened, rows, seed=seed, **task)
    prefix = {}
    for name in stacks:
        layers, heads, width = opened.model.prefix_shapes[name]
        prefix[name] = tuple(draw.normal(size=(1, layers, heads, positions, width)).astype(
            np.float32) for _ in range(2))
    return dataclasses.replace(file, prompt=file.prompt.replace(prefix=prefix))


def prompts(opened) -> dict[str, PromptFile]:
    """Draw a prompt for each of the tasks."""
    return {name: prompt_file(opened, rows, layout, seed, name=name, **task)
            for seed, (name, (rows, layout, task)) in enumerate(TASKS.items())}


def requests(count: int, seed: int = 0) -> list[tuple[str, object]]:
    """Draw requests of all tasks, in no order."""
    from tests.tiny_world import BAD, GOOD, SUBJECTS

    draw = np.random.default_rng(seed)

    def text(words: int) -> str:
        return ' '.join(draw.choice([*SUBJECTS, *GOOD, *BAD], words))

    found = []
    for number in range(count):
        name = list(TASKS)[number % len(TASKS)]
        length = int(draw.integers(1, 15))
        found.append((name, {'first': text(length), 'second': text(2)} if name == 'pair'
                      else text(length)))
    draw.shuffle(found)
    return [(name, inputs) for name, inputs in found]
