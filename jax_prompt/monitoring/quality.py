"""Has a figure fallen by more than a margin? Tests whose error rate is stated.

The hypothesis that is tested is that the prompt has fallen by no more than the margin. Of samples
of such a prompt it is rejected in at most a fraction alpha: an alarm is evidence, no alarm is none,
which is why each comparison also tells the fall that it would have found.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jax_prompt.evaluation.metrics import LOWER_IS_BETTER

#: Figures that are a fraction of examples, each right or wrong by itself: they have exact tests.
PROPORTIONS = frozenset({'accuracy', 'exact_match', 'illegal'})

#: How likely the true figure of the reference is outside of what `exact_p` tries; it is added to p.
_BEYOND = 1e-4
#: Figures of the reference that are tried within its interval, and the chance that is left out.
_TRIED, _NEGLIGIBLE = 51, 1e-12
#: A fall that would be found has this probability to be found.
_POWER = 0.8


@dataclasses.dataclass(frozen=True)
class Figure:
    """A metric's value on a sample.

    Attributes:
      value: of all examples.
      size: how many examples; None where nobody knows, and the value is taken as exact.
      resampled: the values of bootstrap samples; empty for a fraction, which needs none, and where
        the value is taken as exact.
    """

    value: float
    size: int | None = None
    resampled: Sequence[float] = ()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One figure on fresh data beside the version's own.

    Attributes:
      metric: its name.
      value, size: on the fresh data, and how many examples these are.
      interval: of 95 %, of the fresh value.
      reference, reference_size: the version's own; a size of None says that it was taken as exact.
      fall: how much worse the fresh one is; negative where it is better.
      margin: by how much it may have fallen.
      p: the probability of such a fall, or a larger one, if the true one were the margin.
      test: how p was computed.
      detectable: the true fall that would be found with probability 0.8, about; None where only
        bootstrap knows.
    """

    metric: str
    value: float
    size: int
    interval: tuple[float, float]
    reference: float
    reference_size: int | None
    fall: float
    margin: float
    p: float
    test: str
    detectable: float | None


def compare(metric: str, fresh: Figure, reference: Figure, margin: float,
            alpha: float) -> Comparison:
    """Test whether a metric has fallen by more than a margin.

    Args:
      metric: its name, which says whether lower is better and whether it is a fraction.
      fresh: on the fresh data.
      reference: the version's own.
      margin: of the metric, 0.02 for two points of accuracy.
      alpha: of `detectable` alone.

    Raises:
      ValueError: a figure that is no fraction and has no bootstrap samples.
    """
    sign = -1 if metric in LOWER_IS_BETTER else 1
    detectable = None
    if metric in PROPORTIONS:
        rates = [one if sign > 0 else dataclasses.replace(one, value=1 - one.value)
                 for one in (fresh, reference)]
        p = exact_p(*rates, margin)
        test = 'exact binomial' if reference.size is None else 'exact unconditional'
        detectable = detectable_fall(fresh.size, rates[1], margin, alpha)
    else:
        p, test = bootstrap_p(fresh, reference, margin, sign), 'bootstrap'
    return Comparison(metric, fresh.value, fresh.size, _interval(metric, fresh), reference.value,
                      reference.size, sign * (reference.value - fresh.value), margin, p, test,
                      detectable)


def _interval(metric: str, figure: Figure) -> tuple[float, float]:
    """Return the 95 % interval of a figure: of a fraction that of Clopper and Pearson."""
    from scipy import stats

    if metric not in PROPORTIONS:
        return tuple(np.quantile(figure.resampled, [0.025, 0.975]).tolist())
    found = stats.binomtest(round(figure.value * figure.size), figure.size).proportion_ci()
    return float(found.low), float(found.high)


