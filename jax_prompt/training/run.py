"""Train a prompt: put a run together, run it, and leave its folder complete."""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from jax_prompt.data.tasks.mixture import Mixture
from jax_prompt.files import GO_ON, sealed, writing
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.hosts import fetch, from_first, is_first
from jax_prompt.parallel.rules import replicated
from jax_prompt.prompts.file import PromptFile, PromptMetadata, save_prompt
from jax_prompt.prompts.initializers import InitContext, sampled_vocabulary
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.methods.direct import direct
from jax_prompt.prompts.prompt import Prompt, Tuned, no_prompt
from jax_prompt.training import optimizers
from jax_prompt.training.card import write_card
from jax_prompt.training.curves import draw_curves
from jax_prompt.training.folder import (
    CARD_FILE,
    CURVES_FILE,
    PROMPT_FILE,
    SHARED,
    Outcome,
    RunFolder,
    check_same,
    claimed,
    recorded,
)
from jax_prompt.training.identity import run_identity
from jax_prompt.training.joint import for_tasks, stack
from jax_prompt.training.loop import Run, fit
from jax_prompt.training.problem import (
    Problem,
    default_start,
    file_name,
    make_problems,
    with_length,
    with_rows_added,
)
from jax_prompt.training.programs import shared
from jax_prompt.training.progress import Kept, Progress
from jax_prompt.training.reporting import MetricsLog
from jax_prompt.training.selection import remarks
from jax_prompt.training.settings import PromptSettings, TrainSettings
from jax_prompt.training.state import TrainStateStore
from jax_prompt.training.tuned_weights import check_weights, keep_model
from jax_prompt.training.tuning import with_chosen_batching
from jax_prompt.types import Params, count_parameters

MOST_COMMON = 'most common answer'
NO_PROMPT = 'no prompt'
BEFORE = 'prompt before training'
AFTER = 'prompt after training'
MODEL_AFTER = 'model after training'
#: (step, the validation's metrics) -> whether to go on
OnEvaluation = Callable[[int, Mapping[str, float]], bool]

_log = logging.getLogger(__name__)


def train(model: OpenedModel, task: Any, output: str | os.PathLike | RunFolder,
          prompt: PromptSettings | None = None,
          optimizer: optax.GradientTransformation | None = None,
          settings: TrainSettings | None = None, quiet: bool = False,
          on_evaluation: OnEvaluation = lambda step, metrics: True) -> Outcome:
    """Train a prompt for a frozen model on a task, or with `model_tuning` the model itself.

    The folder may hold the same run, killed at any moment: it is then resumed and ends with the
    same prompt, bit for bit. Nothing is written before model, data and settings are known good.

    Args:
      model: the frozen model.
      task: a `TextTask` or `RegisteredTask` with the splits train and validation; where it has
        test, the best prompt is measured on it at the end.
      output: the run's folder, see ARCHITECTURE for what stands in it.
      prompt: its rows, layout, method and start.
      optimizer: an optax transformation; None for `optimizers.adafactor()`.
      settings: how to train.
      quiet: show no progress.
      on_evaluation: is told the step and the validation's metrics; False ends the run there.

    Returns:
      The outcome.

    Raises:
      ValueError, FileNotFoundError: in one line, for whatever cannot be trained on.
    """
    return train_together(model, Mixture((task,)), output, prompt, optimizer, settings, quiet,
                          on_evaluation)[0]


