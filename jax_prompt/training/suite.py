"""Train a prompt for each task of a benchmark, and answer what its leaderboard asks."""

import dataclasses
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Sequence

import optax

from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.suites import Suite
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.leaderboard import check_submission, submission_file, write_submission
from jax_prompt.files import write_file
from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.engine import Engine
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.hosts import from_first, is_first
from jax_prompt.prompts.file import load_prompt
from jax_prompt.training.folder import RunFolder
from jax_prompt.training.run import AFTER, train
from jax_prompt.training.settings import PromptSettings, TrainSettings

SUBMISSION = 'submission'
RESULTS_FILE = 'results.json'
_ANSWERED = 'answered.json'
#: The splits that a leaderboard asks about; the diagnostics have no other one.
_ASKED = ('leaderboard', 'test')

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SuiteOutcome:
    """What came of a benchmark.

    Attributes:
      results: task -> metric -> value, of the best prompt on the task's validation split.
      submission: the files of predictions, checked; fewer than tasks where there is no data.
    """

    results: dict[str, dict[str, float]]
    submission: tuple[str, ...]


def train_suite(model: OpenedModel, suite: Suite, output: str | os.PathLike | RunFolder,
                prompt: PromptSettings | None = None,
                optimizer: optax.GradientTransformation | None = None,
                settings: TrainSettings | None = None, quiet: bool = False) -> SuiteOutcome:
    """Train the tasks one after the other, a run's folder each.

    The frozen model is opened and placed once. Started again after a kill, what is finished is
    found so and not trained again, and the run in the middle goes on from its last checkpoint.

    Args:
      model: the frozen model.
      suite: its data is looked for before anything is trained.
      output: the folder of the runs' folders, `submission/` and `results.json`.
      prompt, optimizer, settings, quiet: as `training.run.train` takes them, for each task.

    Raises:
      ValueError, FileNotFoundError: in one line, for whatever cannot be trained on.
    """
    from_first(suite.check_data)
    settings, results, answered = settings or TrainSettings(), {}, []
    whole = output if isinstance(output, RunFolder) else RunFolder(pathlib.Path(output))
    folders = {task.name: RunFolder(whole.path / task.name, whole.configuration)
               for task in suite.tasks}
    for number, task in enumerate(suite.tasks, 1):
        _log.info('%s: task %d of %d', task.name, number, len(suite.tasks))
        outcome = train(model, task, folders[task.name], prompt, optimizer, settings, quiet)
        results[task.name] = outcome.results[AFTER]
        if is_first():
            write_file(whole.path / RESULTS_FILE, (json.dumps(results, indent=2) + '\n').encode(),
                       overwrite=True)
    asked = [(task, task.name) for task in suite.tasks] + list(suite.diagnostics)
    for task, of in asked:
        if of in folders:
            answered += _answer(model, task, folders[of].prompt, whole.path / SUBMISSION,
                                settings.evaluation_batch_size)
    return SuiteOutcome(results, tuple(answered))


def _answer(model: OpenedModel, task: TextTask, prompt: pathlib.Path, folder: pathlib.Path,
            batch_size: int) -> list[str]:
    """Write a task's predictions for the leaderboard, unless this prompt's are there already."""
    rows = _asked(task)
    if not rows:
        _log.warning('%s: no predictions for the leaderboard, whose test is not among the data',
                     task.name)
        return []
    path, digest = submission_file(folder, task.name), _digest(prompt, rows)
    if from_first(lambda: os.path.exists(path) and _answered(folder).get(task.name) == digest):
        return [path]
    engine = Engine(model, Shapes.for_batches_of(batch_size))
    served = engine.add(task.name, load_prompt(prompt))
    predictions = engine.run(engine.rows_of(served, [row.columns for row in rows],
                                            where=lambda number: rows[number].where))
    if is_first():
        write_submission(folder, task.name, predictions, rows)
        check_submission(folder, task.name, rows)
        told = json.dumps(_answered(folder) | {task.name: digest}, indent=2)
        write_file(folder / _ANSWERED, f'{told}\n'.encode(), overwrite=True)
    return [path]


def _digest(prompt: pathlib.Path, rows: Sequence[Row]) -> str:
    """Tell what a file of predictions is made of: the prompt, and what is asked."""
    asked = json.dumps([row.columns['idx'] for row in rows])
    return hashlib.sha256(prompt.read_bytes() + asked.encode()).hexdigest()


def _answered(folder: pathlib.Path) -> dict[str, str]:
    """Return by task what the predictions that are there were made of."""
    path = folder / _ANSWERED
    return json.loads(path.read_text()) if path.exists() else {}


def _asked(task: TextTask) -> list[Row]:
    """Return what the leaderboard asks of a task; nothing where its file is not there."""
    split = next(one for one in _ASKED if one in task.splits)
    try:
        return task.rows(split)
    except FileNotFoundError:
        return []
