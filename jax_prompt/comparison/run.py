"""Run a comparison: each trial that is missing, one model and its programs for all of them."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator
from typing import Any

from jax_prompt.comparison import tuning
from jax_prompt.comparison.clock import Clock
from jax_prompt.comparison.contender import Contender, Fitted, Trial
from jax_prompt.comparison.data import (
    SPLITS,
    check_sizes,
    digest_of,
    figure_of,
    for_contenders,
    held,
)
from jax_prompt.comparison.records import Cell, ComparisonFolder, Record
from jax_prompt.data.examples import Examples, encode_labels, load_examples
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.evaluator import Evaluator
from jax_prompt.files import GO_ON, writing
from jax_prompt.inference.rows import Prediction
from jax_prompt.models.open import OpenedModel
from jax_prompt.training.problem import file_name, shared_problems

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ComparisonSettings:
    """On what contenders are compared.

    Attributes:
      seeds: each trial is done once with each.
      sizes: examples of training, drawn anew by each seed; None for all. Nothing of the test is
        drawn: it is used whole.
      validation: examples at most that contenders choose by; with a size never more than that.
      metric: the figure of the table; None for the first that the task has.
      batch_size: examples a batch of measuring.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    sizes: tuple[int | None, ...] = (None,)
    validation: int | None = 500
    metric: str | None = None
    batch_size: int = 64

    def __post_init__(self):
        for name in ('seeds', 'sizes'):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            least = 0 if name == 'seeds' else 2
            if not values or len(set(values)) < len(values) or any(
                    one is not None and one < least for one in values):
                raise ValueError(f'comparison.{name} is {values!r}; expected different whole '
                                 f'numbers from {least}, such as '
                                 + ('(0, 1, 2)' if name == 'seeds' else '(32, 256, None)'))
        for name in ('validation', 'batch_size'):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f'comparison.{name} is {value}; expected at least 1')


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What is compared, and on what.

    Attributes:
      tasks: each with the splits train, validation and test.
      contenders: of different names.
      settings: seeds and sizes.
    """

    tasks: tuple[TextTask, ...]
    contenders: tuple[Contender, ...]
    settings: ComparisonSettings

    def __post_init__(self):
        for what, several in (('tasks', self.tasks), ('contenders', self.contenders)):
            if not several:
                raise ValueError(f'a comparison of no {what}; expected at least one')
            names = [file_name(one.name) for one in several]
            for number, name in enumerate(names):
                if name in names[:number]:
                    raise ValueError(
                        f'two {what} of the comparison are called {several[number].name!r}; give '
                        'one of them another name' + (', as in @NAME/tuning()' if what ==
                                                      'contenders' else ''))
        check_sizes(self.tasks, self.settings.sizes)
        for task in self.tasks:
            figure_of(task, self.settings.metric)
            for one in self.contenders:
                one.check(task)

    def with_rows_read(self) -> 'Comparison':
        """Return it with the rows of its tasks in memory, which many read."""
        return dataclasses.replace(self, tasks=tuple(map(held, self.tasks)))

    def cells(self) -> Iterator[Cell]:
        """Yield the trials, seed by seed, so that a table of the first one is there early."""
        seen = set()
        for seed in self.settings.seeds:
            for task in self.tasks:
                for size in self.settings.sizes:
                    for one in self.contenders:
                        cell = self.cell(task, one, size, seed)
                        if cell.seed == seed and cell not in seen:
                            seen.add(cell)
                            yield cell

    def cell(self, task: TextTask, contender: Contender, size: int | None, seed: int) -> Cell:
        """Return the trial that tells of a contender at a size and a seed."""
        return Cell(task.name, contender.name, size if contender.sized else None,
                    seed if contender.seeded else self.settings.seeds[0])

    def identity(self, opened: OpenedModel) -> dict[str, Any]:
        """Tell all that decides results from any other comparison, ready for JSON."""
        return {
            'model': {'fingerprint': opened.fingerprint,
                      'vocabulary': opened.vocabulary_fingerprint, **opened.model.numerics},
            'tasks': {task.name: digest_of(task) for task in self.tasks},
            'contenders': {one.name: one.config() for one in self.contenders},
            'settings': {'validation': self.settings.validation}}


def run_comparison(opened: OpenedModel, comparison: Comparison, folder: ComparisonFolder,
                   report: Any = lambda: None) -> None:
    """Do each trial that has no record yet.

    Started again after a kill, what is done is not done again, and a trial in the middle goes on
    where its contender's own files let it.

    Args:
      opened: the frozen model, which all contenders share, as they do compiled programs.
      comparison: what is compared.
      folder: keeps the records.
      report: is called after each seed's trials, to write what is known by then.

    Raises:
      ValueError: the folder holds another comparison; or, when all others are done, trials failed.
    """
    cells, failed = list(comparison.cells()), []
    opened = opened.as_begun(folder.identity().get('model'))
    with (writing(f"the comparison's folder {folder.path}", GO_ON),
          folder.claimed(comparison.identity(opened)), shared_problems(), Clock() as clock):
        # What is wrong with the data, or is lost of it, is told once.
        trials = _Trials(opened, comparison, folder, clock)
        for number, cell in enumerate(cells, 1):
            if folder.record(cell) is None:
                try:
                    with _quiet():
                        record = trials.run(cell)
                except ValueError as error:  # of one contender; the others go on
                    failed.append((cell, error))
                    _log.warning('trial %d of %d, %s, failed: %s', number, len(cells), cell, error)
                else:
                    folder.keep(cell, record)
                    name, _ = figure_of(trials.tasks[cell.task], comparison.settings.metric)
                    _log.info('trial %d of %d, %s: %s %.4f on test, %.1f s', number, len(cells),
                              cell, name, record.test[name], record.own_seconds)
            if folder.record(cell) is not None:
                tuning.forget(folder.trial(cell))
            if number == len(cells) or cells[number].seed != cell.seed:
                report()
    if failed:
        cell, error = failed[0]
        raise ValueError(f'{len(failed)} of {len(cells)} trials failed, the first one ({cell}): '
                         f'{error}; the same command tries them again')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep remarks on each trial's data and run, of which there are many, to the cards."""
    loggers = [logging.getLogger(f'jax_prompt.{name}')
               for name in ('data', 'training', 'evaluation', 'inference', 'search')]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


