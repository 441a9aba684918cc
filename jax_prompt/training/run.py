"""Train a prompt: put a run together, run it, and leave its folder complete."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_prompt.checkpoints.train_state import TrainStateStore
from jax_prompt.data.batches import choose_buckets
from jax_prompt.data.examples import Examples, load_examples
from jax_prompt.data.features import Features
from jax_prompt.prompts.file import PromptFile, PromptMetadata, load_prompt
from jax_prompt.prompts.initializers import InitContext, class_labels, sampled_vocabulary
from jax_prompt.prompts.methods import Method, direct
from jax_prompt.training import optimizers
from jax_prompt.training.card import Card, write_card
from jax_prompt.training.curves import draw_curves
from jax_prompt.training.evaluation import Evaluator, make_evaluator, make_features
from jax_prompt.training.frozen_model import FrozenModel
from jax_prompt.training.loop import Loop, Progress, run_loop
from jax_prompt.training.reporting import MetricsLog
from jax_prompt.training.run_folder import CARD_FILE, CURVES_FILE, GIN_FILE, RunFolder, claim
from jax_prompt.training.settings import PromptSettings, TrainSettings
from jax_prompt.training.step import init_state, make_train_step
from jax_prompt.types import Params, TrainState

#: Settings that do not change a run's trajectory: they may differ when it is resumed.
_FREE_SETTINGS = ('steps', 'log_every', 'keep', 'patience', 'evaluation_batch_size', 'compare')

#: Configuration whose effect stands in the identity already; paths in it may change.
_TOLD_OTHERWISE = ('train.', 'model.', 'settings.', 'TASK', 'file_task.', 'registered_task.',
                   'rotten_tomatoes.', 'imdb.', 'layout.')

NO_PROMPT = 'no prompt'
BEFORE = 'prompt before training'
AFTER = 'prompt after training'


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run ended with.

    Attributes:
      folder: of the run.
      results: heading (`AFTER`; with `settings.compare` also `NO_PROMPT` and `BEFORE`) -> metrics.
      split: the split that they were measured on.
      best_step: the step of the prompt that was kept.
      prompt_bytes, model_bytes: sizes of the prompt's file and of the frozen weights.
      trained_numbers: how many numbers were trained.
    """

    folder: RunFolder
    results: dict[str, dict[str, float]]
    split: str
    best_step: int
    prompt_bytes: int
    model_bytes: int
    trained_numbers: int


@dataclasses.dataclass(frozen=True, eq=False)
class _Setup:
    """What is known before the first step."""

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


def train(model: FrozenModel, task: Any, output: str, prompt: PromptSettings | None = None,
          optimizer: optax.GradientTransformation | None = None,
          settings: TrainSettings | None = None, configuration: Mapping[str, str] | None = None,
          quiet: bool = False) -> Outcome:
    """Train a soft prompt for a frozen model on a task.

    The folder may hold the same run, killed at any moment: it is then resumed and ends with the
    same prompt, bit for bit. Nothing is written before model, data and settings are known good.

    Args:
      model: the frozen model.
      task: a `TextTask` or `RegisteredTask` with the splits train and validation; where it has
        test, the best prompt is measured on it at the end.
      output: the run's folder, see ARCHITECTURE for what stands in it.
      prompt: its rows, layout and start.
      optimizer: an optax transformation; None for `optimizers.adafactor()`.
      settings: how to train.
      configuration: name -> value of whatever else decides the run (the operative gin), to tell
        runs apart and for the card.
      quiet: show no progress.

    Returns:
      The outcome.

    Raises:
      ValueError, FileNotFoundError: in one line, for whatever cannot be trained on.
    """
    setup = _set_up(model, task, prompt or PromptSettings(), settings or TrainSettings())
    optimizer = optimizer or optimizers.adafactor()
    configuration = dict(configuration or {})
    folder = claim(output, _identity(setup, optimizer, configuration))
    if configuration:
        lines = [f'{name} = {value}' for name, value in sorted(configuration.items())]
        folder.write_text(GIN_FILE, '\n'.join(lines) + '\n')
    loop = _loop(setup, optimizer, folder)
    store = TrainStateStore(folder.checkpoints, setup.settings.keep)
    state = init_state(jax.tree.map(jnp.copy, setup.initial), optimizer)
    try:
        progress = run_loop(loop, state, store,
                            functools.partial(MetricsLog, folder.path), quiet)
    finally:
        store.close()
    _best_prompt(folder)
    draw_curves(folder.metrics, folder.path / CURVES_FILE)
    outcome = _outcome(setup, folder, progress)
    write_card(folder.path / CARD_FILE, _card(setup, outcome, configuration, progress))
    return outcome


