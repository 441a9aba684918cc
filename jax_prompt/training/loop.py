"""The training loop: step, log, evaluate, keep the best, save, and resume to the same numbers."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
import optax

from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.hosts import stop_requests
from jax_prompt.parallel.placement import global_batch, place
from jax_prompt.parallel.rules import replicated
from jax_prompt.progress import ProgressBar
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.training.problem import Problem
from jax_prompt.training.reporting import HEADING_END, MetricsLog
from jax_prompt.training.selection import merit, same_answer, told
from jax_prompt.training.settings import TrainSettings
from jax_prompt.training.state import TrainStateStore
from jax_prompt.training.step import init_state, make_train_step
from jax_prompt.types import Params, TrainState

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
      start: the validation's metrics before training; none before the first evaluation.
      best: those of the best prompt.
      best_step: its step.
      waited: evaluations since.
      pruned: whether `on_evaluation` ended the run.
      finished_at: the step at which the run ended; None while it runs.
      results: heading -> metrics of the end, for a run that ended.
      compared: whether those are with the comparisons that `settings.compare` asks for.
      unreported: metrics of the last steps that stand in no line of the log yet, a dict a step;
        only in the checkpoint of a run that was told to stop.
      logged: digest of the log up to the checkpoint.
    """

    start: dict[str, float] = dataclasses.field(default_factory=dict)
    best: dict[str, float] = dataclasses.field(default_factory=dict)
    best_step: int = 0
    waited: int = 0
    pruned: bool = False
    finished_at: int | None = None
    results: dict[str, Any] = dataclasses.field(default_factory=dict)
    compared: bool = False
    unreported: list[dict[str, float]] = dataclasses.field(default_factory=list)
    logged: str | None = None

    def is_over(self, step: int, settings: TrainSettings) -> bool:
        """Say whether no step is left, patience has run out, or somebody ended the run."""
        out_of_patience = settings.patience is not None and self.waited >= settings.patience
        return step >= settings.steps or out_of_patience or self.pruned


class _Checkpoint(NamedTuple):
    """The arrays that a run goes on with: a killed one needs no file of its folder but this."""

    state: TrainState
    best: Prompt

    @property
    def step(self) -> jax.Array:
        """int32[], optimizer updates made so far."""
        return self.state.step


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What is trained, on what, and how.

    Attributes:
      opened: the frozen model.
      problem: what is learned.
      method: how what is trained is parameterised.
      initial, constants: what the method starts from, and what it needs besides.
      optimizer: an optax transformation.
      settings: how to train.
      keep_best: (prompt, step, metrics) -> None; is told of each best prompt, before a checkpoint,
        and again when a run is resumed.
      measure: best prompt -> heading -> metrics on the test split.
      on_evaluation: (step, metrics) -> whether to go on.
    """

    opened: OpenedModel
    problem: Problem
    method: Method
    initial: Params
    constants: Params
    optimizer: optax.GradientTransformation
    settings: TrainSettings
    keep_best: Callable[[Prompt, int, Mapping[str, float]], None]
    measure: Callable[[Prompt], dict[str, dict[str, float]]]
    on_evaluation: Callable[[int, Mapping[str, float]], bool]


def fit(run: Run, store: TrainStateStore,
        open_log: Callable[..., MetricsLog], quiet: bool = False) -> Progress:
    """Train from the newest checkpoint, or from the start, to the end.

    A run that was killed at any moment and started again ends with the same numbers, bit for bit,
    as one that was not: batches and dropout are functions of (seed, step), and whatever is written
    between two checkpoints is written again.

    Args:
      run: what to train.
      store: keeps the run's checkpoints.
      open_log: the step resumed from, or None, the log's digest then, and whether to write events
        -> the log of metrics.
      quiet: show no progress.

    Returns:
      The progress at the end.

    Raises:
      ValueError: when the loss stops being finite (everything up to the last checkpoint is kept),
        or what the run would go on with is not its own.
      Stopped: after SIGTERM, with a checkpoint of the last step.
    """
    settings, mesh = run.settings, run.opened.mesh
    state = init_state(jax.tree.map(jax.numpy.copy, run.initial), run.optimizer, settings)
    best, progress = run.method.apply(run.initial, run.constants).prompt, Progress()
    restored = store.restore_latest(_Checkpoint(state, best))
    if restored is not None:
        (state, best), progress = restored[0], Progress(**restored[1])
        run.keep_best(best, progress.best_step, progress.best)
    state, at = place(state, replicated(mesh)), int(state.step)
    run = dataclasses.replace(run, constants=place(run.constants, replicated(mesh)))
    over = progress.is_over(at, settings)
    ended = over and progress.finished_at is not None and progress.compared == settings.compare
    log = open_log(None if restored is None else at, progress.logged, tensorboard=not ended)
    with stop_requests() as stop_wanted, log, ProgressBar(settings.steps, at, quiet) as bar:
        if ended:
            _log_results(log, at, run, progress.results)
            return progress
        # Results belong to the end of a run; one that goes on will have others.
        progress = dataclasses.replace(progress, finished_at=None, results={})
        evaluation = _Evaluation(run, store, log, bar, best)
        if restored is None:
            progress = evaluation.of(state, at, progress)
        elif over:
            progress = evaluation.finish(at, progress)
            evaluation.save(state, progress)
        else:
            bar.say(f'resuming from step {at}')
        step = make_train_step(
            run.opened.model.with_dropout(settings.dropout_rate), run.method, run.optimizer,
            settings, mesh)
        batches, pending = run.problem.batches(settings, mesh, at), list(progress.unreported)
        progress = dataclasses.replace(progress, unreported=[])
        while not progress.is_over(at, settings):
            batch = global_batch(next(batches), mesh)
            state, metrics = step(state, run.opened.frozen, batch, run.constants)
            pending.append(metrics)
            at += 1
            evaluating = at % settings.evaluate_every == 0 or at == settings.steps
            if evaluating or at % settings.log_every == 0:
                bar.update(at, len(pending) * settings.batch_size, **_report(pending, at, log))
                pending = []
            if evaluating:
                progress = evaluation.of(state, at, progress)
            if stop_wanted(at) and not progress.is_over(at, settings):
                _stop(state, progress, pending, evaluation)
        return progress


def _report(pending: list[dict[str, jax.Array]], at: int, log: MetricsLog) -> dict[str, float]:
    """Log the mean of the last steps' metrics; stop on numbers that are not finite."""
    rows = jax.device_get(pending)
    for number, row in enumerate(rows, start=at - len(rows) + 1):
        if not all(math.isfinite(row[name]) for name in ('loss', 'grad_norm')):
            raise ValueError(
                f"the loss is {row['loss']} and its gradient's norm {row['grad_norm']} at step "
                f'{number}; expected finite numbers. {_KEPT}')
    total = {name: float(np.sum([row[name] for row in rows], dtype=np.float64)) for name in rows[0]}
    tokens = max(total['tokens'], 1.0)
    numbers = {'loss': total['loss'] / tokens, 'accuracy': total['correct'] / tokens}
    log.write(at, 'train', {
        'loss': numbers['loss'], 'token_accuracy': numbers['accuracy'],
        'z_loss': total['z_loss'] / tokens, 'grad_norm': total['grad_norm'] / len(rows)})
    return numbers


