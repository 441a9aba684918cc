"""What predictions are judged by; all but the loss are fractions from 0 to 1.

A metric is a function of predictions and of the rows that they answer: what the rows' sources told,
so that a metric may look at any column. Here they are made from `target`, which gives the text that
is right for a row, such as `TextTask.target_text`.
"""

import collections
import math
from collections.abc import Callable, Sequence

from jax_prompt.data.tasks.rows import Row
from jax_prompt.inference.rows import Prediction

#: (predictions, their rows) -> name -> value; the higher, the better.
Metric = Callable[[Sequence[Prediction], Sequence[Row]], dict[str, float]]
#: row -> the text that is right
Target = Callable[[Row], str]

#: The metric that every evaluation has; the lower, the better.
LOSS = 'loss'


def accuracy(target: Target, name: str = 'accuracy') -> Metric:
    """Return the metric 'accuracy': the fraction of answers equal to the target.

    Texts are compared without the white space at their ends.

    Args:
      target: row -> the right label or text.
      name: what to call it.

    Returns:
      The metric, which raises ValueError for no predictions, or another number of them than rows.
    """

    def measure(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        pairs = _pairs(predictions, rows, target)
        return {name: sum(predicted == right for predicted, right in pairs) / len(pairs)}

    return measure


def exact_match(target: Target) -> Metric:
    """Return the metric 'exact_match': `accuracy` of free text."""
    return accuracy(target, 'exact_match')


def most_common(target: Target, rows: Sequence[Row], labels: Sequence[str] = ()) -> Prediction:
    """Return the best of all answers that look at no input: the most common right one.

    Args:
      target: row -> the text that is right.
      rows: at least one.
      labels: all that may be chosen among; they are scored by how often each is right.
    """
    counts = collections.Counter(target(row).strip() for row in rows)
    answer = counts.most_common(1)[0][0]
    if not labels:
        return Prediction(answer)
    # One more of each: a label that never occurs has a logarithm too.
    odds = {label: (counts[label.strip()] + 1) / (len(rows) + len(labels)) for label in labels}
    return Prediction(answer, {label: math.log(p) for label, p in odds.items()}, odds)


def f1(target: Target, positive: str) -> Metric:
    """Return the metric 'f1': the harmonic mean of precision and recall of one class.

    Args:
      target: row -> the right label.
      positive: the class in question; the value is 0 where it never occurs.

    Returns:
      The metric, with errors as `accuracy` has them.
    """
    return lambda predictions, rows: {'f1': _f1(_pairs(predictions, rows, target), positive)}


def macro_f1(target: Target) -> Metric:
    """Return the metric 'macro_f1': the mean of `f1` over the classes, predicted or right."""

    def measure(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        pairs = _pairs(predictions, rows, target)
        classes = {label for pair in pairs for label in pair}
        return {'macro_f1': sum(_f1(pairs, label) for label in classes) / len(classes)}

    return measure


def _f1(pairs: Sequence[tuple[str, str]], positive: str) -> float:
    hits = sum(predicted == right == positive for predicted, right in pairs)
    marked = sum((predicted == positive) + (right == positive) for predicted, right in pairs)
    return 2 * hits / marked if marked else 0.0


def _pairs(predictions: Sequence[Prediction], rows: Sequence[Row],
           target: Target) -> list[tuple[str, str]]:
    """Return (predicted, right) texts."""
    if len(predictions) != len(rows):
        raise ValueError(f'got {len(predictions)} predictions for {len(rows)} targets; expected '
                         'one prediction a target')
    if not rows:
        raise ValueError('got no predictions; a metric needs at least one example')
    return [(one.text.strip(), target(row).strip())
            for one, row in zip(predictions, rows, strict=True)]
