"""Everything that is known of a run before its first step, and what tells it from other runs."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_prompt.data.batches import choose_buckets
from jax_prompt.data.examples import Examples, load_examples
from jax_prompt.data.features import Features
from jax_prompt.evaluation.evaluator import Evaluator, make_evaluator, make_features
from jax_prompt.models.open import FrozenModel
from jax_prompt.parallel.hosts import fetch
from jax_prompt.prompts.initializers import InitContext, class_labels, sampled_vocabulary
from jax_prompt.prompts.methods import Method, direct
from jax_prompt.training.settings import PromptSettings, TrainSettings
from jax_prompt.types import Params

#: Settings that do not change a run's trajectory: they may differ when it is resumed.
_FREE_SETTINGS = ('steps', 'log_every', 'keep', 'patience', 'evaluation_batch_size', 'microbatches',
                  'compare')

#: Configuration whose effect stands in the identity already; paths in it may change.
_TOLD_OTHERWISE = ('train.', 'model.', 'mesh.', 'layers.', 'settings.', 'TASK', 'file_task.',
                   'registered_task.', 'rotten_tomatoes.', 'imdb.', 'layout.')


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """What is known before the first step.

    Attributes:
      model, task, prompt, settings: as given, the prompt's initializer chosen.
      method: how the prompt is parameterised.
      initial: what it starts from.
      examples, features: by split.
      test_split: the split that the best prompt is measured on.
      evaluator: measures prompts.
    """

    model: FrozenModel
    task: Any
    prompt: PromptSettings
    settings: TrainSettings
    method: Method
    initial: Params
    examples: Mapping[str, Examples]
    features: Mapping[str, Features]
    test_split: str
    evaluator: Evaluator


def set_up(model: FrozenModel, task: Any, prompt: PromptSettings,
           settings: TrainSettings) -> Setup:
    """Read the data and make the prompt to start from; raises before anything is written."""
    splits = ['train', 'validation'] + (['test'] if 'test' in task.splits else [])
    limits = {'validation': settings.evaluation_limit}
    examples = {split: load_examples(task, split, model.vocabulary, limits.get(split))
                for split in splits}
    features = {split: make_features(found, task, model, prompt.layout, prompt.rows)
                for split, found in examples.items()}
    # Evaluation is soon done: compiling it for as many lengths would take longer than it gains.
    evaluator = make_evaluator(
        model, task, settings.evaluate_by, settings.evaluation_batch_size,
        train_buckets(features['train'], settings, -(-settings.max_buckets // 2)),
        settings.packing or None)
    if prompt.initializer is None:
        words = task.label_words
        fits = words is not None and len(words) <= prompt.rows
        start = class_labels(words) if fits else sampled_vocabulary()
        prompt = dataclasses.replace(prompt, initializer=start)
    method = direct(prompt.initializer)
    context = InitContext(_whole(model.frozen['token_embedder']['embedding']), prompt.rows,
                          model.vocabulary.encode)
    initial = method.init(jax.random.key(settings.seed), context)
    return Setup(model, task, prompt, settings, method, initial, examples, features, splits[-1],
                  evaluator)


def train_buckets(features: Features, settings: TrainSettings,
                  count: int) -> tuple[int, ...] | None:
    """Choose so many padded lengths by the training split; None for a single one."""
    if not count:
        return None
    return choose_buckets(features.lengths, count, settings.bucket_multiple,
                          settings.batch_size)


def run_identity(setup: Setup, optimizer: optax.GradientTransformation,
                 configuration: Mapping[str, str]) -> dict[str, Any]:
    """Return what decides the run's trajectory, ready for JSON."""
    settings = {name: value for name, value in dataclasses.asdict(setup.settings).items()
                if name not in _FREE_SETTINGS}
    t5 = setup.model.model
    return {
        'model': {'fingerprint': setup.model.fingerprint,
                  'vocabulary': setup.model.vocabulary_fingerprint, 'dtype': str(t5.dtype),
                  'scan_layers': t5.scan_layers, 'remat': t5.remat,
                  'attention': t5.attention,
                  'weights': sorted({str(leaf.dtype) for leaf in
                                     jax.tree.leaves(setup.model.frozen)})},
        'task': setup.task.to_dict(),
        'examples': {split: found.digest for split, found in setup.examples.items()},
        'prompt': {'rows': setup.prompt.rows, 'layout': setup.prompt.layout.to_dict(),
                   'method': setup.method.name,
                   'initializer': constructor_name(setup.prompt.initializer),
                   'start': _digest(setup.initial)},
        'optimizer': _trial(optimizer),
        'settings': settings,
        'configuration': {name: value for name, value in configuration.items()
                          if not name.startswith(_TOLD_OTHERWISE)},
    }


def _whole(table_VD: jax.Array) -> jax.Array | np.ndarray:
    """Return the embedding table where this host can read all of it."""
    return table_VD if table_VD.is_fully_addressable else fetch(table_VD)


def _digest(tree: Any) -> str:
    """Tell a tree of arrays from any other, in hex."""
    digest = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _trial(optimizer: optax.GradientTransformation) -> list[str]:
    """Tell an optimizer from others by what it does: optax's transformations have no names."""
    params = jnp.linspace(0.5, 2.0, 6).reshape(2, 3)
    state, told = optimizer.init(params), []
    for gradient in (params - 1.0, 3.0 * params):
        updates, state = optimizer.update(gradient, state, params)
        told.append(f'{float(jnp.abs(updates).sum()):.5g}')
    return told


def constructor_name(function: Any) -> str:
    """Return the name of the constructor that a function came from."""
    name = getattr(function, '__qualname__', type(function).__name__)
    return name.split('.<locals>')[0].split('.')[-1]