def _log_results(log: MetricsLog, at: int, run: Run, results: Mapping[str, Any]) -> None:
    """Log what was measured at the end of a run."""
    for heading, values in results.items():
        log.write(at, run.problem.test_split, {f'{heading}{HEADING_END}{name}': value
                                               for name, value in values.items()})


def _stop(state: TrainState, progress: Progress, pending: list[dict[str, Any]],
          evaluation: '_Evaluation') -> NoReturn:
    """Save everything, so that the resumed run writes the very lines that this one would have."""
    rows = [{name: float(value) for name, value in row.items()} for row in jax.device_get(pending)]
    evaluation.save(state, dataclasses.replace(progress, unreported=rows))
    raise Stopped(f'told to stop; saved at step {int(state.step)}; start the same command again '
                  'to go on')


class _Evaluation:
    """Measure what is tuned so far, keep the best, and save."""

    def __init__(self, run: Run, store: TrainStateStore, log: MetricsLog, bar: ProgressBar,
                 best: Prompt):
        self._run, self._store, self._log, self._bar, self._best = run, store, log, bar, best
        self._apply = jax.jit(run.method.apply)

    def of(self, state: TrainState, at: int, progress: Progress) -> Progress:
        """Evaluate, keep the prompt if it is the best yet, and save a checkpoint."""
        run, bar = self._run, self._bar
        prompt = self._apply(state.evaluated, run.constants).prompt
        if not np.isfinite(prompt.rows).all():
            raise ValueError(f'the prompt is not finite after step {at}; {_KEPT}')
        with bar.aside('evaluating'):
            metrics = run.problem.evaluate(prompt, 'validation')
        self._log.write(at, 'validation', metrics)
        choose_by = run.problem.choose_by
        if not progress.best:
            bar.say(f"validation: {same_answer(run.problem.most_common['validation'])}")
        if not progress.best or merit(metrics, choose_by) > merit(progress.best, choose_by):
            self._best = prompt
            run.keep_best(prompt, at, metrics)
            progress = Progress(progress.start or metrics, metrics, at)
        else:
            progress = dataclasses.replace(progress, waited=progress.waited + 1)
        bar.say(f'step {at}: validation {told(metrics)}; best {choose_by} '
                f'{progress.best[choose_by]:.4f} at step {progress.best_step}')
        if not run.on_evaluation(at, metrics):
            progress = dataclasses.replace(progress, pruned=True)
        if progress.is_over(at, run.settings):
            progress = self.finish(at, progress)
        self.save(state, progress)
        return progress

    def save(self, state: TrainState, progress: Progress) -> None:
        """Save a checkpoint, when the log's lines up to it are on disk."""
        self._log.flush()
        progress = dataclasses.replace(progress, logged=self._log.digest)
        self._store.save(_Checkpoint(state, self._best), dataclasses.asdict(progress))

    def finish(self, at: int, progress: Progress) -> Progress:
        """Measure the best prompt, and what it is compared with, at the end of the run."""
        with self._bar.aside(f'evaluating on the {self._run.problem.test_split} split'):
            results = self._run.measure(self._best)
        _log_results(self._log, at, self._run, results)
        return dataclasses.replace(progress, finished_at=at, results=results,
                                   compared=self._run.settings.compare)
