"""The training loop: step, log, evaluate, keep the best, save, and resume to the same numbers."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
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
from jax_prompt.prompts.prompt import Prompt, Tuned, join_prompts, split_prompt
from jax_prompt.training.joint import for_each_task
from jax_prompt.training.problem import Problem, file_name, training_batches
from jax_prompt.training.programs import method_key, shared, train_step_of
from jax_prompt.training.progress import Kept, Progress
from jax_prompt.training.reporting import HEADING_END, MetricsLog
from jax_prompt.training.selection import merit, same_answer, told
from jax_prompt.training.settings import TrainSettings
from jax_prompt.training.state import TrainStateStore
from jax_prompt.training.tuned_weights import begin, place_tuned
from jax_prompt.types import Params, TrainState

_KEPT = ('The run keeps its last checkpoint and best prompt; lower the learning rate, and see that '
         'the weights are float32 or bfloat16')


class Stopped(RuntimeError):
    """The run was told to stop (SIGTERM) and has saved everything; the same command resumes it."""

    #: By which a shell knows a program that SIGTERM ended; clusters start such a job again.
    exit_code = 143


class _Checkpoint(NamedTuple):
    """The arrays that a run goes on with: a killed one needs no file of its folder but this."""

    state: TrainState
    best: Prompt  # of all tasks, one after the other
    weights: Params  # the best tuned ones; {} where none are trained

    @property
    def step(self) -> jax.Array:
        """int32[], optimizer updates made so far."""
        return self.state.step


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What is trained, on what, and how.

    Attributes:
      opened: the frozen model.
      problems: what is learned, a prompt each.
      method: how what is trained is parameterised, for all problems (`joint.for_tasks`).
      initial, constants: what the method starts from, and what it needs besides.
      optimizer: an optax transformation of one problem.
      settings: how to train.
      keep_best: (problem, what is tuned, what is kept) -> None; is told of each best one, before a
        checkpoint, and again when a run is resumed.
      measure: what is tuned best for each problem -> its name -> heading -> metrics on the test
        split.
      on_evaluation: (step, metrics) -> whether to go on; of several problems the names of the
        metrics begin with theirs and a slash.
      keep_shared: (parameters, step) -> None; is told at each evaluation what several problems
        share, where their method shares something.
    """

    opened: OpenedModel
    problems: tuple[Problem, ...]
    method: Method
    initial: Params
    constants: Params
    optimizer: optax.GradientTransformation
    settings: TrainSettings
    keep_best: Callable[[Problem, Tuned, Kept], None]
    measure: Callable[[Sequence[Tuned]], dict[str, dict[str, dict[str, float]]]]
    on_evaluation: Callable[[int, Mapping[str, float]], bool]
    keep_shared: Callable[[Params, int], None]

    def tuned(self, params: Params) -> list[Tuned]:
        """Return what is tuned for each problem."""
        return self.split(self.method.apply(params, self.constants))

    def split(self, tuned: Tuned) -> list[Tuned]:
        """Return each problem's own of what is tuned; there are weights for a single one alone."""
        return _split(tuned, len(self.problems))


def _split(tuned: Tuned, count: int) -> list[Tuned]:
    return [Tuned(prompt, tuned.weights) for prompt in split_prompt(tuned.prompt, count)]