class _Trials:
    """Does trials with one model, whose evaluators and encoded tests they share."""

    def __init__(self, opened: OpenedModel, comparison: Comparison, folder: ComparisonFolder,
                 clock: Clock):
        self._opened, self._folder, self._clock = opened, folder, clock
        self._settings = comparison.settings
        self.tasks = {task.name: task for task in comparison.tasks}
        self._contenders = {one.name: one for one in comparison.contenders}
        self._evaluators: dict[Any, Evaluator] = {}
        self._tests: dict[str, Examples] = {}
        self._cut: dict[tuple[str, int | None, int], TextTask] = {}
        for task in comparison.tasks:
            if task.label_words is not None:
                encode_labels(task, opened.vocabulary)
            loaded = {split: load_examples(task, split, opened.vocabulary) for split in SPLITS}
            self._tests[task.name] = loaded['test']

    def run(self, cell: Cell) -> Record:
        """Do a trial: the contender on what it may see, then the test once."""
        began, whole = self._clock.seconds, self.tasks[cell.task]
        task = self._seen(whole, cell)
        folder = self._folder.trial(cell)
        folder.mkdir(parents=True, exist_ok=True)
        fitted = self._contenders[cell.contender].fit(
            Trial(self._opened, task, cell.seed, folder, self._clock))
        validation = fitted.validation
        if validation is None:
            examples = load_examples(task, 'validation', self._opened.vocabulary)
            validation, _ = self._measured(fitted, task, examples)
        test, before = self._tests[cell.task], self._clock.seconds
        metrics, predictions = self._measured(fitted, whole, test)
        seconds = self._clock.seconds - before
        return Record(validation, metrics, [one.text for one in predictions],
                      len(task.rows('validation')), fitted.trained_numbers, fitted.stored_bytes,
                      fitted.examples, fitted.seconds, seconds / len(test),
                      self._clock.seconds - began, fitted.curve)

    def _seen(self, task: TextTask, cell: Cell) -> TextTask:
        """Return what a trial's contender may see, the same object for all that see the same."""
        seed = 0 if cell.size is None else cell.seed
        key = task.name, cell.size, seed
        if key not in self._cut:
            self._cut[key] = for_contenders(task, cell.size, seed, self._settings.validation)
        return self._cut[key]

    def _evaluator(self, task: TextTask, fitted: Fitted) -> Evaluator:
        """Return what evaluates; of a design, which nobody shares, a new one."""
        make = functools.partial(Evaluator, self._opened, task, fitted.layout,
                                 batch_size=self._settings.batch_size)
        if fitted.design is not None:
            return make(design=fitted.design)
        key = task.name, fitted.layout
        if key not in self._evaluators:
            self._evaluators[key] = make()
        return self._evaluators[key]

    def _measured(self, fitted: Fitted, task: TextTask,
                  examples: Examples) -> tuple[dict[str, float], list[Prediction]]:
        """Return metrics and predictions of what answers."""
        evaluator = self._evaluator(task, fitted)
        if len(fitted.prompts) > 1:
            metrics, predictions = evaluator.measure_together(fitted.prompts, examples, fitted.way)
        else:
            metrics, predictions = evaluator.measure(fitted.prompts[0], examples, fitted.weights)
        return metrics, predictions[evaluator.ways[0]]
