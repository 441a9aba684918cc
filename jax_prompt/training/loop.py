"""The training loop: step, log, evaluate, keep the best, save, and resume to the same numbers."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jax_prompt.checkpoints.train_state import TrainStateStore
from jax_prompt.data.batches import train_batches
from jax_prompt.data.features import Features
from jax_prompt.training.progress import ProgressBar
from jax_prompt.training.reporting import MetricsLog
from jax_prompt.training.settings import TrainSettings
from jax_prompt.training.step import TrainStep
from jax_prompt.types import Params, TrainState


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run knows beside its training state; saved with every checkpoint.

    Attributes:
      best: the main metric of the best prompt; None before the first evaluation.
      best_step: its step.
      waited: evaluations since.
      finished_at: the step at which the run ended; None while it runs.
      results: what `finish` returned, for a run that ended.
    """

    best: float | None = None
    best_step: int = 0
    waited: int = 0
    finished_at: int | None = None
    results: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Loop:
    """Everything that a run consists of, put together by `run.train`.

    Attributes:
      settings: how to train.
      frozen: the frozen weights.
      step: the compiled update.
      features: the training split.
      buckets: padded lengths of the batches; None for one length.
      evaluate: state -> metrics on the validation split.
      main_metric: the one that chooses the best prompt.
      keep_best: (state, step, metrics) -> None; called before the checkpoint is saved.
      finish: () -> results; called once, when training has ended and the best prompt is known.
    """

    settings: TrainSettings
    frozen: Params
    step: TrainStep
    features: Features
    buckets: tuple[int, ...] | None
    evaluate: Callable[[TrainState], dict[str, float]]
    main_metric: str
    keep_best: Callable[[TrainState, int, Mapping[str, float]], None]
    finish: Callable[[Progress], dict[str, Any]]


def run_loop(loop: Loop, state: TrainState, store: TrainStateStore,
             open_log: Callable[[int | None], MetricsLog], quiet: bool = False) -> Progress:
    """Train from the newest checkpoint, or from the start, to the end.

    A run that was killed at any moment and started again ends with the same numbers, bit for bit,
    as one that was not: batches and dropout are functions of (seed, step), and whatever is written
    between two checkpoints is written again.

    Args:
      loop: the run.
      state: the state before the first update; donated.
      store: the run's checkpoints.
      open_log: the step resumed from, or None -> the log of metrics.
      quiet: show no progress.

    Returns:
      The progress at the end.

    Raises:
      ValueError: when the loss stops being finite. Everything up to the last checkpoint is kept.
    """
    settings = loop.settings
    restored = store.restore_latest(state)
    progress = Progress()
    if restored is not None:
        state, host_state = restored
        progress = Progress(**host_state)
    start = int(state.step)
    if progress.finished_at is not None and _is_over(progress, start, settings):
        return progress
    progress = dataclasses.replace(progress, finished_at=None, results={})
    with open_log(None if restored is None else start) as log, \
            ProgressBar(settings.steps, start, quiet) as bar:
        if restored is None:
            state, progress = _evaluate(loop, state, progress, store, log, bar)
        else:
            bar.say(f'resuming from step {start}')
        return _train(loop, state, progress, store, log, bar)


def _train(loop: Loop, state: TrainState, progress: Progress, store: TrainStateStore,
           log: MetricsLog, bar: ProgressBar) -> Progress:
    """Run the steps that are left."""
    settings = loop.settings
    step = start = int(state.step)
    pending: list[dict[str, jax.Array]] = []
    batches = train_batches(loop.features, settings.batch_size, settings.seed, loop.buckets, start)
    while not _is_over(progress, step, settings):
        state, metrics = loop.step(state, loop.frozen, next(batches))
        pending.append(metrics)
        step += 1
        evaluating = step % settings.evaluate_every == 0 or step == settings.steps
        if evaluating or step % settings.log_every == 0:
            numbers = _report(pending, step, log)
            bar.update(step, len(pending) * settings.batch_size, **numbers)
            pending = []
        if evaluating:
            state, progress = _evaluate(loop, state, progress, store, log, bar)
    return progress


def _is_over(progress: Progress, step: int, settings: TrainSettings) -> bool:
    """Say whether no step is left, or patience has run out."""
    out_of_patience = settings.patience is not None and progress.waited >= settings.patience
    return step >= settings.steps or out_of_patience


def _report(pending: list[dict[str, jax.Array]], step: int, log: MetricsLog) -> dict[str, float]:
    """Log the mean of the last steps' metrics; stop on numbers that are not finite."""
    rows = jax.device_get(pending)
    for number, row in enumerate(rows, start=step - len(rows) + 1):
        if not all(math.isfinite(row[name]) for name in ('loss', 'grad_norm')):
            raise ValueError(
                f"the loss is {row['loss']} and its gradient's norm {row['grad_norm']} at step "
                f'{number}; expected finite numbers. The run keeps its last checkpoint and '
                'best prompt; lower the learning rate, or use float32 or bfloat16 weights')
    total = {name: float(np.sum([row[name] for row in rows], dtype=np.float64)) for name in rows[0]}
    tokens = max(total['tokens'], 1.0)
    numbers = {'loss': total['loss'] / tokens, 'accuracy': total['correct'] / tokens}
    log.write(step, 'train', {
        'loss': numbers['loss'], 'token_accuracy': numbers['accuracy'],
        'z_loss': total['z_loss'] / tokens, 'grad_norm': total['grad_norm'] / len(rows)})
    return numbers


def _evaluate(loop: Loop, state: TrainState, progress: Progress, store: TrainStateStore,
              log: MetricsLog, bar: ProgressBar) -> tuple[TrainState, Progress]:
    """Evaluate, keep the prompt if it is the best yet, and save a checkpoint."""
    step = int(state.step)
    with bar.aside('evaluating'):
        metrics = loop.evaluate(state)
    log.write(step, 'validation', metrics)
    value = metrics[loop.main_metric]
    if progress.best is None or value > progress.best:
        loop.keep_best(state, step, metrics)
        progress = Progress(best=value, best_step=step)
    else:
        progress = dataclasses.replace(progress, waited=progress.waited + 1)
    told = ', '.join(f'{name} {number:.4f}' for name, number in metrics.items())
    bar.say(f'step {step}: validation {told}; best {progress.best:.4f} at step '
            f'{progress.best_step}')
    if _is_over(progress, step, loop.settings):
        with bar.aside('evaluating on the test split'):
            results = loop.finish(progress)
        for split, values in results.items():
            log.write(step, split, values)
        progress = dataclasses.replace(progress, finished_at=step, results=results)
    log.flush()
    store.save(state, dataclasses.asdict(progress))
    return state, progress
