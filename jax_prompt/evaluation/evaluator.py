"""Evaluate prompts on the examples of a task: metrics over predictions, and the loss."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_prompt.data.batches import choose_buckets, covering
from jax_prompt.data.design import CLOZE, Design
from jax_prompt.data.examples import Examples, encode_labels
from jax_prompt.data.features import FeatureConverter, Features
from jax_prompt.evaluation.metrics import LOSS, LOWER_IS_BETTER, most_common
from jax_prompt.evaluation.registry import metrics_of
from jax_prompt.evaluation.statistics import bootstrap
from jax_prompt.inference.batching import How, Shapes
from jax_prompt.inference.designs import DesignInUse
from jax_prompt.inference.ensemble import VOTE, WAYS, member_row, together
from jax_prompt.inference.predict import predict
from jax_prompt.inference.programs import with_weights
from jax_prompt.inference.rank import LabelSet, label_arrays
from jax_prompt.inference.rows import Prediction, Row
from jax_prompt.inference.states import mean_states
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.mesh import DATA
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt, join_prompts
from jax_prompt.types import Params

#: The way that only scores targets; it answers nothing.
ONLY_LOSS = 'loss'
#: Lengths that are chosen for a split: compiling for more takes longer than it gains.
_LENGTHS = 4

MEAN_OF_MEMBERS = 'mean of the members'
BEST_MEMBER = 'best member'
ENSEMBLE = 'ensemble by {}'

_log = logging.getLogger(__name__)


class Evaluator:
    """Evaluate prompts for one task with one model; rows are made and programs compiled once."""

    def __init__(self, opened: OpenedModel, task: Any, layout: Layout,
                 ways: Sequence[str] | None = None, batch_size: int = 64,
                 lengths: Sequence[int] | None = None, design: Design | None = None):
        """Take a task into use.

        Args:
          opened: the model.
          task: a `TextTask` or `RegisteredTask`; its labels are what is ranked, its metrics, where
            it has some, judge the first way's predictions.
          layout: where the virtual tokens stand.
          ways: 'rank', 'greedy' or both, or 'loss' alone, which answers nothing; None for rank
            where the task has labels, else greedy.
          batch_size: examples a batch; raised to a multiple of the mesh's data axis.
          lengths: to which inputs are padded, virtual tokens not counted; None to choose them for
            each split.
          design: words the inputs and the labels; None for the task's template and label words.

        Raises:
          ValueError: ranking is asked for but the task has no labels, a metric cannot judge the
            task, or the design is not for it.
        """
        self.opened, self.task, self._layout, self._lengths = opened, task, layout, lengths
        ways = tuple(ways or (('greedy',) if task.label_words is None else ('rank',)))
        # The loss is told with all others anyway.
        self.ways = tuple(way for way in ways if way != ONLY_LOSS) or (ONLY_LOSS,)
        share = 1 if opened.mesh is None else opened.mesh.shape[DATA]
        self._batch_size = -(-batch_size // share) * share
        self._metrics_of = {way: metrics_of(task, way, own=way == self.ways[0])
                            for way in self.ways if way != ONLY_LOSS}
        self._labels = self._design = None
        if design is not None:
            self._design = DesignInUse(opened, task, design, functools.partial(
                mean_states, opened, shapes=Shapes.for_batches_of(self._batch_size)))
            self._labels = self._design.labels
            _check_ways(self.ways, design)
        elif 'rank' in self.ways:
            spelt = encode_labels(task, opened.vocabulary)
            self._labels = LabelSet(task.label_words, *label_arrays(
                [spelt[number] for number in range(len(spelt))], opened.model))
        self._made: dict[tuple[Examples, int, int], tuple[dict[str, list[Row]], How]] = {}
        self._target_tokens: dict[Examples, np.ndarray] = {}

    def __call__(self, prompt: Prompt, examples: Examples,
                 weights: Params | None = None) -> dict[str, float]:
        """Return the metrics of a prompt, see `measure`."""
        return self.measure(prompt, examples, weights)[0]

    def measure(self, prompt: Prompt, examples: Examples, weights: Params | None = None,
                ) -> tuple[dict[str, float], dict[str, list[Prediction]]]:
        """Evaluate one prompt; says in the log where all answers are the same.

        Args:
          prompt: without rows, or with as many as the task's layout can place.
          examples: of a split.
          weights: tuned ones, in place of the model's; None for its own.

        Returns:
          (metric name -> value, those of the first way first and the loss last; way -> the
          predictions). The loss is the mean cross-entropy of target tokens in nats, that which
          training reports: `predict` writes the texts, but how far they are from right it tells.

        Raises:
          ValueError: scores are not finite, or two metrics have the same name.
        """
        predictions, = self._answers([prompt], examples, weights)
        first = predictions[self.ways[0]]
        right = {self.task.target_text(row).strip() for row in examples.rows}
        alike = len({one.text for one in first}) == 1 and self.ways != (ONLY_LOSS,)
        if len(right) > 1 and alike:
            _log.warning('%s: the answer to all %d examples is %r', examples.name, len(first),
                         first[0].text)
        return self._judge(predictions, examples), predictions

    def measure_edited(self, prompt: Prompt, examples: Examples,
                       edits: Sequence[Callable[[np.ndarray], np.ndarray]],
                       ) -> list[tuple[dict[str, float], dict[str, list[Prediction]]]]:
        """Evaluate one prompt on inputs that are changed in several ways, all in the same batches.

        What stands where is said by ids, so a row of the prompt is taken out of an input by taking
        out its id: no program is compiled for it.

        Args:
          prompt: that all inputs use.
          examples: of a split.
          edits: ids of an input, int32[S'] -> int32[S''], no longer than before.

        Returns:
          For each edit what `measure` gives.
        """
        rows, how = self.prepare(examples, prompt.num_virtual, prompt.added)
        count, vocab_size, found = len(edits), self.opened.model.vocab_size, {}
        for way in self.ways:
            own = [member_row(row, 0, prompt, vocab_size) for row in rows[way]]
            asked = [dataclasses.replace(row, ids=edit(row.ids)) for row in own for edit in edits]
            found[way] = predict(self.opened, prompt, asked, how,
                                 lambda number: examples.rows[number // count].where)
        each = [{way: found[way][number::count] for way in self.ways} for number in range(count)]
        return [(self._judge(predictions, examples), predictions) for predictions in each]

    def measure_ensemble(self, prompts: Sequence[Prompt],
                         examples: Examples) -> dict[str, dict[str, float]]:
        """Evaluate prompts that answer together, all of them in the same batches.

        Args:
          prompts: of one size, two or more.
          examples: of a split.

        Returns:
          Heading -> metrics: the mean of the members' own, those of the best member by the first
          figure, and those of the ensemble by each way that `inference.ensemble` has for the task.

        Source: Lester et al. 2021 (arXiv:2104.08691), table 3, has the same lines.
        """
        members = self._answers(prompts, examples)
        own = [self._judge(predictions, examples) for predictions in members]
        first = next(iter(own[0]))
        best = (min if first in LOWER_IS_BETTER else max)(own, key=lambda metrics: metrics[first])
        measured = {MEAN_OF_MEMBERS: {name: float(np.mean([one[name] for one in own]))
                                      for name in own[0]}, BEST_MEMBER: best}
        for way in WAYS if self.ways == ('rank',) else (VOTE,):
            measured[ENSEMBLE.format(way)] = self._judge(self._together(members, way), examples)
        return measured

    def measure_together(self, prompts: Sequence[Prompt], examples: Examples, way: str = VOTE,
                         ) -> tuple[dict[str, float], dict[str, list[Prediction]]]:
        """Evaluate what prompts answer together in one way, as `measure` does of one prompt.

        Args:
          prompts: of one size, two or more.
          examples: of a split.
          way: how their answers become one, see `inference.ensemble.together`.
        """
        answers = self._together(self._answers(prompts, examples), way)
        return self._judge(answers, examples), answers

    def _together(self, members: Sequence[Mapping[str, list[Prediction]]],
                  way: str) -> dict[str, list[Prediction]]:
        """Make one answer of those that members gave to each example."""
        return {asked: [together(given, way) for given in
                        zip(*(one[asked] for one in members), strict=True)] for asked in self.ways}

    def _answers(self, prompts: Sequence[Prompt], examples: Examples,
                 weights: Params | None = None) -> list[dict[str, list[Prediction]]]:
        """Return for each prompt way -> its predictions; rows of all of them share batches."""
        first, count = prompts[0], len(prompts)
        rows, how = self.prepare(examples, first.num_virtual, first.added)
        opened, found = with_weights(self.opened, weights or {}), {}
        for way in self.ways:
            asked = [member_row(row, number, first, self.opened.model.vocab_size)
                     for row in rows[way] for number in range(count)]
            found[way] = predict(opened, join_prompts(prompts), asked, how,
                                 lambda number: examples.rows[number // count].where)
        return [{way: found[way][number::count] for way in self.ways} for number in range(count)]

    def _judge(self, predictions: Mapping[str, list[Prediction]],
               examples: Examples) -> dict[str, float]:
        """Return the metrics of predictions, the loss last."""
        metrics = self._metrics(predictions, examples)
        return metrics | {LOSS: self._loss(predictions, examples)}

    def calibrated(self, scores_BC: np.ndarray) -> np.ndarray:
        """Return scores, float32[B, C], without what the design takes away from its labels."""
        shift_C = None if self._labels is None else self._labels.calibration_C
        return scores_BC if shift_C is None else scores_BC - shift_C

    def most_common(self, examples: Examples) -> tuple[str, dict[str, float]]:
        """Return the most common right answer of a split, and its metrics without the loss.

        They are what a prompt must surpass to be of use: those of the majority class.
        """
        rows = examples.rows
        one = most_common(self.task, rows, self.task.label_words if self.ways[0] == 'rank' else ())
        return one.text, self._metrics({way: [one] * len(rows) for way in self.ways}, examples)

    def intervals(self, predictions: Mapping[str, list[Prediction]],
                  examples: Examples) -> dict[str, tuple[float, float]]:
        """Return 95 % intervals of the metrics, by bootstrap; of `measure`'s predictions.

        The loss has none: it is of targets, not of answers.
        """
        found = {}
        for way, metrics in self._metrics_of.items():
            for metric in metrics:
                found |= bootstrap(metric, predictions[way], examples.rows)
        return found

    def _metrics(self, predictions: Mapping[str, list[Prediction]],
                 examples: Examples) -> dict[str, float]:
        metrics = {}
        for way in self._metrics_of:
            for metric in self._metrics_of[way]:
                found = metric(predictions[way], examples.rows)
                for name in found.keys() & {LOSS, *metrics}:
                    raise ValueError(f'two metrics of task {self.task.name} are called {name!r}; '
                                     'give them different names')
                metrics |= found
        return metrics

    def _loss(self, predictions: Mapping[str, list[Prediction]], examples: Examples) -> float:
        """Return the cross-entropy of the targets, which the predictions' programs scored too."""
        scores_N, tokens_N = self.target_scores(predictions, examples)
        return -float(np.sum(scores_N, dtype=np.float64) / np.sum(tokens_N))

    def target_scores(self, predictions: Mapping[str, list[Prediction]],
                      examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        """Return each example's part of the loss.

        Args:
          predictions: of `measure`, or of one edit of `measure_edited`.
          examples: the same.

        Returns:
          (float[N], the log-probability of each target; float[N], how many tokens it has).
        """
        if 'rank' in self.ways:
            scores_NC, right_N = scores_of(predictions['rank']), examples.labels
            scores_N = scores_NC[np.arange(len(right_N)), right_N]
            tokens_N = self._labels.num_tokens_C[right_N]
        else:
            scores_N = np.array([one.target_score for one in predictions[self.ways[0]]])
            tokens_N = self._target_tokens[examples]
        return scores_N, tokens_N

    def prepare(self, examples: Examples, num_rows: int,
                added: int = 0) -> tuple[dict[str, list[Row]], How]:
        """Make the rows of a split, once; `measure` does it where nobody has.

        Args:
          examples: of the split.
          num_rows: P, virtual tokens of the prompts to be evaluated; 0 for the plain model.
          added: rows that they add to the text besides.

        Returns:
          (way -> rows, how they are to be predicted).

        Raises:
          ValueError: as `FeatureConverter.convert` does.
        """
        key = examples, num_rows, added
        if key not in self._made:
            converter = FeatureConverter.for_model(
                self.task, self.opened.vocabulary, self.opened.model, self._layout, num_rows,
                added)
            features = converter.convert(
                examples if self._design is None else self._design.examples(examples))
            how = self._how(features, num_rows)
            self._made[key] = {way: self._rows(way, features, how) for way in self.ways}, how
            self._target_tokens[examples] = features.targets.lengths
        return self._made[key]

    def _rows(self, way: str, features: Features, how: How) -> list[Row]:
        labels = self._labels if way == 'rank' else None
        most = 1 if way == ONLY_LOSS else self.task.targets_length  # no program generates nothing
        group = how.rank_group(labels) if way == 'rank' else how.generation_group(most, 'sample')
        targets: Any = [None] * len(features)
        if 'rank' not in self.ways:  # ranking scores the right label anyway
            targets = features.targets.padded(range(len(features)), features.decoder_length,
                                              features.pad_id)
        return [Row('the prompt', features.encoder[number], False, labels, most, 'sample', None,
                    group, targets[number]) for number in range(len(features))]

    def _how(self, features: Features, num_rows: int) -> How:
        """Choose the sizes of a split's batches: exactly what its examples need."""
        if self._lengths is None:  # batches are of like lengths, so their longest are what counts
            longest_first = np.sort(features.lengths)[::-1]
            lengths = choose_buckets(longest_first[::self._batch_size], _LENGTHS)
        else:
            lengths = covering([length + num_rows for length in self._lengths], features.lengths)
        labels = {} if self._labels is None else {'labels': (self._labels.shape,)}
        return How(Shapes(batch_sizes=(self._batch_size,), lengths=lengths, shared_labels=1,
                          targets=(1 if self.ways == (ONLY_LOSS,) else self.task.targets_length,),
                          **labels))


def _check_ways(ways: Sequence[str], design: Design) -> None:
    """Refuse to generate what a design's labels are not: whole label words."""
    if 'greedy' in ways and (design.words is not None or design.form == CLOZE):
        raise ValueError('a design with words for its labels, or a cloze, is ranked and not '
                         f"generated, but evaluate_by is {tuple(ways)}; set it to 'rank'")


def scores_of(predictions: Sequence[Prediction]) -> np.ndarray:
    """Return the scores of ranked labels, float32[B, C]."""
    return np.array([list(one.scores.values()) for one in predictions], np.float32)
