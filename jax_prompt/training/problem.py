"""What is learned, and on what: a task, where the virtual tokens stand, and features of both."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jax.sharding import Mesh

from jax_prompt.data.batches import choose_buckets, train_batches
from jax_prompt.data.examples import Examples, load_examples
from jax_prompt.data.features import FeatureConverter, Features
from jax_prompt.data.packing import choose_packing, packed_train_batches
from jax_prompt.evaluation.evaluator import Evaluator
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.mesh import DATA
from jax_prompt.parallel.placement import host_rows
from jax_prompt.prompts.initializers import Initializer, class_labels, sampled_vocabulary
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.training.selection import figure_to_choose_by
from jax_prompt.training.settings import PromptSettings, TrainSettings
from jax_prompt.types import Batch

#: Examples to validate on, below which chance moves an accuracy by 14 points (two standard errors).
_FEW = 50

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A task, tokenised for one model and one place of the virtual tokens.

    Attributes:
      task: a `TextTask` or `RegisteredTask`.
      layout: where the virtual tokens stand.
      num_rows: P, how many there are.
      examples: by split, with their raw rows.
      features: of the training split.
      evaluate: (prompt, split) -> metric name -> value, the loss among them; of a prompt without
        rows for the plain model.
      most_common: by split, the most common right answer and the metrics of giving it always.
      choose_by: the figure of the validation that prompts are chosen by.
    """

    task: Any
    layout: Layout
    num_rows: int
    examples: Mapping[str, Examples]
    features: Features
    evaluate: Callable[[Prompt, str], dict[str, float]]
    most_common: Mapping[str, tuple[str, dict[str, float]]]
    choose_by: str

    @property
    def test_split(self) -> str:
        """Return the split that the best prompt is measured on at the end."""
        return 'test' if 'test' in self.examples else 'validation'

    def batches(self, settings: TrainSettings, mesh: Mesh, start_step: int) -> Iterator[Batch]:
        """Yield this host's rows of the training batches from a step on, without end."""
        if settings.packing:
            share = mesh.shape[DATA] * settings.microbatches
            packing = choose_packing(self.features, settings.batch_size, row_multiple=share,
                                     multiple=settings.bucket_multiple)
            return packed_train_batches(self.features, settings.batch_size, settings.seed, packing,
                                        start_step, host_rows(mesh, packing.rows))
        buckets = _buckets(self.features, settings, settings.max_buckets)
        return train_batches(self.features, settings.batch_size, settings.seed, buckets,
                             start_step, host_rows(mesh, settings.batch_size))


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
    splits = ['train', 'validation'] + (['test'] if 'test' in task.splits else [])
    limits = {'validation': settings.evaluation_limit}
    examples = {split: load_examples(task, split, opened.vocabulary, limits.get(split))
                for split in splits}
    features = FeatureConverter.for_model(
        task, opened.vocabulary, opened.model, prompt.layout, prompt.rows).convert(
            examples['train'])
    # Evaluation is soon done: compiling it for as many lengths would take longer than it gains.
    lengths = _buckets(features, settings, -(-settings.max_buckets // 2))
    evaluator = Evaluator(opened, task, prompt.layout, settings.evaluate_by,
                          settings.evaluation_batch_size,
                          lengths and tuple(length - prompt.rows for length in lengths))
    for split in splits[1:]:
        evaluator.prepare(examples[split], prompt.rows)
    common = {split: evaluator.most_common(examples[split]) for split in splits[1:]}
    choose_by = figure_to_choose_by(settings.choose_by, common['validation'][1],
                                    task.label_words is None and not task.metrics)
    if len(examples['validation']) < _FEW:
        _log.warning('%s has %d examples: what looks better on so few may be so by chance',
                     examples['validation'].name, len(examples['validation']))
    return Problem(task, prompt.layout, prompt.rows, examples, features,
                   lambda tuned, split: evaluator(tuned, examples[split]), common, choose_by)


def default_start(task: Any, num_rows: int) -> Initializer:
    """Return the paper's best start: class labels where they fit, else frequent vocabulary."""
    words = task.label_words
    fits = words is not None and len(words) <= num_rows
    return class_labels(words) if fits else sampled_vocabulary()


def _buckets(features: Features, settings: TrainSettings, count: int) -> tuple[int, ...] | None:
    """Choose so many padded lengths by the training split; None for a single one."""
    if not count:
        return None
    return choose_buckets(features.lengths, count, settings.bucket_multiple, settings.batch_size)
