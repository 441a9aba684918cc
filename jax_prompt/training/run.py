"""Train a prompt: put a run together, run it, and leave its folder complete."""

import dataclasses
import functools
import pathlib
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jax_prompt.data.batches import train_batches
from jax_prompt.data.features import Features
from jax_prompt.data.packing import choose_packing, packed_train_batches
from jax_prompt.evaluation.evaluator import make_features
from jax_prompt.models.open import FrozenModel
from jax_prompt.parallel.hosts import from_first, is_first
from jax_prompt.parallel.mesh import DATA
from jax_prompt.parallel.placement import host_rows
from jax_prompt.prompts.file import PromptFile, PromptMetadata, load_prompt
from jax_prompt.training import optimizers
from jax_prompt.training.card import Card, write_card
from jax_prompt.training.curves import draw_curves
from jax_prompt.training.first_host import StateKeeper, load_from_first, open_metrics
from jax_prompt.training.loop import Loop, Progress, run_loop
from jax_prompt.training.run_folder import (
    CARD_FILE,
    CURVES_FILE,
    GIN_FILE,
    RunFolder,
    check_same,
    claim,
)
from jax_prompt.training.settings import PromptSettings, TrainSettings
from jax_prompt.training.setup import (
    Setup,
    constructor_name,
    run_identity,
    set_up,
    train_buckets,
)
from jax_prompt.training.step import init_state, make_train_step
from jax_prompt.types import Batch, TrainState

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
    setup = set_up(model, task, prompt or PromptSettings(), settings or TrainSettings())
    optimizer = optimizer or optimizers.adafactor()
    configuration = dict(configuration or {})
    folder = _claim(output, run_identity(setup, optimizer, configuration), configuration)
    loop = _loop(setup, optimizer, folder)
    store = StateKeeper(folder.checkpoints, setup.settings.keep)
    state = init_state(jax.tree.map(jnp.copy, setup.initial), optimizer)
    try:
        progress = run_loop(loop, state, store, functools.partial(open_metrics, folder.path),
                            quiet or not is_first())
    finally:
        store.close()
    _best_prompt(folder, setup)
    outcome = _outcome(setup, folder, progress)
    if is_first():
        draw_curves(folder.metrics, folder.path / CURVES_FILE)
        write_card(folder.path / CARD_FILE, _card(setup, outcome, configuration, progress))
    return outcome


def _claim(output: str, identity: dict[str, Any], configuration: Mapping[str, str]) -> RunFolder:
    """Take the run's folder on the first host, and see that all hosts mean the same run."""

    def take() -> dict[str, Any]:
        folder = claim(output, identity)
        if configuration:
            lines = [f'{name} = {value}' for name, value in sorted(configuration.items())]
            folder.write_text(GIN_FILE, '\n'.join(lines) + '\n')
        return identity

    check_same(identity, from_first(take), 'the first host')
    return RunFolder(pathlib.Path(output))


def _loop(setup: Setup, optimizer: optax.GradientTransformation, folder: RunFolder) -> Loop:
    """Bind the pieces of the loop to this run."""
    settings, evaluator = setup.settings, setup.evaluator
    model = dataclasses.replace(setup.model.model, dropout_rate=settings.dropout_rate)
    fold = jax.jit(setup.method.fold)

    def keep_best(state: TrainState, step: int, metrics: Mapping[str, float]) -> None:
        file = _prompt_file(setup, fold(state.params), step, metrics)
        if is_first():
            folder.save_prompt(file)

    def finish() -> dict[str, dict[str, float]]:
        return _final_results(setup, _best_prompt(folder, setup))

    return Loop(
        settings=settings, frozen=setup.model.frozen, mesh=setup.model.mesh,
        step=make_train_step(model, setup.method, optimizer, settings.z_loss, settings.reduction,
                             settings.seed, settings.microbatches, setup.model.mesh),
        batches=functools.partial(_batches, setup.features['train'], settings, setup.model.mesh),
        evaluate=lambda state: evaluator(fold(state.params), setup.features['validation']),
        main_metric=evaluator.main_metric, keep_best=keep_best, finish=finish,
        is_finite=lambda state: bool(np.isfinite(fold(state.params)).all()),
        test_split=setup.test_split)


