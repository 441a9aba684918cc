"""How far figures can be believed: intervals by bootstrap over examples, and several runs as one.

An interval tells what other examples of the same kind would have given for this prompt; the
deviation over runs tells what other seeds would have trained. Neither stands for the other.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from jax_prompt.data.tasks.rows import Row
from jax_prompt.evaluation.metrics import Metric, StagedMetric
from jax_prompt.inference.rows import Prediction

#: Samples of the examples; the ends of a 95 % interval then vary by about a twentieth of its width.
RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Spread:
    """One figure of several runs.

    Attributes:
      mean: of the runs.
      deviation: the sample standard deviation (n - 1); NaN of a single run.
      runs: n.
    """

    mean: float
    deviation: float
    runs: int

    def __str__(self) -> str:
        return f'{100 * self.mean:.2f} ± {100 * self.deviation:.2f} ({self.runs} runs)'


def bootstrap(metric: Metric, predictions: Sequence[Prediction], rows: Sequence[Row],
              level: float = 0.95, resamples: int = RESAMPLES,
              seed: int = 0) -> dict[str, tuple[float, float]]:
    """Return the interval of each figure of a metric: percentiles over samples of the examples.

    Examples are drawn with replacement; those that a metric judges together, such as the answers to
    one question of MultiRC, are drawn together.

    Args:
      metric: of the registry, or a function of one's own, which is called for every sample.
      predictions: of all examples.
      rows: the examples.
      level: the fraction of samples whose figures lie in the interval.
      resamples: how many samples.
      seed: of drawing.

    Returns:
      Name -> (low, high).

    Raises:
      ValueError: as the metric does; a level that is not between 0 and 1.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    return bootstrap_mean(metric, [predictions], rows, level, resamples, seed)


def bootstrap_mean(metric: Metric, runs: Sequence[Sequence[Prediction]], rows: Sequence[Row],
                   level: float = 0.95, resamples: int = RESAMPLES,
                   seed: int = 0) -> dict[str, tuple[float, float]]:
    """Return the interval of each figure's mean over several runs, as `bootstrap` has it of one.

    A sample holds the same examples for all runs, so that it varies as other examples would vary.

    Args:
      metric, rows, level, resamples, seed: as for `bootstrap`.
      runs: the predictions of each run, such as those of several seeds.
    """
    if not 0 < level < 1:
        raise ValueError(f'level of an interval is {level}; expected a number between 0 and 1')
    outside = (1 - level) / 2
    return {name: tuple(np.quantile(values, [outside, 1 - outside]).tolist())
            for name, values in resampled(metric, runs, rows, resamples, seed).items()}


def resampled(metric: Metric, runs: Sequence[Sequence[Prediction]], rows: Sequence[Row],
              resamples: int = RESAMPLES, seed: int = 0) -> dict[str, list[float]]:
    """Return what each figure's mean over runs is in the samples of `bootstrap_mean`.

    Args:
      metric, runs, rows, resamples, seed: as for `bootstrap_mean`.

    Returns:
      Name -> the values.
    """
    if not isinstance(metric, StagedMetric):
        metric = StagedMetric(lambda *both: [*zip(*both, strict=True)],
                              lambda drawn, own=metric: own(*map(list, zip(*drawn, strict=True))))
    units = [metric.units(predictions, rows) for predictions in runs]
    generator, found = np.random.default_rng(seed), collections.defaultdict(list)
    for _ in range(resamples):
        drawn = generator.integers(len(units[0]), size=len(units[0])).tolist()
        each = [metric.summarize([own[one] for one in drawn]) for own in units]
        for name in each[0]:
            found[name].append(float(np.mean([one[name] for one in each])))
    return dict(found)


def paired_test(differences: Sequence[int]) -> float:
    """Return the p-value of the exact paired test that differences are as often up as down.

    Each difference keeps its size and takes either sign with the same chance; the p-value is the
    part of all 2^N choices whose sum is as far from 0 as the one that was seen. Of differences -1,
    0 and 1, whether a contender was right and another was not, that is McNemar's exact test.

    Args:
      differences: whole numbers, such as in how many of the runs an example was answered rightly by
        one contender more often than by the other.

    Source: Fisher 1935, section 21; McNemar 1947.

    Example:
      >>> paired_test([1, 1, 1, 1, 1])
      0.0625
    """
    sizes = [abs(int(one)) for one in differences if one]
    total, seen = sum(sizes), abs(sum(map(int, differences)))
    chances = np.zeros(2 * total + 1)  # of each sum from -total to total
    chances[total] = 1.0
    for size in sizes:
        chances = 0.5 * (np.roll(chances, size) + np.roll(chances, -size))
    sums = np.abs(np.arange(-total, total + 1))
    return float(min(1.0, chances[sums >= seen].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values of several tests, raised so that one false alarm among all is as rare.

    Source: Holm 1979.

    Example:
      >>> holm([0.01, 0.04, 0.03])
      [0.03, 0.06, 0.06]
    """
    order, highest = np.argsort(p_values), 0.0
    adjusted = [0.0] * len(p_values)
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = highest
    return adjusted


def over_runs(results: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Return mean and deviation of each figure that all runs have.

    Args:
      results: of each run, name -> value; such as those of several seeds.

    Raises:
      ValueError: no runs.

    Example:
      >>> str(over_runs([{'accuracy': 0.8}, {'accuracy': 0.9}])['accuracy'])
      '85.00 ± 7.07 (2 runs)'
    """
    if not results:
        raise ValueError('got the results of no runs; expected at least one')
    names = [name for name in results[0] if all(name in one for one in results)]
    values = {name: [one[name] for one in results] for name in names}
    return {name: Spread(statistics.fmean(some), statistics.stdev(some) if len(some) > 1
                         else math.nan, len(some)) for name, some in values.items()}