def train_together(model: OpenedModel, mixture: Mixture, output: str | os.PathLike | RunFolder,
                   prompt: PromptSettings | None = None,
                   optimizer: optax.GradientTransformation | None = None,
                   settings: TrainSettings | None = None, quiet: bool = False,
                   on_evaluation: OnEvaluation = lambda step, metrics: True,
                   ) -> tuple[Outcome, ...]:
    """Train prompts for several tasks, or several for one, in batches that hold rows of all.

    Each takes the steps that a run of its own would take with its part of the batch, and the best
    of each is kept in a file of its name. For the rest see `train`.

    Args:
      model: the frozen model.
      mixture: the tasks, and how often each comes.
      output: the run's folder.
      prompt: rows, layout, method and start of each prompt, and how many each task has.
      optimizer: of each prompt.
      settings: how to train; `batch_size` is that of all tasks together.
      quiet: show no progress.
      on_evaluation: as `train` has it; a metric is named `TASK/METRIC`.

    Returns:
      The outcome of each prompt, in the order of the tasks.

    Raises:
      ValueError, FileNotFoundError: in one line, for whatever cannot be trained on.
    """
    settings, prompt = settings or TrainSettings(), prompt or PromptSettings()
    folder = output if isinstance(output, RunFolder) else RunFolder(pathlib.Path(output))
    begun = from_first(lambda: recorded(folder) or {})
    model = model.as_begun(begun.get('model'))
    problems = make_problems(model, mixture, prompt, settings)
    settings = with_length(settings, problems, begun.get('settings', {}).get('evaluate_every'))
    if prompt.initializer is None and len(mixture.tasks) == 1:
        prompt = dataclasses.replace(
            prompt, initializer=default_start(mixture.tasks[0], prompt.rows))
    one, optimizer = prompt.method or direct(), optimizer or optimizers.adafactor()
    method = for_tasks(one, len(problems))
    if one.trains_weights:
        check_weights(model, one, prompt.rows, optimizer, settings)
    initial, constants, tuned = _start(model, one, prompt, problems)
    problems = tuple(with_rows_added(problem, model, tuned.prompt.added) for problem in problems)
    run = Run(model, problems, method, initial, constants, optimizer, settings,
              functools.partial(_keep_best, folder, model, method),
              lambda best: _results(run, best), on_evaluation,
              functools.partial(_keep_shared, folder, model, one, problems))
    run = with_chosen_batching(run, lambda: recorded(folder))
    identity = run_identity(run, prompt)
    with writing(f"the run's folder {folder.path}", GO_ON), contextlib.ExitStack() as held:
        _claim(folder, identity, held)
        _keep_starts(folder, run, one)
        store = TrainStateStore(folder.checkpoints, settings.keep, sealed(identity)['digest'])
        held.callback(store.close)
        progress, best = fit(run, store, functools.partial(MetricsLog, folder.path),
                             quiet or not is_first())
        outcomes = _outcomes(run, folder, progress, best)
        if is_first():
            for outcome in outcomes:
                for remark in outcome.remarks:
                    _log.warning(remark)
            draw_curves(folder.metrics, folder.path / CURVES_FILE,
                        {one.folder.name: one.best_step for one in outcomes})
            write_card(folder.path / CARD_FILE, run, prompt, outcomes, progress)
        return outcomes


def _start(opened: OpenedModel, method: Method, prompt: PromptSettings,
           problems: Sequence[Problem]) -> tuple[Params, Params, Tuned]:
    """Return what a method starts from and its constants, for all problems together.

    The third is the shapes of what it gives for one.
    """
    table_VD = opened.model.embedding_table(opened.frozen)
    # Initialisers read single rows, which is only possible where this host can read all of them.
    table_VD = table_VD if table_VD.is_fully_addressable else fetch(table_VD)
    begun, longest = [], max(problem.inputs_length for problem in problems)
    for problem in problems:
        # What all tasks share starts from no task's labels.
        start = prompt.initializer or (
            sampled_vocabulary() if method.shared and len(problems) > 1 else
            default_start(problem.task, prompt.rows))
        context = InitContext(table_VD, prompt.rows, opened.vocabulary.encode_words,
                              name=problem.name or file_name(problem.task.name),
                              initializer=start, frozen=opened.frozen,
                              rules=opened.model.rules, labels=problem.task.label_words,
                              inputs_length=longest, loss=problem.start_loss,
                              prefix_shapes=opened.model.prefix_shapes,
                              activations=functools.partial(_activations, opened))
        begun.append(method.init(jax.random.key(problem.seed), context))
    tuned = jax.eval_shape(method.apply, *begun[0])
    if tuned.weights and not method.trains_weights:
        raise ValueError(f'method {method.name} tunes weights of the model, which no prompt file '
                         'can hold; let it say trains_weights=True, or give rows alone')
    if not count_parameters(begun[0][0]):
        raise ValueError(f'method {method.name} has nothing to train with prompt.rows={prompt.rows}'
                         '; expected at least 1 row')
    params, constants = zip(*begun, strict=True)
    return stack(params, method.shared), stack(constants), tuned


def _activations(opened: OpenedModel, ids_M: np.ndarray) -> dict[str, tuple[np.ndarray, ...]]:
    """Compute the keys and values of a text, on every host."""
    compute = shared(opened, 'activations', lambda: jax.jit(
        opened.model.activations, out_shardings=replicated(opened.mesh)))
    return jax.tree.map(fetch, compute(opened.frozen, ids_M))


def _claim(folder: RunFolder, identity: dict[str, Any], held: contextlib.ExitStack) -> None:
    """Take the run's folder on the first host, and see that all hosts mean the same run."""

    def take() -> dict[str, Any]:
        held.enter_context(claimed(folder, identity))
        return identity

    check_same(identity, from_first(take), 'the first host')


def _keep_best(folder: RunFolder, opened: OpenedModel, method: Method, problem: Problem,
               tuned: Tuned, kept: Kept) -> None:
    """Write what is best for a problem so far: the model, if it was tuned, and the prompt."""
    of_model = opened.name, opened.fingerprint
    if tuned.weights:
        of_model = keep_model(folder.model, opened, tuned.weights,
                              f'{opened.name}, tuned on {problem.task.name}')
    file = _prompt_file(opened, method, problem, tuned.prompt, kept, of_model)
    if is_first():
        dataclasses.replace(folder, name=problem.name).save_prompt(file)


