"""What predictions are judged by: fractions from 0 to 1, correlations from -1 to 1, and the loss.

A metric is a function of predictions and of the rows that they answer: what the rows' sources told,
so that a metric may look at any column. Here they are made from a task, which knows what is right
for a row and which labels there are. Where a row has several right answers, a prediction is
compared with the one that it equals. An answer that is none, such as a text that is no label, is
never right, and counted by `illegal`.

The formulas are a few lines each, so they stand here; tests hold them to scikit-learn's and
scipy's results.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from jax_prompt.data.tasks.rows import Row
from jax_prompt.inference.calibration import expected_calibration_error
from jax_prompt.inference.rows import Prediction

#: (predictions, their rows) -> name -> value.
Metric = Callable[[Sequence[Prediction], Sequence[Row]], dict[str, float]]

#: The metric that every evaluation has.
LOSS = 'loss'
#: Figures of which a lower one is better.
LOWER_IS_BETTER = frozenset({LOSS, 'illegal', 'calibration_error'})
#: What stands for an answer that is no number, as T5's `string_to_float` has it.
_NO_NUMBER = -1.0


@dataclasses.dataclass(frozen=True)
class StagedMetric:
    """A `Metric` in two stages, of which bootstrap repeats the second alone.

    Attributes:
      units: (predictions, their rows) -> what each example, or each group of them, gives.
      summarize: some of these -> name -> value.
    """

    units: Callable[[Sequence[Prediction], Sequence[Row]], list[Any]]
    summarize: Callable[[Sequence[Any]], dict[str, float]]

    def __call__(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        """Return name -> value.

        Raises:
          ValueError: no predictions, or another number of them than rows.
        """
        if len(predictions) != len(rows):
            raise ValueError(f'got {len(predictions)} predictions for {len(rows)} targets; '
                             'expected one prediction a target')
        if not rows:
            raise ValueError('got no predictions; a metric needs at least one example')
        return self.summarize(self.units(predictions, rows))


class Judge(Protocol):
    """What metrics ask of a task."""

    name: str
    label_words: tuple[str, ...] | None

    def right_answers(self, row: Row) -> tuple[str, ...]:
        """Return all right answers to a row, at least one."""


def accuracy(task: Judge, name: str = 'accuracy') -> StagedMetric:
    """Return the metric 'accuracy': the fraction of answers that are right.

    Texts are compared without the white space at their ends.

    Args:
      task: tells what is right.
      name: what to call it.
    """
    return StagedMetric(answer_pairs(task), lambda pairs: {
        name: sum(predicted == right for predicted, right in pairs) / len(pairs)})


def exact_match(task: Judge) -> StagedMetric:
    """Return the metric 'exact_match': `accuracy` of free text."""
    return accuracy(task, 'exact_match')


def f1(task: Judge, positive: str | None = None, name: str = 'f1') -> StagedMetric:
    """Return the metric 'f1': the harmonic mean of precision and recall of one class.

    Args:
      task: tells what is right. An answer that is none of its two labels counts as the wrong one,
        as in T5's `f1_score_with_invalid`.
      positive: the class in question, 0 where it never occurs; None for the second of two labels,
        which is the positive one in GLUE and SuperGLUE.
      name: what to call it.

    Raises:
      ValueError: no class is given and the task has not two labels.
    """
    labels = task.label_words or ()
    if positive is None and len(labels) != 2:
        raise ValueError(f'metric {name} is of one of two labels, but task {task.name} has '
                         f'{len(labels) or "none"}; choose macro_f1, or in Python give f1 the '
                         'positive class')
    positive = labels[1] if positive is None else positive

    def summarize(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
        if len(labels) == 2:
            pairs = [(one if one in labels else labels[right == labels[0]], right)
                     for one, right in pairs]
        return {name: _f1(pairs, [positive])}

    return StagedMetric(answer_pairs(task), summarize)


def macro_f1(task: Judge) -> StagedMetric:
    """Return the metric 'macro_f1': the mean of `f1` over the classes that are predicted or right.

    An answer that is no label is a class of its own nowhere: it costs the recall of the right one.
    """

    def summarize(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
        classes = _classes(pairs, task)
        return {'macro_f1': sum(_f1(pairs, [label]) for label in classes) / len(classes)}

    return StagedMetric(answer_pairs(task), summarize)


def micro_f1(task: Judge) -> StagedMetric:
    """Return the metric 'micro_f1': `f1` over the counts of all classes.

    It equals accuracy where all answers are labels.
    """
    return StagedMetric(answer_pairs(task), lambda pairs: {
        'micro_f1': _f1(pairs, _classes(pairs, task))})


def matthews(task: Judge) -> StagedMetric:
    """Return the metric 'matthews': Matthews' correlation; of many classes, Gorodkin's R_K (2004).

    It is 0 where answers, or what is right, are all the same, as scikit-learn has it.
    """

    def summarize(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
        said, right = (collections.Counter(side) for side in zip(*pairs, strict=True))
        hits, total = sum(one == other for one, other in pairs), len(pairs)
        covariance = hits * total - sum(said[label] * right[label] for label in said)
        spreads = [total**2 - sum(count**2 for count in side.values()) for side in (said, right)]
        return {'matthews': covariance / math.sqrt(math.prod(spreads)) if all(spreads) else 0.0}

    return StagedMetric(answer_pairs(task), summarize)


def pearson(task: Judge) -> StagedMetric:
    """Return the metric 'pearson': the correlation of numbers.

    An answer that is no number counts as -1, as T5 has it for STS-B. The correlation is 0 where
    answers, or what is right, are all the same; scipy has no number for it there.
    """
    return StagedMetric(_numbers(task), lambda pairs: {
        'pearson': _correlation(*np.transpose(pairs))})


def spearman(task: Judge) -> StagedMetric:
    """Return the metric 'spearman': the correlation of ranks; otherwise as `pearson`."""
    from scipy.stats import rankdata

    return StagedMetric(_numbers(task), lambda pairs: {
        'spearman': _correlation(*map(rankdata, np.transpose(pairs)))})


def calibration_error(task: Judge) -> StagedMetric:
    """Return the metric 'calibration_error': how far probabilities of labels are from accuracy.

    See `inference.calibration.expected_calibration_error`; the lower, the better.

    Raises:
      ValueError: the task has no labels; and where the metric is used, predictions without
        probabilities, which were generated and not ranked.
    """
    if task.label_words is None:
        raise ValueError('metric calibration_error is of label probabilities, but task '
                         f'{task.name} has no labels; leave it out')
    number = {word.strip(): index for index, word in enumerate(task.label_words)}

    def units(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[Any]:
        if any(one.probabilities is None for one in predictions):
            raise ValueError('metric calibration_error needs probabilities of labels, which '
                             'generated answers have not; put rank first in evaluate_by')
        return [([one.probabilities[word] for word in task.label_words], number[right])
                for one, (_, right) in zip(predictions, answer_pairs(task)(predictions, rows),
                                           strict=True)]

    def summarize(scored: Sequence[Any]) -> dict[str, float]:
        odds_BC, right_B = map(np.array, zip(*scored, strict=True))
        return {'calibration_error': expected_calibration_error(odds_BC, right_B)}

    return StagedMetric(units, summarize)


def illegal(task: Judge) -> StagedMetric:
    """Return the metric 'illegal': the fraction of answers that are none; the lower, the better.

    Of a task with labels, those that are no label; of numbers (a task that is judged by
    correlation), those that are no number; of free text, those that are empty.
    """
    labels = None if task.label_words is None else {word.strip() for word in task.label_words}
    of_numbers = bool({'pearson', 'spearman'} & set(getattr(task, 'metrics', None) or ()))

    def is_none(text: str) -> bool:
        if labels is not None:
            return text not in labels
        return math.isnan(_number(text)) if of_numbers else not text

    return StagedMetric(lambda predictions, _: [is_none(one.text.strip()) for one in predictions],
                        lambda found: {'illegal': sum(found) / len(found)})


def most_common(task: Judge, rows: Sequence[Row], labels: Sequence[str] = ()) -> Prediction:
    """Return the best of all answers that look at no input: the most common right one.

    Args:
      task: tells what is right.
      rows: at least one.
      labels: all that may be chosen among; they are scored by how often each is right.
    """
    counts = collections.Counter(
        text for row in rows for text in dict.fromkeys(map(str.strip, task.right_answers(row))))
    answer = counts.most_common(1)[0][0]
    if not labels:
        return Prediction(answer)
    # One more of each: a label that never occurs has a logarithm too.
    total = sum(counts.values()) + len(labels)
    odds = {label: (counts[label.strip()] + 1) / total for label in labels}
    return Prediction(answer, {label: math.log(p) for label, p in odds.items()}, odds)


def answer_pairs(task: Judge) -> Callable[[Sequence[Prediction], Sequence[Row]],
                                          list[tuple[str, str]]]:
    """Return what makes (predicted, right) texts of predictions and rows.

    Of several right answers it is the one that was predicted, or the first.
    """

    def units(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[tuple[str, str]]:
        pairs = []
        for one, row in zip(predictions, rows, strict=True):
            text, golds = one.text.strip(), [gold.strip() for gold in task.right_answers(row)]
            pairs.append((text, text if text in golds else golds[0]))
        return pairs

    return units


def _classes(pairs: Sequence[tuple[str, str]], task: Judge) -> set[str]:
    """Return the classes that are predicted or right, of a task with labels among these."""
    found = {label for pair in pairs for label in pair}
    return found if task.label_words is None else found & {*map(str.strip, task.label_words)}


def _f1(pairs: Sequence[tuple[str, str]], classes: Iterable[str]) -> float:
    """Return F1 over the counts of some classes; 0 where none of them occurs."""
    classes = set(classes)
    hits = sum(predicted == right in classes for predicted, right in pairs)
    marked = sum((predicted in classes) + (right in classes) for predicted, right in pairs)
    return 2 * hits / marked if marked else 0.0


def _numbers(task: Judge) -> Callable[[Sequence[Prediction], Sequence[Row]],
                                      list[tuple[float, float]]]:
    """Return what makes (predicted, right) numbers of predictions and rows."""

    def units(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[tuple[float, float]]:
        pairs = []
        for one, row in zip(predictions, rows, strict=True):
            said, gold = _number(one.text), task.right_answers(row)[0]
            if math.isnan(right := _number(gold)):
                raise ValueError(f'the right answer {gold!r} at {row.where} is no number; a '
                                 'correlation is of numbers: choose another metric')
            pairs.append((_NO_NUMBER if math.isnan(said) else said, right))
        return pairs

    return units


def _number(text: str) -> float:
    """Return the finite number that a text is, or NaN."""
    try:
        found = float(text)
    except ValueError:
        return math.nan
    return found if math.isfinite(found) else math.nan


def _correlation(one_N: np.ndarray, other_N: np.ndarray) -> float:
    """Return Pearson's correlation; 0 where one side is all the same."""
    if min(np.ptp(one_N), np.ptp(other_N)) == 0:
        return 0.0
    from scipy.stats import pearsonr

    return float(pearsonr(one_N, other_N).statistic)