def _set_up(model: FrozenModel, task: Any, prompt: PromptSettings,
            settings: TrainSettings) -> _Setup:
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
        _buckets(features['train'], settings, -(-settings.max_buckets // 2)))
    if prompt.initializer is None:
        words = task.label_words
        fits = words is not None and len(words) <= prompt.rows
        start = class_labels(words) if fits else sampled_vocabulary()
        prompt = dataclasses.replace(prompt, initializer=start)
    method = direct(prompt.initializer)
    context = InitContext(model.frozen['token_embedder']['embedding'], prompt.rows,
                          model.vocabulary.encode)
    initial = method.init(jax.random.key(settings.seed), context)
    return _Setup(model, task, prompt, settings, method, initial, examples, features, splits[-1],
                  evaluator)


def _buckets(features: Features, settings: TrainSettings, count: int) -> tuple[int, ...] | None:
    """Choose so many padded lengths by the training split; None for a single one."""
    if not count:
        return None
    return choose_buckets(features.lengths, count, settings.bucket_multiple, settings.batch_size)


def _identity(setup: _Setup, optimizer: optax.GradientTransformation,
              configuration: Mapping[str, str]) -> dict[str, Any]:
    """Return what decides the run's trajectory, ready for JSON."""
    settings = {name: value for name, value in dataclasses.asdict(setup.settings).items()
                if name not in _FREE_SETTINGS}
    t5 = setup.model.model
    return {
        'model': {'fingerprint': setup.model.fingerprint,
                  'vocabulary': setup.model.vocabulary_fingerprint, 'dtype': str(t5.dtype),
                  'scan_layers': t5.scan_layers, 'remat': t5.remat},
        'task': setup.task.to_dict(),
        'examples': {split: found.digest for split, found in setup.examples.items()},
        'prompt': {'rows': setup.prompt.rows, 'layout': setup.prompt.layout.to_dict(),
                   'method': setup.method.name, 'initializer': _name(setup.prompt.initializer),
                   'start': _digest(setup.initial)},
        'optimizer': _trial(optimizer),
        'settings': settings,
        'configuration': {name: value for name, value in configuration.items()
                          if not name.startswith(_TOLD_OTHERWISE)},
    }


def _loop(setup: _Setup, optimizer: optax.GradientTransformation, folder: RunFolder) -> Loop:
    """Bind the pieces of the loop to this run."""
    settings, evaluator = setup.settings, setup.evaluator
    model = dataclasses.replace(setup.model.model, dropout_rate=settings.dropout_rate)

    def keep_best(state: TrainState, step: int, metrics: Mapping[str, float]) -> None:
        folder.save_prompt(_prompt_file(setup, state, step, metrics))

    def finish() -> dict[str, dict[str, float]]:
        return _final_results(setup, _best_prompt(folder))

    return Loop(
        settings=settings, frozen=setup.model.frozen,
        step=make_train_step(model, setup.method, optimizer, settings.z_loss, settings.reduction,
                             settings.seed),
        features=setup.features['train'],
        buckets=_buckets(setup.features['train'], settings, settings.max_buckets),
        evaluate=lambda state: evaluator(setup.method.fold(state.params),
                                         setup.features['validation']),
        main_metric=evaluator.main_metric, keep_best=keep_best, finish=finish,
        is_finite=lambda state: bool(np.isfinite(setup.method.fold(state.params)).all()),
        test_split=setup.test_split)


def _best_prompt(folder: RunFolder) -> np.ndarray:
    """Read the best prompt back; a run that lost its file cannot end as it would have."""
    if not folder.prompt.is_file():
        raise ValueError(f'{folder.prompt} is gone, which held the best prompt of this run; put it '
                         'back, or remove the folder to train afresh')
    return load_prompt(folder.prompt).prompt_PD


def _prompt_file(setup: _Setup, state: TrainState, step: int,
                 metrics: Mapping[str, float]) -> PromptFile:
    """Fold the prompt and say what it belongs to."""
    metadata = PromptMetadata(
        base_model=setup.model.name, base_model_fingerprint=setup.model.fingerprint,
        vocabulary_fingerprint=setup.model.vocabulary_fingerprint, task=setup.task.to_dict(),
        layout=setup.prompt.layout, method=setup.method.name, step=step, metrics=metrics,
        seed=setup.settings.seed)
    return PromptFile(np.asarray(setup.method.fold(state.params), np.float32), metadata)


def _final_results(setup: _Setup, best_PD: np.ndarray) -> dict[str, dict]:
    """Measure the best prompt, and what it is compared with, on the test split."""
    features = setup.features[setup.test_split]
    evaluate = setup.evaluator
    results = {}
    if setup.settings.compare:
        plain = make_features(setup.examples[setup.test_split], setup.task, setup.model,
                              setup.prompt.layout, 0)
        none_PD = np.zeros((0, best_PD.shape[1]), np.float32)
        # Without the prompt's rows the inputs are shorter; so are the lengths they are padded to.
        shorter = evaluate.buckets and tuple(b - setup.prompt.rows for b in evaluate.buckets)
        results[NO_PROMPT] = dataclasses.replace(evaluate, buckets=shorter)(none_PD, plain)
        results[BEFORE] = evaluate(setup.method.fold(setup.initial), features)
    return results | {AFTER: evaluate(best_PD, features)}


def _outcome(setup: _Setup, folder: RunFolder, progress: Progress) -> Outcome:
    return Outcome(
        folder=folder, results=progress.results, split=setup.test_split,
        best_step=progress.best_step, prompt_bytes=folder.prompt.stat().st_size,
        model_bytes=setup.model.num_bytes,
        trained_numbers=sum(leaf.size for leaf in jax.tree.leaves(setup.initial)))


def _card(setup: _Setup, outcome: Outcome, configuration: Mapping[str, str],
          progress: Progress) -> Card:
    """Gather what the run's card tells."""
    best = load_prompt(outcome.folder.prompt).metadata
    chosen = [f'{name} = {value}' for name, value in sorted(configuration.items())
              if name.startswith(('adafactor.', 'adamw.', 'warmup_schedule.'))]
    metrics = {'validation': dict(best.metrics)} | {
        f'{outcome.split}, {heading}': values for heading, values in outcome.results.items()}
    labels = setup.task.to_dict().get('labels')
    return Card(
        model_name=setup.model.name, model_fingerprint=setup.model.fingerprint,
        model_bytes=outcome.model_bytes, model_parameters=setup.model.num_parameters,
        prompt_bytes=outcome.prompt_bytes, trained_numbers=outcome.trained_numbers,
        rows=setup.prompt.rows, layout=setup.prompt.layout.describe(setup.prompt.rows),
        method=setup.method.name, initializer=_name(setup.prompt.initializer),
        optimizer='; '.join(chosen) or 'as given in Python', task=setup.task.name,
        inputs_template=setup.task.to_dict().get('inputs_template', 'as the seqio task makes them'),
        verbalizer=labels if isinstance(labels, Mapping) else (
            None if labels is None else {word: word for word in labels}),
        examples={split: len(found) for split, found in setup.examples.items()},
        seed=setup.settings.seed, steps=progress.finished_at, best_step=outcome.best_step,
        metrics=metrics, settings={name: value for name, value in
                                   dataclasses.asdict(setup.settings).items()
                                   if name not in ('seed', 'steps', 'compare')},
        command=f'jax-prompt predict --model={setup.model.source} '
                f'--prompt={outcome.folder.prompt} < texts.txt')


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


def _name(function: Any) -> str:
    """Return the name of the constructor that a function came from."""
    name = getattr(function, '__qualname__', type(function).__name__)
    return name.split('.<locals>')[0].split('.')[-1]
