"""Tests of falls: exact where they say so, quiet as often as they say, and not blind."""

import numpy as np
import pytest
from scipy import stats

from jax_prompt.monitoring.quality import (
    Figure,
    bootstrap_p,
    compare,
    detectable_fall,
    exact_p,
)
from jax_prompt.monitoring.settings import MonitorSettings


def test_against_a_figure_that_is_taken_as_exact_it_is_the_binomial_test():
    for right in (0, 70, 83, 100):
        expected = stats.binomtest(right, 100, 0.8, alternative='less').pvalue
        assert exact_p(Figure(right / 100, 100), Figure(0.82), 0.02) == pytest.approx(expected)


def test_of_two_samples_it_errs_no_more_often_than_it_says_whatever_the_truth():
    size, size_then, margin, alpha = 9, 11, 0.1, 0.1
    rejected = np.array([[exact_p(Figure(right / size, size), Figure(then / size_then, size_then),
                                  margin) <= alpha for right in range(size + 1)]
                         for then in range(size_then + 1)])
    assert rejected.any()
    for rate in np.linspace(margin, 1, 30):
        chances = np.outer(stats.binom.pmf(np.arange(size_then + 1), size_then, rate),
                           stats.binom.pmf(np.arange(size + 1), size, rate - margin))
        assert chances[rejected].sum() <= alpha
    # A worse fresh sample, or a better reference, is never less of a fall.
    assert (rejected[:, :-1] >= rejected[:, 1:]).all() and (rejected[:-1] <= rejected[1:]).all()


def test_it_is_quiet_in_95_of_100_fresh_samples_and_sees_20_percent_of_labels_flipped():
    """A prompt that is right on 83.6 % of examples, as a reference of 857 says it is."""
    draw, rate, size, size_then = np.random.default_rng(0), 0.836, 500, 857
    settings = MonitorSettings()

    def alarms(rate_now, samples=100):
        return sum(compare('accuracy', Figure(draw.binomial(size, rate_now) / size, size), Figure(
            draw.binomial(size_then, rate) / size_then, size_then), settings.margin,
            settings.alpha).p <= settings.alpha for _ in range(samples))

    assert alarms(rate) <= 5
    assert alarms(0.8 * rate + 0.2 * (1 - rate), 40) >= 38


def test_at_the_margin_it_errs_in_about_alpha_of_samples():
    draw, size = np.random.default_rng(1), 400
    found = [exact_p(Figure(draw.binomial(size, 0.78) / size, size),
                     Figure(draw.binomial(size, 0.8) / size, size), 0.02) <= 0.2
             for _ in range(60)]
    assert 3 <= sum(found) <= 21


def test_the_fall_that_it_says_would_be_found_is_found_four_times_in_five():
    draw, size, rate = np.random.default_rng(2), 500, 0.85
    fall = detectable_fall(size, Figure(rate, size), 0.02, 0.01)
    found = [exact_p(Figure(draw.binomial(size, rate - fall) / size, size),
                     Figure(draw.binomial(size, rate) / size, size), 0.02) <= 0.01
             for _ in range(60)]
    assert 36 <= sum(found) <= 57


def test_figures_that_are_no_fraction_are_compared_by_bootstrap_whichever_is_better():
    draw = np.random.default_rng(3)

    def figure(value):
        return Figure(value, 200, tuple(draw.normal(value, 0.02, 500)))

    fell = compare('macro_f1', figure(0.6), figure(0.8), 0.02, 0.01)
    assert fell.test == 'bootstrap' and fell.p < 0.01 and fell.fall == pytest.approx(0.2)
    assert compare('macro_f1', figure(0.8), figure(0.8), 0.02, 0.01).p > 0.1
    assert compare('calibration_error', figure(0.3), figure(0.1), 0.02, 0.01).p < 0.01
    assert compare('calibration_error', figure(0.1), figure(0.3), 0.02, 0.01).p > 0.9
    with pytest.raises(ValueError, match='compared by bootstrap; got no samples of it'):
        bootstrap_p(Figure(0.5, 10), Figure(0.5), 0.02)


def test_bootstrap_counts_the_pairs_whose_fall_is_within_the_margin():
    now, then = [0.5, 0.7, 0.6], [0.65, 0.8]
    within = sum(one - other <= 0.1 for one in then for other in now)
    assert bootstrap_p(Figure(0.6, 9, now), Figure(0.7, 9, then), 0.1) == (within + 1) / 7


def test_fewer_answers_that_are_none_are_better():
    worse = compare('illegal', Figure(0.3, 200), Figure(0.02, 400), 0.02, 0.01)
    assert worse.p < 0.01 and worse.fall == pytest.approx(0.28)
    assert compare('illegal', Figure(0.0, 200), Figure(0.3, 400), 0.02, 0.01).p > 0.9


@pytest.mark.parametrize('wrong, message', [
    ({'margin': 2}, 'margin=2 of the monitor; expected 0 or more and less than 1'),
    ({'alpha': 0.0}, 'alpha=0.0 of the monitor; expected a chance of false alarms from 0.001'),
    ({'picture': 'gif'}, "picture='gif' of the monitor; expected png or svg"),
    ({'sample': 3}, 'sample=3 of the monitor; expected 20 to 2,000 inputs')])
def test_settings_no_test_can_be_made_of_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        MonitorSettings(**wrong)