def fit(run: Run, store: TrainStateStore,
        open_log: Callable[..., MetricsLog],
        quiet: bool = False) -> tuple[Progress, list[Tuned]]:
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
      The progress at the end, and what is tuned best for each problem.

    Raises:
      ValueError: when the loss stops being finite (everything up to the last checkpoint is kept),
        or what the run would go on with is not its own.
      Stopped: after SIGTERM, with a checkpoint of the last step.
    """
    settings, mesh = run.settings, run.opened.mesh
    optimizer = for_each_task(run.optimizer, run.method)
    state, living = begin(run.opened, run.initial, optimizer, settings)
    best, progress = run.tuned(run.initial), Progress((Kept(),) * len(run.problems))
    restored = store.restore_latest(_Checkpoint(state, *_joined(best)))
    if restored is not None:
        (state, *kept_best), progress = restored[0], Progress.from_record(restored[1])
        state = place(state, living)
        best = run.split(place_tuned(run.opened, Tuned(*kept_best)))
        for problem, tuned, kept in zip(run.problems, best, progress.tasks, strict=True):
            run.keep_best(problem, tuned, kept)
    at = int(state.step)
    run = dataclasses.replace(run, constants=place(run.constants, replicated(mesh)))
    over = progress.is_over(at, settings)
    ended = (over and progress.finished_at is not None and progress.compared == settings.compare
             and bool(progress.results or not settings.measure))
    log = open_log(None if restored is None else at, progress.logged, tensorboard=not ended)
    with stop_requests() as stop_wanted, log, ProgressBar(settings.steps, at, quiet) as bar:
        if ended:
            _log_results(log, at, run, progress.results)
            return progress, best
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
        step = train_step_of(run.opened, run.method, optimizer, settings, living)
        batches = training_batches(run.opened, run.problems, settings, at)
        pending = [{name: np.asarray(value) for name, value in row.items()}
                   for row in progress.unreported]
        progress = dataclasses.replace(progress, unreported=[])
        while not progress.is_over(at, settings):
            batch = global_batch(next(batches), mesh)
            state, metrics = step(state, run.opened.frozen, batch, run.constants)
            pending.append(metrics)
            at += 1
            evaluating = at % settings.evaluate_every == 0 or at == settings.steps
            if evaluating or at % settings.log_every == 0:
                numbers = _report(pending, at, log, run.problems)
                bar.update(at, len(pending) * settings.batch_size, **numbers)
                pending = []
            if evaluating:
                progress = evaluation.of(state, at, progress)
            if stop_wanted(at) and not progress.is_over(at, settings):
                _stop(state, progress, pending, evaluation)
        return progress, evaluation.best


def _report(pending: list[dict[str, jax.Array]], at: int, log: MetricsLog,
            problems: Sequence[Problem]) -> dict[str, float]:
    """Log the mean of the last steps' metrics; stop on numbers that are not finite."""
    rows = jax.device_get(pending)
    numbers = []
    for task, problem in enumerate(problems):
        own = [{name: float(np.atleast_1d(values)[task]) for name, values in row.items()}
               for row in rows]
        for number, row in enumerate(own, start=at - len(rows) + 1):
            if not all(math.isfinite(row[name]) for name in ('loss', 'grad_norm')):
                of = f' of {problem.name}' if problem.name else ''
                raise ValueError(
                    f"the loss{of} is {row['loss']} and its gradient's norm {row['grad_norm']} at "
                    f'step {number}; expected finite numbers. {_KEPT}')
        total = {name: float(np.sum([row[name] for row in own], dtype=np.float64))
                 for name in rows[0]}
        tokens = max(total['tokens'], 1.0)
        numbers.append({'loss': total['loss'] / tokens, 'accuracy': total['correct'] / tokens})
        log.write(at, 'train', {
            'loss': numbers[-1]['loss'], 'token_accuracy': numbers[-1]['accuracy'],
            'z_loss': total['z_loss'] / tokens, 'grad_norm': total['grad_norm'] / len(rows)},
            problem.name)
    return {name: float(np.mean([one[name] for one in numbers])) for name in numbers[0]}


def _log_results(log: MetricsLog, at: int, run: Run, results: Mapping[str, Any]) -> None:
    """Log what was measured at the end of a run."""
    for name, measured in results.items():
        split = next(one.test_split for one in run.problems
                     if name in (one.name, file_name(one.task.name)))
        for heading, values in measured.items():
            log.write(at, split, {f'{heading}{HEADING_END}{figure}': value
                                  for figure, value in values.items()}, name)


def _stop(state: TrainState, progress: Progress, pending: list[dict[str, Any]],
          evaluation: '_Evaluation') -> NoReturn:
    """Save everything, so that the resumed run writes the very lines that this one would have."""
    rows = [{name: np.asarray(value).tolist() for name, value in row.items()}
            for row in jax.device_get(pending)]
    evaluation.save(state, dataclasses.replace(progress, unreported=rows))
    raise Stopped(f'told to stop; saved at step {int(state.step)}; start the same command again '
                  'to go on')


