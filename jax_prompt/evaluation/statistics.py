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
    if not 0 < level < 1:
        raise ValueError(f'level of an interval is {level}; expected a number between 0 and 1')
    if not isinstance(metric, StagedMetric):
        metric = StagedMetric(lambda *both: [*zip(*both, strict=True)],
                              lambda drawn, own=metric: own(*map(list, zip(*drawn, strict=True))))
    units, generator = metric.units(predictions, rows), np.random.default_rng(seed)
    found = collections.defaultdict(list)
    for _ in range(resamples):
        drawn = generator.integers(len(units), size=len(units)).tolist()
        for name, value in metric.summarize([units[one] for one in drawn]).items():
            found[name].append(value)
    outside = (1 - level) / 2
    return {name: tuple(np.quantile(values, [outside, 1 - outside]).tolist())
            for name, values in found.items()}


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
