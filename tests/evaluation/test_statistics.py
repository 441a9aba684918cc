"""Intervals against scipy's bootstrap and a binomial's, spreads, and the averages of benchmarks."""

import itertools
import math

import numpy as np
import pytest

from jax_prompt.data.tasks.rows import Row
from jax_prompt.evaluation.averages import GLUE, SUPER_GLUE, benchmark_scores
from jax_prompt.evaluation.metrics import accuracy, macro_f1
from jax_prompt.evaluation.statistics import (
    bootstrap,
    bootstrap_mean,
    holm,
    over_runs,
    paired_test,
)
from jax_prompt.evaluation.text_metrics import multirc
from jax_prompt.inference.rows import Prediction
from tests.evaluation.judged import Judge

AB = Judge(('a', 'b'))


def answered(right, wrong):
    return [Prediction('a')] * (right + wrong), [Row({'golds': gold}, '') for gold in
                                                 'a' * right + 'b' * wrong]


def test_an_interval_is_that_of_scipy_and_of_the_binomial():
    stats = pytest.importorskip('scipy.stats')
    predictions, rows = answered(150, 50)
    (low, high), = bootstrap(accuracy(AB), predictions, rows).values()
    theirs = stats.bootstrap(([True] * 150 + [False] * 50,), np.mean, n_resamples=1000,
                             method='percentile', rng=np.random.default_rng(0))
    assert [low, high] == pytest.approx([*theirs.confidence_interval], abs=0.011)
    assert [low, high] == pytest.approx(stats.binom(200, 0.75).interval(0.95) / np.array(200),
                                        abs=0.011)
    wide, = bootstrap(accuracy(AB), predictions, rows, level=0.99).values()
    assert wide[0] < low < high < wide[1]


def test_a_function_of_ones_own_is_drawn_as_the_registrys_are():
    predictions, rows = answered(30, 9)
    metric = macro_f1(AB)
    assert bootstrap(lambda *both: metric(*both), predictions, rows, resamples=50) == bootstrap(
        metric, predictions, rows, resamples=50)
    assert bootstrap(metric, predictions, rows, resamples=50, seed=1) != bootstrap(
        metric, predictions, rows, resamples=50)


def test_what_is_judged_together_is_drawn_together():
    judge = Judge(('False', 'True'))
    rows = [Row({'golds': 'True', 'group': number // 25}, '') for number in range(100)]
    predictions = [Prediction('False' if number < 50 else 'True') for number in range(100)]
    found = bootstrap(multirc(judge), predictions, rows, resamples=200)
    # Four questions, of which two are right: their number among four draws is 0 to 4.
    assert found['exact_match'] == (0.0, 1.0)
    assert found['f1a'][1] - found['f1a'][0] > 0.5


@pytest.mark.parametrize('level', [0, 1, 95, -0.5])
def test_a_level_that_is_none_is_refused(level):
    with pytest.raises(ValueError, match=f'level of an interval is {level}; expected a number be'):
        bootstrap(accuracy(AB), *answered(1, 1), level=level)


def test_the_spread_of_runs():
    found = over_runs([{'accuracy': value, 'loss': 1.0, **more} for value, more in (
        (0.5, {}), (0.6, {'f1': 1.0}), (0.7, {}))])
    assert list(found) == ['accuracy', 'loss']
    assert (found['accuracy'].mean, found['accuracy'].deviation, found['accuracy'].runs) == (
        pytest.approx(0.6), pytest.approx(np.std([0.5, 0.6, 0.7], ddof=1)), 3)
    assert math.isnan(over_runs([{'a': 1.0}])['a'].deviation)
    with pytest.raises(ValueError, match='results of no runs'):
        over_runs([])


def test_the_interval_of_a_mean_over_runs_is_of_the_same_examples():
    runs = [answered(30, 10)[0], answered(30, 10)[0]]
    rows = answered(30, 10)[1]
    one = bootstrap(accuracy(AB), runs[0], rows)
    assert bootstrap_mean(accuracy(AB), runs, rows) == one
    right = [[Prediction(row.columns['golds']) for row in rows]]  # the other run is never wrong
    low, high = bootstrap_mean(accuracy(AB), runs[:1] + right, rows)['accuracy']
    assert (low, high) == pytest.approx(tuple((1 + end) / 2 for end in one['accuracy']))


@pytest.mark.parametrize('differences', [[1, 1, -1, 0, 1], [2, -1, 3, 3, 1, -2], [0, 0], [5]])
def test_the_paired_test_counts_all_signs(differences):
    seen, sizes = abs(sum(differences)), [abs(one) for one in differences]
    sums = [abs(sum(sign * size for sign, size in zip(signs, sizes, strict=True)))
            for signs in itertools.product((-1, 1), repeat=len(sizes))]
    expected = sum(one >= seen for one in sums) / len(sums)
    assert paired_test(differences) == pytest.approx(expected)


def test_the_paired_test_of_one_run_is_mcnemars_whatever_its_size():
    from scipy.stats import binomtest

    for up, down in ((3, 9), (40, 71), (300, 250)):
        differences = [1] * up + [-1] * down + [0] * 200
        assert paired_test(differences) == pytest.approx(binomtest(up, up + down).pvalue)


def test_holms_p_values_are_those_of_his_steps():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def full(benchmark):
    """Return results in which each figure differs, and the scores worked out from them."""
    figures = [figure for task in benchmark.values() for figure in task]
    results, scores = {}, []
    for number, (task, metric) in enumerate(figures):
        results.setdefault(task, {})[metric] = number / 20
    for task in benchmark.values():
        scores.append(np.mean([results[name][metric] for name, metric in task]))
    return results, scores


@pytest.mark.parametrize('benchmark, prefix, size', [(GLUE, 'glue_', 9),
                                                     (SUPER_GLUE, 'super_glue_', 8)])
def test_an_average_weighs_tasks_alike(benchmark, prefix, size):
    results, scores = full(benchmark)
    found = benchmark_scores(benchmark, {prefix + name: one for name, one in results.items()})
    assert len(found) == size + 1 and found.pop('average') == pytest.approx(np.mean(scores))
    assert [*found.values()] == pytest.approx(scores)


def test_an_average_of_fewer_tasks_is_refused():
    results, _ = full(SUPER_GLUE)
    del results['wsc'], results['cb']['macro_f1']
    with pytest.raises(ValueError, match='needs macro_f1 of cb and 1 more, which the results have '
                                         'not; expected those of boolq, cb'):
        benchmark_scores(SUPER_GLUE, results)
