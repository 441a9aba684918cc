"""What is learned, and on what: a task, where the virtual tokens stand, and features of both."""

import contextlib
import contextvars
import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jax_prompt.data.batches import choose_buckets, train_batches
from jax_prompt.data.design import Design
from jax_prompt.data.examples import Examples, load_examples
from jax_prompt.data.features import FeatureConverter, Features
from jax_prompt.data.mixing import Share, mixed_batches, packed_mixed_batches, rows_of_each
from jax_prompt.data.packing import choose_packing, packed_train_batches
from jax_prompt.data.ragged import Ragged
from jax_prompt.data.tasks.mixture import Mixture
from jax_prompt.evaluation.evaluator import Evaluator
from jax_prompt.evaluation.metrics import LOSS
from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.designs import DesignInUse
from jax_prompt.inference.states import mean_states
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.mesh import DATA
from jax_prompt.parallel.placement import host_rows
from jax_prompt.prompts.initializers import Initializer, class_labels, sampled_vocabulary
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt, Tuned
from jax_prompt.prompts.versions import ENDING
from jax_prompt.training.selection import figure_to_choose_by
from jax_prompt.training.settings import AUTO, PromptSettings, TrainSettings
from jax_prompt.types import Array, Batch

#: Examples of training that starts are compared on.
_SOME = 256
#: Examples to validate on, below which chance moves an accuracy by 14 points (two standard errors).
_FEW = 50

