"""Train a prompt: put a run together, run it, and leave its folder complete."""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from jax_prompt.files import GO_ON, sealed, writing
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.hosts import fetch, from_first, is_first
from jax_prompt.prompts.file import PromptFile, PromptMetadata
from jax_prompt.prompts.initializers import InitContext
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.methods.direct import direct
from jax_prompt.prompts.prompt import Prompt, no_prompt
from jax_prompt.training import optimizers
from jax_prompt.training.card import write_card
from jax_prompt.training.curves import draw_curves
from jax_prompt.training.folder import (
    CARD_FILE,
    CURVES_FILE,
    Outcome,
    RunFolder,
    check_same,
    claimed,
    recorded,
)
from jax_prompt.training.identity import run_identity
from jax_prompt.training.loop import Progress, Run, fit
from jax_prompt.training.problem import Problem, default_start, make_problem
from jax_prompt.training.reporting import MetricsLog
from jax_prompt.training.selection import remarks
from jax_prompt.training.settings import PromptSettings, TrainSettings
from jax_prompt.training.state import TrainStateStore
from jax_prompt.types import Params, count_parameters

MOST_COMMON = 'most common answer'
NO_PROMPT = 'no prompt'
BEFORE = 'prompt before training'
AFTER = 'prompt after training'

_log = logging.getLogger(__name__)


def train(model: OpenedModel, task: Any, output: str | os.PathLike | RunFolder,
          prompt: PromptSettings | None = None,
          optimizer: optax.GradientTransformation | None = None,
          settings: TrainSettings | None = None, quiet: bool = False,
          on_evaluation: Callable[[int, Mapping[str, float]], bool] = lambda step, metrics: True,
          ) -> Outcome:
    """Train a prompt for a frozen model on a task.

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
    settings, prompt = settings or TrainSettings(), prompt or PromptSettings()
    optimizer = optimizer or optimizers.adafactor()
    folder = output if isinstance(output, RunFolder) else RunFolder(pathlib.Path(output))
    model = _as_begun(model, folder)
    problem = make_problem(model, task, prompt, settings)
    if prompt.initializer is None:
        prompt = dataclasses.replace(prompt, initializer=default_start(task, prompt.rows))
    method = prompt.method or direct()
    initial, constants = _start(model, method, prompt, settings.seed)
    run = Run(model, problem, method, initial, constants, optimizer, settings,
              functools.partial(_keep_best, folder, model, problem, method, settings.seed),
              lambda best: _results(run, best), on_evaluation)
    identity = run_identity(run, prompt)
    with writing(f"the run's folder {folder.path}", GO_ON), contextlib.ExitStack() as held:
        _claim(folder, identity, held)
        store = TrainStateStore(folder.checkpoints, settings.keep, sealed(identity)['digest'])
        held.callback(store.close)
        progress = fit(run, store, functools.partial(MetricsLog, folder.path),
                       quiet or not is_first())
        outcome = _outcome(run, folder, progress)
        if is_first():
            for remark in outcome.remarks:
                _log.warning(remark)
            draw_curves(folder.metrics, folder.path / CURVES_FILE, outcome.best_step)
            write_card(folder.path / CARD_FILE, run, prompt, outcome, progress.finished_at)
        return outcome


def _as_begun(opened: OpenedModel, folder: RunFolder) -> OpenedModel:
    """Return a model whose dtype was chosen by measuring in the one that the run was begun in."""
    if opened.reopen is None:
        return opened
    begun = from_first(lambda: recorded(folder) or {}).get('model', opened.model.numerics)
    dtypes = [{told.get('dtype'), told.get('factors')} - {None}
              for told in (begun, opened.model.numerics)]
    if dtypes[0] == dtypes[1]:
        return opened
    return opened.reopen('bfloat16' if 'bfloat16' in dtypes[0] else 'float32')


def _start(opened: OpenedModel, method: Method, prompt: PromptSettings,
           seed: int) -> tuple[Params, Params]:
    """Return what a method starts from, and its constants."""
    table_VD = opened.model.embedding_table(opened.frozen)
    # Initialisers read single rows, which is only possible where this host can read all of them.
    table_VD = table_VD if table_VD.is_fully_addressable else fetch(table_VD)
    context = InitContext(table_VD, prompt.rows, opened.vocabulary.encode_words,
                          initializer=prompt.initializer, frozen=opened.frozen,
                          rules=opened.model.rules)
    initial, constants = method.init(jax.random.key(seed), context)
    tuned = jax.eval_shape(method.apply, initial, constants)
    if tuned.weights:
        raise ValueError(f'method {method.name} tunes weights of the model, which no prompt file '
                         'can hold; choose a method that gives rows alone')
    return initial, constants


def _claim(folder: RunFolder, identity: dict[str, Any], held: contextlib.ExitStack) -> None:
    """Take the run's folder on the first host, and see that all hosts mean the same run."""

    def take() -> dict[str, Any]:
        held.enter_context(claimed(folder, identity))
        return identity

    check_same(identity, from_first(take), 'the first host')


def _keep_best(folder: RunFolder, opened: OpenedModel, problem: Problem, method: Method, seed: int,
               prompt: Prompt, step: int, metrics: Mapping[str, float]) -> None:
    """Write the best prompt so far, with all that it belongs to."""
    metadata = PromptMetadata(
        base_model=opened.name, base_model_fingerprint=opened.fingerprint,
        vocabulary_fingerprint=opened.vocabulary_fingerprint, task=problem.task.to_dict(),
        layout=problem.layout, method=method.name, step=step, seed=seed,
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)})
    file = PromptFile(Prompt(np.asarray(prompt.rows, np.float32)), metadata)
    if is_first():
        folder.save_prompt(file)


def _results(run: Run, best: Prompt) -> dict[str, dict[str, float]]:
    """Measure the best prompt, and what it is compared with, on the test split."""
    prompts = {AFTER: best}
    if run.settings.compare:
        before = run.method.apply(run.initial, run.constants).prompt
        prompts = {NO_PROMPT: no_prompt(run.opened.model.d_model), BEFORE: before} | prompts
    split = run.problem.test_split
    return {MOST_COMMON: run.problem.most_common[split][1]} | {
        heading: run.problem.evaluate(prompt, split) for heading, prompt in prompts.items()}


def _outcome(run: Run, folder: RunFolder, progress: Progress) -> Outcome:
    problem = run.problem
    said = remarks(problem.choose_by, problem.most_common['validation'], progress.start,
                   progress.best, progress.best_step)
    return Outcome(
        folder=folder, results=progress.results, split=problem.test_split,
        best_step=progress.best_step, remarks=tuple(said),
        prompt_bytes=from_first(lambda: folder.prompt.stat().st_size),
        model_bytes=run.opened.num_bytes, trained_numbers=count_parameters(run.initial))