class _Evaluation:
    """Measure what is tuned so far, keep the best of each problem, and save."""

    def __init__(self, run: Run, store: TrainStateStore, log: MetricsLog, bar: ProgressBar,
                 best: Sequence[Tuned]):
        self._run, self._store, self._log, self._bar = run, store, log, bar
        self.best = list(best)
        method, count = run.method, len(run.problems)
        self._tuned = shared(run.opened, ('tuned', method_key(method), count), lambda: jax.jit(
            lambda params, constants: _split(method.apply(params, constants), count)))

    def of(self, state: TrainState, at: int, progress: Progress) -> Progress:
        """Evaluate, keep what is the best yet, and save a checkpoint."""
        run, told_metrics, tasks = self._run, {}, []
        tuned = self._tuned(state.evaluated, run.constants)
        for number, (problem, one) in enumerate(zip(run.problems, tuned, strict=True)):
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(one.prompt)):
                raise ValueError(f'the prompt is not finite after step {at}; {_KEPT}')
            with self._bar.aside('evaluating'):
                metrics = problem.evaluate(one, 'validation')
            self._log.write(at, 'validation', metrics, problem.name)
            told_metrics |= {_of(problem, name, '/'): value for name, value in metrics.items()}
            tasks.append(self._keep(number, one, at, metrics, progress.tasks[number]))
        progress = dataclasses.replace(progress, tasks=tuple(tasks))
        if len(run.problems) > 1 and run.method.shared:
            run.keep_shared(state.evaluated, at)
        if not run.on_evaluation(at, told_metrics):
            progress = dataclasses.replace(progress, pruned=True)
        if progress.is_over(at, run.settings):
            progress = self.finish(at, progress)
        self.save(state, progress)
        return progress

    def _keep(self, number: int, tuned: Tuned, at: int, metrics: dict[str, float],
              kept: Kept) -> Kept:
        """Keep what is tuned if it is the best of its problem yet."""
        problem, bar = self._run.problems[number], self._bar
        choose_by = problem.choose_by
        if not kept.best and problem.most_common['validation'][1]:
            common = same_answer(problem.most_common['validation'])
            bar.say(f"{_of(problem, 'validation')}: {common}")
        if not kept.best or merit(metrics, choose_by) > merit(kept.best, choose_by):
            self.best[number] = tuned
            kept = Kept(kept.start or metrics, metrics, at)
            self._run.keep_best(problem, tuned, kept)
        else:
            kept = dataclasses.replace(kept, waited=kept.waited + 1)
        bar.say(f"step {at}: {_of(problem, 'validation')} {told(metrics)}; best {choose_by} "
                f'{kept.best[choose_by]:.4f} at step {kept.best_step}')
        return kept

    def save(self, state: TrainState, progress: Progress) -> None:
        """Save a checkpoint, when the log's lines up to it are on disk."""
        self._log.flush()
        progress = dataclasses.replace(progress, logged=self._log.digest)
        self._store.save(_Checkpoint(state, *_joined(self.best)), progress.to_record())

    def finish(self, at: int, progress: Progress) -> Progress:
        """Measure what was best, and what it is compared with, at the end of the run."""
        results = {}
        if self._run.settings.measure:
            with self._bar.aside(f'evaluating on the {self._run.problems[0].test_split} split'):
                results = self._run.measure(self.best)
        _log_results(self._log, at, self._run, results)
        return dataclasses.replace(progress, finished_at=at, results=results,
                                   compared=self._run.settings.compare)


def _joined(best: Sequence[Tuned]) -> tuple[Prompt, Params]:
    """Return what is tuned best, of all problems, as a checkpoint holds it."""
    return join_prompts([one.prompt for one in best]), best[0].weights


def _of(problem: Problem, what: str, between: str = ' ') -> str:
    """Name something of a problem, where there are others."""
    return f'{problem.name}{between}{what}' if problem.name else what