def exact_p(fresh: Figure, reference: Figure, margin: float) -> float:
    """Return the p-value of a fall of a fraction by more than a margin; exact in any sample.

    A reference of unknown size is taken as exact: the binomial test. Else both samples vary: the
    unconditional test of two proportions, which takes the largest p over all true fractions of the
    reference that its sample leaves plausible (0.9999 of them, and 0.0001 is added to p).

    Args:
      fresh: a fraction of successes.
      reference: a fraction of successes.
      margin: by which the true fraction may be lower.

    Source: Chan 1998, Statistics in Medicine 17, exact tests of a difference; Berger and Boos 1994,
    JASA 89, for trying an interval. Outcomes are ordered by the difference over its standard error,
    with one success and one failure added (Agresti and Caffo 2000).
    """
    from scipy import stats

    right = round(fresh.value * fresh.size)
    size, size_then = fresh.size, reference.size
    if size_then is None:
        return float(stats.binom.cdf(right, size, max(0.0, reference.value - margin)))
    right_then = round(reference.value * size_then)
    low = stats.beta.ppf(_BEYOND / 2, right_then, size_then - right_then + 1)
    high = stats.beta.ppf(1 - _BEYOND / 2, right_then + 1, size_then - right_then)
    rates = np.linspace(np.nan_to_num(low, nan=0.0), np.nan_to_num(high, nan=1.0), _TRIED)
    thens = np.arange(stats.binom.ppf(_NEGLIGIBLE, size_then, rates[0]),
                      stats.binom.isf(_NEGLIGIBLE, size_then, rates[-1]) + 1)
    thens = np.clip(thens, 0, size_then)
    observed = _standardized(right, size, right_then, size_then, margin)
    # For each outcome of the reference the highest fresh one that is as extreme; -1 for none.
    least, most = np.full(thens.shape, -1), np.full(thens.shape, size)
    while (least < most).any():
        middle = (least + most + 1) // 2
        extreme = _standardized(middle, size, thens, size_then, margin) <= observed + 1e-12
        least, most = np.where(extreme, middle, least), np.where(extreme, most, middle - 1)
    chances = (stats.binom.pmf(thens, size_then, rates[:, None]) *
               stats.binom.cdf(least, size, np.maximum(0, rates[:, None] - margin)))
    return min(1.0, float(chances.sum(axis=1).max()) + _BEYOND)


def _standardized(right: np.ndarray, size: int, right_then: np.ndarray, size_then: int,
                  margin: float) -> np.ndarray:
    """Return what is left of the margin over its standard error; it grows with `right`."""
    rate, rate_then = (right + 1) / (size + 2), (right_then + 1) / (size_then + 2)
    variance = rate * (1 - rate) / (size + 2) + rate_then * (1 - rate_then) / (size_then + 2)
    return (rate - rate_then + margin) / np.sqrt(variance)


def bootstrap_p(fresh: Figure, reference: Figure, margin: float, sign: int = 1) -> float:
    """Return the p-value of a fall by more than a margin: the bootstrap samples without one.

    It is right for many examples and a metric that is smooth in them; of small samples, or figures
    at the end of their scale, it is an approximation.

    Args:
      fresh: with bootstrap samples.
      reference: with bootstrap samples, or taken as exact.
      margin: by which the true figure may be worse.
      sign: -1 where lower is better.

    Source: Efron and Tibshirani 1993, chapter 16.
    """
    if not len(fresh.resampled):
        raise ValueError('a figure that is no fraction of examples is compared by bootstrap; got '
                         'no samples of it')
    now = np.sort(sign * np.asarray(fresh.resampled))
    then = np.asarray(reference.resampled if len(reference.resampled) else [reference.value])
    # Of all pairs, those whose fall is within the margin.
    below = np.searchsorted(now, sign * then - margin)
    return float((len(now) - below).sum() + 1) / (len(now) * len(then) + 1)


def detectable_fall(size: int, reference: Figure, margin: float, alpha: float) -> float:
    """Return the true fall of a fraction that is found with probability 0.8; normal approximation.

    Args:
      size: fresh examples.
      reference: a fraction.
      margin: of the test.
      alpha: of the test.
    """
    from scipy import stats

    rate = min(max(reference.value - margin, 1 / (size + 2)), 1 - 1 / (size + 2))
    inverse = 1 / size + (1 / reference.size if reference.size else 0)
    spread = math.sqrt(rate * (1 - rate) * inverse)
    return margin + float(stats.norm.isf(alpha) + stats.norm.ppf(_POWER)) * spread