#: Problems that were made while `shared_problems` is in force; None where each run makes its own.
_made: contextvars.ContextVar[dict | None] = contextvars.ContextVar('made', default=None)

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A task, tokenised for one model and one place of the virtual tokens.

    Attributes:
      name: what the log and the files of a run call it; '' where it is the run's only one.
      task: a `TextTask` or `RegisteredTask`.
      layout: where the virtual tokens stand.
      num_rows: P, how many there are.
      examples: by split, with their raw rows.
      features: of the training split.
      evaluate: (what is tuned, split) -> metric name -> value, the loss among them; of a prompt
        without rows for the plain model.
      evaluate_together: (prompts, split) -> heading -> metrics, of prompts as an ensemble.
      most_common: by split, the most common right answer and the metrics of giving it always.
      choose_by: the figure of the validation that prompts are chosen by.
      batch_size: examples an update.
      seed: of initialisation and of the order of examples.
      start_loss: float32[P, D] -> the mean loss of a prompt of these rows on some examples of
        training.
      added: rows of a prompt that are added to the text, besides those.
      design: words the inputs and the labels; None where the task does.
    """

    name: str
    task: Any
    layout: Layout
    num_rows: int
    examples: Mapping[str, Examples]
    features: Features
    evaluate: Callable[[Tuned, str], dict[str, float]]
    evaluate_together: Callable[[Sequence[Prompt], str], dict[str, dict[str, float]]]
    most_common: Mapping[str, tuple[str, dict[str, float]]]
    choose_by: str
    batch_size: int
    seed: int
    start_loss: Callable[[Array], float]
    added: int = 0
    design: Design | None = None

    @property
    def inputs_length(self) -> int:
        """Return the tokens of the longest text of training, end token included."""
        return int(self.features.lengths.max(initial=1)) - self.num_rows

    @property
    def test_split(self) -> str:
        """Return the split that the best prompt is measured on at the end."""
        return 'test' if 'test' in self.examples else 'validation'


def training_batches(opened: OpenedModel, problems: Sequence[Problem], settings: TrainSettings,
                     start_step: int) -> Iterator[Batch]:
    """Yield this host's rows of the training batches from a step on, without end.

    Args:
      opened: the model.
      problems: each gives its own `batch_size` examples to every batch.
      settings: how to train.
      start_step: the first batch to yield.
    """
    mesh = opened.mesh
    packed = {'row_multiple': mesh.shape[DATA] * settings.microbatches,
              'multiple': settings.bucket_multiple}
    first, features = problems[0], problems[0].features
    if len(problems) == 1 and settings.packing:
        packing = choose_packing(features, first.batch_size, **packed)
        return packed_train_batches(features, first.batch_size, first.seed, packing, start_step,
                                    host_rows(mesh, packing.rows))
    if len(problems) == 1:
        return train_batches(features, first.batch_size, first.seed,
                             _buckets(features, settings, settings.max_buckets, first.batch_size),
                             start_step, host_rows(mesh, first.batch_size))
    shares = [Share(one.features, one.batch_size, one.seed) for one in problems]
    sizes = opened.model.vocab_size, first.num_rows + first.added, start_step
    if settings.packing:
        return packed_mixed_batches(shares, *sizes, **packed,
                                    host_rows=functools.partial(host_rows, mesh))
    shares = [dataclasses.replace(share, buckets=_buckets(
        share.features, settings, settings.max_buckets, share.rows)) for share in shares]
    return mixed_batches(shares, *sizes, host_rows(mesh, sum(share.rows for share in shares)))


def with_length(settings: TrainSettings, problems: Sequence[Problem],
                evaluated_every: int | None = None) -> TrainSettings:
    """Return settings with numbers for how long to train, where these are left to the data.

    Args:
      settings: how to train.
      problems: on what.
      evaluated_every: what a run that goes on was begun with, so that it may be given more steps.
    """
    if settings.evaluate_every == AUTO and evaluated_every is not None:
        settings = dataclasses.replace(settings, evaluate_every=evaluated_every)
    return settings.for_updates(max(len(one.features) / one.batch_size for one in problems))


def make_problems(opened: OpenedModel, mixture: Mixture, prompt: PromptSettings,
                  settings: TrainSettings) -> tuple[Problem, ...]:
    """Make the problems of a run: one for each task, or for each member of its ensemble.

    Args:
      opened: the model that will read them.
      mixture: the tasks, and how often each comes.
      prompt: rows and layout of each prompt.
      settings: how to train and evaluate; the examples of a batch are shared out among them.

    Raises:
      ValueError, FileNotFoundError: in one line, for whatever cannot be trained on.
    """
    made = [make_problem(opened, task, prompt, settings) for task in mixture.tasks]
    members = prompt.ensemble or 1
    if len(made) == members == 1:
        return tuple(made)
    rates = mixture.rates([len(one.features) for one in made])
    rows = rows_of_each(np.repeat(rates, members), settings.batch_size)
    problems = []
    for problem in made:
        name = file_name(problem.task.name)
        for member in range(members):
            problems.append(dataclasses.replace(
                problem, name=f'{name}-{member + 1}' if members > 1 else name,
                seed=settings.seed + member, batch_size=rows[len(problems)]))
    for problem in problems:
        if sum(problem.name == other.name for other in problems) > 1:
            raise ValueError(f'two tasks would write the prompt file {problem.name}{ENDING}; give '
                             'them names that differ in letters, digits, dots or dashes')
    return tuple(problems)


def file_name(task: str) -> str:
    """Return what a task's prompt file is called: nothing that a server would not take."""
    return re.sub(r'[^A-Za-z0-9_.-]', '_', task).lstrip('_.-')[:60] or 'task'


@contextlib.contextmanager
def shared_problems() -> Iterator[None]:
    """Let runs share what they read and encode, and what evaluates it, while the context lasts.

    A task is then read once: what changes in its files meanwhile is not seen. Problems are of one
    task object, one model and one number and place of rows; they are let go in the end.
    """
    token = _made.set({} if _made.get() is None else _made.get())
    try:
        yield
    finally:
        _made.reset(token)


def _once(key: tuple, make: Callable[[], Any]) -> Any:
    """Make something anew, or take what was made while `shared_problems` is in force."""
    made = _made.get()
    if made is None:
        return make()
    if key not in made:
        made[key] = make()
    return made[key]


def make_problem(opened: OpenedModel, task: Any, prompt: PromptSettings,
                 settings: TrainSettings) -> Problem:
    """Read and tokenise a task's splits; raises before anything is written.

    Args:
      opened: the model that will read them.
      task: with the splits train and validation, and test where there is one.
      prompt: its rows and layout.
      settings: how to train and evaluate.

    Raises:
      ValueError, FileNotFoundError: in one line, for whatever cannot be trained on.
    """
    decides = tuple(getattr(settings, name) for name in (
        'batch_size', 'evaluate_by', 'choose_by', 'evaluation_batch_size', 'evaluation_limit',
        'train_limit', 'max_buckets', 'bucket_multiple', 'measure'))
    problem = _once((opened, task, prompt.layout, prompt.rows, prompt.design, *decides),
                    lambda: _make_problem(opened, task, prompt, settings))
    return dataclasses.replace(problem, seed=settings.seed)


