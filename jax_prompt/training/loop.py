"""The training loop: step, log, evaluate, keep the best, save, and resume to the same numbers."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np

from jax_prompt.parallel.hosts import stop_requests
from jax_prompt.parallel.placement import global_batch, place
from jax_prompt.parallel.rules import state_shardings
from jax_prompt.progress import ProgressBar
from jax_prompt.training.first_host import StateKeeper
from jax_prompt.training.reporting import HEADING_END, MetricsLog
from jax_prompt.training.settings import TrainSettings
from jax_prompt.training.step import TrainStep
from jax_prompt.types import Batch, Params, TrainState

_KEPT = ('The run keeps its last checkpoint and best prompt; lower the learning rate, and see that '
         'the weights are float32 or bfloat16')


class Stopped(RuntimeError):
    """The run was told to stop (SIGTERM) and has saved everything; the same command resumes it."""

    #: By which a shell knows a program that SIGTERM ended; clusters start such a job again.
    exit_code = 143


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run knows beside its training state; saved with every checkpoint.

    Attributes:
      best: the main metric of the best prompt; None before the first evaluation.
      best_step: its step.
      waited: evaluations since.
      finished_at: the step at which the run ended; None while it runs.
      results: what `finish` returned, for a run that ended.
      compared: whether those are with the comparisons that `settings.compare` asks for.
      unreported: metrics of the last steps that stand in no line of the log yet, a dict a step;
        only in the checkpoint of a run that was told to stop.
    """

    best: float | None = None
    best_step: int = 0
    waited: int = 0
    finished_at: int | None = None
    results: dict[str, Any] = dataclasses.field(default_factory=dict)
    compared: bool = False
    unreported: list[dict[str, float]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Loop:
    """Everything that a run consists of, put together by `run.train`.

    Attributes:
      settings: how to train.
      frozen: the frozen weights.
      mesh: where they live.
      step: the compiled update.
      batches: first step -> batches of the training split from there on, this host's rows.
      evaluate: state -> metrics on the validation split.
      main_metric: the one that chooses the best prompt.
      is_finite: state -> whether all of its prompt is finite.
      keep_best: (state, step, metrics) -> None; called before the checkpoint is saved.
      finish: () -> heading -> metrics; called when training has ended and the best prompt is known.
      test_split: the split that `finish` measures on.
    """

    settings: TrainSettings
    frozen: Params
    mesh: jax.sharding.Mesh
    step: TrainStep
    batches: Callable[[int], Iterator[Batch]]
    evaluate: Callable[[TrainState], dict[str, float]]
    main_metric: str
    is_finite: Callable[[TrainState], bool]
    keep_best: Callable[[TrainState, int, Mapping[str, float]], None]
    finish: Callable[[], dict[str, dict[str, float]]]
    test_split: str


def run_loop(loop: Loop, state: TrainState, store: StateKeeper,
             open_log: Callable[[int | None], MetricsLog], quiet: bool = False) -> Progress:
    """Train from the newest checkpoint, or from the start, to the end.

    A run that was killed at any moment and started again ends with the same numbers, bit for bit,
    as one that was not: batches and dropout are functions of (seed, step), and whatever is written
    between two checkpoints is written again.

    Args:
      loop: the run.
      state: the state before the first update; donated.
      store: keeps the run's checkpoints.
      open_log: the step resumed from, or None -> the log of metrics.
      quiet: show no progress.

    Returns:
      The progress at the end.

    Raises:
      ValueError: when the loss stops being finite. Everything up to the last checkpoint is kept.
      Stopped: after SIGTERM, with a checkpoint of the last step.
    """
    settings = loop.settings
    shardings = state_shardings(loop.mesh, state)
    restored = store.restore_latest(state)
    progress = Progress()
    if restored is not None:
        state, host_state = restored
        progress = Progress(**host_state)
    state = place(state, shardings)
    start = int(state.step)
    over = restored is not None and _is_over(progress, start, settings)
    if over and progress.finished_at is not None and progress.compared == settings.compare:
        return progress
    # Results belong to the end of a run; one that goes on will have others.
    progress = dataclasses.replace(progress, finished_at=None, results={})
    with stop_requests() as stop_wanted, \
            open_log(None if restored is None else start) as log, \
            ProgressBar(settings.steps, start, quiet) as bar:
        if restored is None:
            state, progress = _evaluate(loop, state, progress, store, log, bar)
        elif over:
            progress = _finish(loop, progress, start, log, bar)
            store.save(state, dataclasses.asdict(progress))
        else:
            bar.say(f'resuming from step {start}')
        return _train(loop, state, progress, store, log, bar, stop_wanted)


def _train(loop: Loop, state: TrainState, progress: Progress, store: StateKeeper,
           log: MetricsLog, bar: ProgressBar, stop_wanted: Callable[[int], bool]) -> Progress:
    """Run the steps that are left."""
    settings = loop.settings
    step = start = int(state.step)
    pending: list[dict[str, Any]] = list(progress.unreported)
    progress = dataclasses.replace(progress, unreported=[])
    batches = loop.batches(start)
    while not _is_over(progress, step, settings):
        state, metrics = loop.step(state, loop.frozen, global_batch(next(batches), loop.mesh))
        pending.append(metrics)
        step += 1
        evaluating = step % settings.evaluate_every == 0 or step == settings.steps
        if evaluating or step % settings.log_every == 0:
            numbers = _report(pending, step, log)
            bar.update(step, len(pending) * settings.batch_size, **numbers)
            pending = []
        if evaluating:
            state, progress = _evaluate(loop, state, progress, store, log, bar)
        if stop_wanted(step) and not _is_over(progress, step, settings):
            _stop(state, progress, pending, store, log)
    return progress


def _stop(state: TrainState, progress: Progress, pending: list[dict[str, Any]], store: StateKeeper,
          log: MetricsLog) -> NoReturn:
    """Save everything, so that the resumed run writes the very lines that this one would have."""
    rows = [{name: float(value) for name, value in row.items()} for row in jax.device_get(pending)]
    log.flush()
    store.save(state, dataclasses.asdict(dataclasses.replace(progress, unreported=rows)))
    raise Stopped(f'told to stop; saved at step {int(state.step)}; start the same command again '
                  'to go on')


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
                f'{number}; expected finite numbers. {_KEPT}')
    total = {name: float(np.sum([row[name] for row in rows], dtype=np.float64)) for name in rows[0]}
    tokens = max(total['tokens'], 1.0)
    numbers = {'loss': total['loss'] / tokens, 'accuracy': total['correct'] / tokens}
    log.write(step, 'train', {
        'loss': numbers['loss'], 'token_accuracy': numbers['accuracy'],
        'z_loss': total['z_loss'] / tokens, 'grad_norm': total['grad_norm'] / len(rows)})
    return numbers


def _evaluate(loop: Loop, state: TrainState, progress: Progress, store: StateKeeper,
              log: MetricsLog, bar: ProgressBar) -> tuple[TrainState, Progress]:
    """Evaluate, keep the prompt if it is the best yet, and save a checkpoint."""
    step = int(state.step)
    if not loop.is_finite(state):
        raise ValueError(f'the prompt is not finite after step {step}; {_KEPT}')
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
        progress = _finish(loop, progress, step, log, bar)
    log.flush()
    store.save(state, dataclasses.asdict(progress))
    return state, progress


def _finish(loop: Loop, progress: Progress, step: int, log: MetricsLog,
            bar: ProgressBar) -> Progress:
    """Measure the best prompt, and what it is compared with, at the end of the run."""
    with bar.aside(f'evaluating on the {loop.test_split} split'):
        results = loop.finish()
    for heading, values in results.items():
        log.write(step, loop.test_split,
                  {f'{heading}{HEADING_END}{name}': value for name, value in values.items()})
    return dataclasses.replace(progress, finished_at=step, results=results,
                               compared=loop.settings.compare)
