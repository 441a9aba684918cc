"""What predictions are judged by; all are fractions from 0 to 1."""

from collections.abc import Hashable, Sequence


def accuracy(predicted: Sequence[Hashable], actual: Sequence[Hashable]) -> float:
    """Return the fraction of predictions that equal the actual label.

    Args:
      predicted: labels, as numbers or as words.
      actual: as many, in the same order.

    Raises:
      ValueError: for sequences of different lengths, or empty ones.
    """
    pairs = _pairs(predicted, actual)
    return sum(p == a for p, a in pairs) / len(pairs)


def exact_match(predicted: Sequence[str], actual: Sequence[str]) -> float:
    """Return the fraction of texts equal to the target, apart from white space at their ends.

    Raises:
      ValueError: for sequences of different lengths, or empty ones.
    """
    return accuracy([text.strip() for text in predicted], [text.strip() for text in actual])


def f1(predicted: Sequence[Hashable], actual: Sequence[Hashable], positive: Hashable = 1) -> float:
    """Return the harmonic mean of precision and recall of one class; 0 where it never occurs.

    Args:
      predicted: labels, as numbers or as words.
      actual: as many, in the same order.
      positive: the class in question.

    Raises:
      ValueError: for sequences of different lengths, or empty ones.
    """
    pairs = _pairs(predicted, actual)
    hits = sum(p == a == positive for p, a in pairs)
    marked = sum((p == positive) + (a == positive) for p, a in pairs)
    return 2 * hits / marked if marked else 0.0


def macro_f1(predicted: Sequence[Hashable], actual: Sequence[Hashable]) -> float:
    """Return the unweighted mean of `f1` over the classes that occur, predicted or actual.

    Raises:
      ValueError: for sequences of different lengths, or empty ones.
    """
    pairs = _pairs(predicted, actual)
    classes = {label for pair in pairs for label in pair}
    return sum(f1(predicted, actual, label) for label in classes) / len(classes)


def _pairs(predicted: Sequence[Hashable], actual: Sequence[Hashable]) -> list[tuple]:
    if len(predicted) != len(actual):
        raise ValueError(f'got {len(predicted)} predictions for {len(actual)} targets; expected '
                         'one prediction a target')
    if len(actual) == 0:
        raise ValueError('got no predictions; a metric needs at least one example')
    return list(zip(predicted, actual, strict=True))
