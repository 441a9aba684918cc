"""Calibrated probabilities: what content-free inputs take away, what a temperature mends."""

import numpy as np
import pytest

from jax_prompt.inference import calibration
from jax_prompt.inference.calibration import (
    calibrated_probabilities,
    content_free_log_probabilities,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
)


def softmax(scores):
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.fixture
def validation():
    """Scores whose softmax at temperature 2.5 is the truth: labels are drawn from it."""
    draw = np.random.default_rng(0)
    honest = draw.normal(size=(4000, 3)) * 2
    labels = (honest + draw.gumbel(size=honest.shape)).argmax(axis=1)
    return (2.5 * honest - 40).astype(np.float32), labels


def test_without_calibration_it_is_the_softmax(validation):
    scores, _ = validation
    found = calibrated_probabilities(scores)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, softmax(scores.astype(np.float64)), rtol=1e-6)


def test_content_free_inputs_become_even():
    """The defining property: what has no content favours no label."""
    scores = np.log([[0.7, 0.2, 0.1]])
    prior = content_free_log_probabilities(scores - 12)
    np.testing.assert_allclose(np.exp(prior), [0.7, 0.2, 0.1])
    np.testing.assert_allclose(calibrated_probabilities(scores, prior), 1 / 3)


def test_probabilities_are_divided_by_those_without_content(validation):
    scores, _ = validation
    prior = content_free_log_probabilities(np.log([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]]))
    np.testing.assert_allclose(np.exp(prior), [0.3, 0.55, 0.15])
    divided = softmax(scores.astype(np.float64)) / [0.3, 0.55, 0.15]
    np.testing.assert_allclose(calibrated_probabilities(scores, prior),
                               divided / divided.sum(axis=1, keepdims=True), rtol=1e-5)


def test_very_unlikely_labels_are_no_numerical_trouble():
    prior = content_free_log_probabilities([[0.0, -900.0], [0.0, -1000.0]])
    np.testing.assert_allclose(prior, [0.0, -900 - np.log(2)])
    np.testing.assert_allclose(calibrated_probabilities([[0.0, -900.0]], prior),
                               [[1 / 3, 2 / 3]], rtol=1e-5)


def test_the_fitted_temperature_is_the_true_one(validation):
    scores, labels = validation
    assert fit_temperature(scores, labels) == pytest.approx(2.5, rel=0.05)


def test_no_other_temperature_is_better(validation):
    scores, labels = validation
    best = fit_temperature(scores, labels)

    def loss(temperature):
        return negative_log_likelihood(
            calibrated_probabilities(scores, temperature=temperature), labels)

    assert all(loss(best) < loss(best * factor) for factor in (0.5, 0.97, 1.03, 2))


def test_a_temperature_mends_confidence_and_changes_no_answer(validation):
    scores, labels = validation
    before = calibrated_probabilities(scores)
    after = calibrated_probabilities(scores, temperature=fit_temperature(scores, labels))
    np.testing.assert_array_equal(before.argmax(1), after.argmax(1))
    assert expected_calibration_error(before, labels) > 0.1
    assert expected_calibration_error(after, labels) < 0.02


@pytest.mark.parametrize('labels, temperature', [([0, 1], 0.01), ([1, 0], 100.0)])
def test_scores_always_right_or_always_wrong_give_an_end_of_the_range(labels, temperature):
    assert fit_temperature([[0.0, -5.0], [-5.0, 0.0]], labels) == temperature


def test_calibration_error_by_hand():
    probabilities = [[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]]
    # Two at 0.9, one of them right: gap 0.4. Two at 0.6, both right: gap 0.4.
    assert expected_calibration_error(probabilities, [0, 1, 0, 1]) == pytest.approx(0.4)


def test_likelihood_by_hand():
    assert negative_log_likelihood([[0.5, 0.5], [0.25, 0.75]], [0, 0]) == pytest.approx(
        1.5 * np.log(2))
    assert np.isfinite(negative_log_likelihood([[0.0, 1.0]], [0]))


@pytest.mark.parametrize('call, message', [
    (lambda: calibration.Calibration(temperature=0), 'temperature=0 of labels; expected a number'),
    (lambda: calibrated_probabilities([[0, np.inf]]), 'row 0 of the scores is not finite'),
    (lambda: content_free_log_probabilities(np.zeros((0, 2))),
     r'scores have shape \[0, 2\]; expected \[examples, labels\]'),
    (lambda: content_free_log_probabilities([[1.0]]), 'at least one example and two labels'),
])
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_papers_content_free_inputs_are_at_hand():
    assert set(calibration.CONTENT_FREE) == {'N/A', '', '[MASK]'}