def _make_problem(opened: OpenedModel, task: Any, prompt: PromptSettings,
                  settings: TrainSettings) -> Problem:
    def load(split: str, limit: int | None) -> Examples:
        return _once((opened, task, split, limit),
                     lambda: load_examples(task, split, opened.vocabulary, limit))

    splits = ['train', 'validation'] + (
        ['test'] if settings.measure and 'test' in task.splits else [])
    limits = {'train': settings.train_limit, 'validation': settings.evaluation_limit}
    examples = {split: load(split, limits.get(split)) for split in splits}
    design = prompt.words
    if design is not None:
        examples['train'] = DesignInUse(opened, task, design, functools.partial(
            mean_states, opened, shapes=Shapes())).examples(examples['train'])
    features = FeatureConverter.for_model(
        task, opened.vocabulary, opened.model, prompt.layout, prompt.rows).convert(
            examples['train'])
    # Evaluation is soon done: compiling it for as many lengths would take longer than it gains.
    most = TrainSettings.max_buckets if settings.max_buckets == AUTO else settings.max_buckets
    lengths = _buckets(features, settings, -(-most // 2), settings.batch_size)
    evaluator = Evaluator(opened, task, prompt.layout, settings.evaluate_by,
                          settings.evaluation_batch_size,
                          lengths and tuple(length - prompt.rows for length in lengths), design)
    for split in splits[1:]:
        evaluator.prepare(examples[split], prompt.rows)
    common = {split: evaluator.most_common(examples[split]) for split in splits[1:]}
    choose_by = figure_to_choose_by(settings.choose_by, common['validation'][1],
                                    task.label_words is None and not task.metrics)
    if len(examples['validation']) < _FEW:
        _log.warning('%s has %d examples: what looks better on so few may be so by chance',
                     examples['validation'].name, len(examples['validation']))
    # Of few examples all: others were not to be seen.
    some = functools.cache(lambda: load('train', settings.train_limit or _SOME))
    return Problem('', task, prompt.layout, prompt.rows, examples, features,
                   lambda tuned, split: evaluator(tuned.prompt, examples[split], tuned.weights),
                   lambda several, split: evaluator.measure_ensemble(several, examples[split]),
                   common, choose_by, settings.batch_size, settings.seed,
                   lambda rows_PD: evaluator(Prompt(rows_PD), some())[LOSS], design=design)


def with_rows_added(problem: Problem, opened: OpenedModel, added: int) -> Problem:
    """Let the texts of training say which rows are added to them, for a method that adds some.

    Args:
      problem: from `make_problem`, which knows no methods.
      opened: the model.
      added: rows of a prompt that are added to the text; 0 leaves the problem as it is.
    """
    if not added:
        return problem
    converter = FeatureConverter.for_model(problem.task, opened.vocabulary, opened.model,
                                           problem.layout, problem.num_rows, added)
    encoder = problem.features.encoder
    encoder = Ragged.from_sequences([converter.adding(encoder[row])
                                     for row in range(len(encoder))])
    features = dataclasses.replace(problem.features, encoder=encoder)
    return dataclasses.replace(problem, features=features, added=added)


def default_start(task: Any, num_rows: int) -> Initializer:
    """Return the paper's best start: class labels where they fit, else frequent vocabulary."""
    words = task.label_words
    fits = words is not None and len(words) <= num_rows
    return class_labels(words) if fits else sampled_vocabulary()


def _buckets(features: Features, settings: TrainSettings, count: int,
             batch_size: int) -> tuple[int, ...] | None:
    """Choose so many padded lengths by the training split; None for a single one."""
    if not count:
        return None
    return choose_buckets(features.lengths, count, settings.bucket_multiple, batch_size)