def _batches(features: Features, settings: TrainSettings, mesh: Mesh,
             start_step: int) -> Iterator[Batch]:
    """Yield this host's rows of the training batches from a step on."""
    if settings.packing:
        share = mesh.shape[DATA] * settings.microbatches
        packing = choose_packing(features, settings.batch_size, row_multiple=share,
                                 multiple=settings.bucket_multiple)
        return packed_train_batches(features, settings.batch_size, settings.seed, packing,
                                    start_step, host_rows(mesh, packing.rows))
    return train_batches(features, settings.batch_size, settings.seed,
                         train_buckets(features, settings, settings.max_buckets), start_step,
                         host_rows(mesh, settings.batch_size))


def _best_prompt(folder: RunFolder, setup: Setup) -> np.ndarray:
    """Read the best prompt back; a run that lost its file cannot end as it would have."""

    def read() -> tuple[None, np.ndarray]:
        if not folder.prompt.is_file():
            raise ValueError(f'{folder.prompt} is gone, which held the best prompt of this run; '
                             'put it back, or remove the folder to train afresh')
        return None, load_prompt(folder.prompt).prompt_PD

    shape = (setup.prompt.rows, setup.model.model.config.d_model)
    return load_from_first(read, np.zeros(shape, np.float32))[1]


def _prompt_file(setup: Setup, prompt_PD: jax.Array, step: int,
                 metrics: Mapping[str, float]) -> PromptFile:
    """Say what a folded prompt belongs to."""
    metadata = PromptMetadata(
        base_model=setup.model.name, base_model_fingerprint=setup.model.fingerprint,
        vocabulary_fingerprint=setup.model.vocabulary_fingerprint, task=setup.task.to_dict(),
        layout=setup.prompt.layout, method=setup.method.name, step=step, metrics=metrics,
        seed=setup.settings.seed)
    return PromptFile(np.asarray(prompt_PD, np.float32), metadata)


def _final_results(setup: Setup, best_PD: np.ndarray) -> dict[str, dict]:
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


def _outcome(setup: Setup, folder: RunFolder, progress: Progress) -> Outcome:
    return Outcome(
        folder=folder, results=progress.results, split=setup.test_split,
        best_step=progress.best_step,
        prompt_bytes=from_first(lambda: folder.prompt.stat().st_size),
        model_bytes=setup.model.num_bytes,
        trained_numbers=sum(leaf.size for leaf in jax.tree.leaves(setup.initial)))


def _card(setup: Setup, outcome: Outcome, configuration: Mapping[str, str],
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
        method=setup.method.name, initializer=constructor_name(setup.prompt.initializer),
        optimizer='; '.join(chosen) or 'as given in Python', task=setup.task.name,
        inputs_template=setup.task.to_dict().get('inputs_template', 'as the seqio task makes them'),
        verbalizer=labels if isinstance(labels, Mapping) else (
            None if labels is None else {word: word for word in labels}),
        examples={split: len(found) for split, found in setup.examples.items()},
        seed=setup.settings.seed, steps=progress.finished_at, best_step=outcome.best_step,
        metrics=metrics, settings={name: value for name, value in
                                   dataclasses.asdict(setup.settings).items()
                                   if name not in ('seed', 'steps', 'compare')},
        command=_use(setup.model, outcome.folder.prompt),
        notes=getattr(setup.task, 'notes', ()))


def _use(model: FrozenModel, prompt: pathlib.Path) -> str:
    """Return the command that uses the prompt, as a shell reads it."""
    words = ['jax-prompt', 'predict', f'--model={model.source}', f'--prompt={prompt}']
    if model.vocabulary_source is not None:
        words.insert(3, f'--gin.model.vocabulary={model.vocabulary_source}')
    return f'{shlex.join(words)} < texts.txt'