def _keep_starts(folder: RunFolder, run: Run, method: Method) -> None:
    """Write what each prompt starts from, in a folder of its own as what tasks share."""
    if not is_first():
        return
    for problem, tuned in zip(run.problems, run.tuned(run.initial), strict=True):
        path, prompt = dataclasses.replace(folder, name=problem.name).start, tuned.prompt
        if (len(prompt.rows) or prompt.prefix) and not path.exists():
            save_prompt(path, _prompt_file(run.opened, method, problem, prompt, Kept()))


def _keep_shared(folder: RunFolder, opened: OpenedModel, method: Method,
                 problems: Sequence[Problem], params: Params, step: int) -> None:
    """Write the rows that tasks share, for others to start from.

    They stand in a folder of their own: those who use all prompts of the run's shall not find them.
    """
    rows_PD = np.asarray(params[method.shared[0]])
    file = _prompt_file(opened, method, problems[0], Prompt(rows_PD), Kept(best_step=step))
    if is_first():
        save_prompt(folder.path / SHARED / PROMPT_FILE, file)


def _prompt_file(opened: OpenedModel, method: Method, problem: Problem, prompt: Prompt,
                 kept: Kept, of_model: tuple[str, str] | None = None) -> PromptFile:
    """Return a prompt with all that it belongs to: a model's name and fingerprint among that."""
    name, fingerprint = of_model or (opened.name, opened.fingerprint)
    metadata = PromptMetadata(
        base_model=name, base_model_fingerprint=fingerprint,
        vocabulary_fingerprint=opened.vocabulary_fingerprint, task=problem.task.to_dict(),
        layout=problem.layout, method=method.name, step=kept.best_step, seed=problem.seed,
        dtype=opened.model.numerics.get('factors', opened.model.numerics.get('dtype')),
        metrics={name: value for name, value in kept.best.items() if math.isfinite(value)},
        design=problem.design and problem.design.to_dict())
    pool = problem.design and problem.design.nearest
    return PromptFile(jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), prompt), metadata,
                      states_ND=pool and pool.states_ND)


def _results(run: Run, best: Sequence[Tuned]) -> dict[str, dict[str, dict[str, float]]]:
    """Measure what is tuned best, and what it is compared with, on the test splits."""
    results, before = {}, run.tuned(run.initial) if run.settings.compare else ()
    for number, problem in enumerate(run.problems):
        tuned = {MODEL_AFTER if best[number].weights else AFTER: best[number]}
        if before:
            plain = {NO_PROMPT: Tuned(no_prompt(run.opened.model.d_model))}
            tuned = plain | ({BEFORE: before[number]} if before[number].prompt.prefix
                             or problem.num_rows else {}) | tuned
        split = problem.test_split
        common = problem.most_common[split][1]
        results[problem.name] = ({MOST_COMMON: common} if common else {}) | {
            heading: problem.evaluate(one, split) for heading, one in tuned.items()}
    for task, numbers in _ensembles(run.problems).items():
        first = run.problems[numbers[0]]
        results[task] = first.evaluate_together([best[number].prompt for number in numbers],
                                                first.test_split)
    return results


def _ensembles(problems: Sequence[Problem]) -> dict[str, list[int]]:
    """Return task -> the numbers of its problems, for tasks that have several."""
    found: dict[str, list[int]] = {}
    for number, problem in enumerate(problems):
        found.setdefault(file_name(problem.task.name), []).append(number)
    return {task: numbers for task, numbers in found.items() if len(numbers) > 1}


def _outcomes(run: Run, folder: RunFolder, progress: Progress,
              best: Sequence[Tuned]) -> tuple[Outcome, ...]:
    outcomes, ensembles = [], _ensembles(run.problems)
    for problem, kept, tuned in zip(run.problems, progress.tasks, best, strict=True):
        said = remarks(problem.choose_by, problem.most_common['validation'], kept.start, kept.best,
                       kept.best_step)
        own, task = dataclasses.replace(folder, name=problem.name), file_name(problem.task.name)
        outcomes.append(Outcome(
            folder=own, results=progress.results.get(problem.name, {}), split=problem.test_split,
            best_step=kept.best_step,
            remarks=tuple(f'{problem.name}: {one}' if problem.name else one for one in said),
            prompt_bytes=from_first(lambda own=own: own.saved_bytes),
            model_bytes=run.opened.num_bytes, trained_numbers=count_parameters(run.initial),
            tuned=tuned,
            ensemble=progress.results.get(task, {}) if task in ensembles else {},
            tuned_model=folder.model if run.method.trains_weights else None))
    return tuple(outcomes)
