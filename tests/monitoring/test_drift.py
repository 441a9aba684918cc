"""Tests of drift: found where there is one, quiet between halves, and the formulas' own results."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from jax_prompt.evaluation.statistics import holm
from jax_prompt.monitoring.drift import (
    Sample,
    differences,
    energy,
    kolmogorov_smirnov,
    label_shares,
    shares,
)


def sample(seed, size=60, shift=0.0, length=20, positive=0.5):
    draw = np.random.default_rng(seed)
    return Sample(draw.poisson(length, size), draw.poisson(0.05 + shift, size),
                  (draw.normal(size=(size, 6)) + shift).astype(np.float32),
                  draw.choice(['bad', 'good'], size, p=[1 - positive, positive]).tolist(),
                  draw.uniform(0.5 + 0.3 * shift, 1, size))


def alarms(reference, fresh, alpha=0.01):
    found = differences(reference, fresh)
    adjusted = holm([one.p for one in found.values()])
    return {name for name, p in zip(found, adjusted, strict=True) if p <= alpha}


def test_samples_of_one_kind_are_told_apart_in_one_of_a_hundred_and_others_always():
    quiet = sum(not alarms(sample(2 * seed), sample(2 * seed + 1)) for seed in range(20))
    assert quiet >= 19
    assert alarms(sample(0), sample(1, shift=0.8)) == {'unknown', 'states', 'confidence'}
    assert alarms(sample(0), sample(1, length=40)) == {'lengths'}
    assert alarms(sample(0), sample(1, positive=0.9)) == {'labels'}


def test_what_one_side_does_not_have_is_not_compared():
    without = dataclasses.replace(sample(0), states=None, answers=(), confidences=None)
    assert differences(without, sample(1)).keys() == {'lengths', 'unknown'}
    text = dataclasses.replace(without, words=np.arange(60))
    assert differences(text, text)['words'].size == 0


def test_too_few_inputs_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match='the fresh sample has 19 inputs; expected at least 20'):
        differences(sample(0), sample(1, size=19))


def test_the_energy_distance_is_that_of_all_pairs():
    then, now = (np.random.default_rng(seed).normal(size=(count, 3)) + seed
                 for seed, count in ((0, 30), (1, 20)))
    across, within = cdist(then, now).mean(), cdist(then, then).mean() + cdist(now, now).mean()
    found = energy(then, now, permutations=99)
    assert found.size == pytest.approx((2 * across - within) / (2 * across)) and found.p == 0.01
    assert energy(then, now, permutations=99) == found  # a seed decides


def test_permutations_give_each_p_as_often():
    draw = np.random.default_rng(0)
    p = [energy(*draw.normal(size=(2, 15, 4)), permutations=99).p for _ in range(200)]
    assert stats.kstest(p, 'uniform').pvalue > 0.01


def test_equal_vectors_are_no_difference():
    found = energy(np.ones((20, 2)), np.ones((25, 2)), permutations=99)
    assert (found.size, found.p) == (0.0, 1.0)


def test_label_shares_are_compared_by_the_g_test_and_rare_labels_together():
    then, now = ['a'] * 50 + ['b'] * 50, ['a'] * 30 + ['b'] * 70
    found = label_shares(then, now)
    assert found.p == pytest.approx(stats.chi2_contingency(
        [[50, 50], [30, 70]], correction=False, lambda_='log-likelihood').pvalue)
    assert found.size == pytest.approx(0.2) and found.now == 'b 70.0%, a 30.0%'
    with_rare = label_shares(then + list('cde'), now + list('fgh'))
    assert with_rare.p == pytest.approx(stats.chi2_contingency(
        [[50, 50, 3], [30, 70, 3]], correction=False, lambda_='log-likelihood').pvalue)
    assert label_shares(['a'] * 50, ['a'] * 30).p == 1.0


def test_shares_and_numbers():
    then, now = np.arange(100) < 50, np.arange(100) < 80
    assert shares(then, now).p == pytest.approx(stats.fisher_exact([[50, 50], [80, 20]]).pvalue)
    found = kolmogorov_smirnov(np.arange(100), np.arange(100) + 30)
    assert found.size == pytest.approx(0.3) and found.then == 'median 49.5'
