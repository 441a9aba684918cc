"""The recipe is the first prompt-tuning system's."""

import numpy as np
import optax
import pytest

from jax_prompt.training.optimizers import adafactor, adamw, warmup_schedule
from jax_prompt.training.step import token_loss


def run(optimizer, gradients, start):
    params, state = start, optimizer.init(start)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return np.array(params)


def adafactor_by_hand(gradients, start, first_step=1, rate=0.3, decay=1e-5):
    """Shazeer and Stern 2018, algorithm 4 without momentum, unfactored, with t from first_step."""
    params, moment = start.astype(np.float64), np.zeros_like(start, np.float64)
    for t, gradient in enumerate(gradients, first_step):
        beta = 1 - float(t)**-0.8
        moment = beta * moment + (1 - beta) * (gradient.astype(np.float64)**2 + 1e-30)
        update = gradient / np.sqrt(moment)
        update /= max(1.0, np.sqrt(np.mean(update**2)))
        params = params - rate * update - decay * params
    return params


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    return (rng.standard_normal((6, 5, 8)).astype(np.float32),
            rng.standard_normal((5, 8)).astype(np.float32))


def test_adafactor_is_the_papers(problem):
    gradients, start = problem
    np.testing.assert_allclose(run(adafactor(), gradients, start),
                               adafactor_by_hand(gradients, start), rtol=1e-5, atol=1e-6)


def test_adafactor_with_the_original_step_offset(problem):
    gradients, start = problem
    # The moment starts at zero and counts from step 1,100,001.
    expected = adafactor_by_hand(gradients, start, first_step=1_100_001)
    ours = run(adafactor(original_step_offset=True), gradients, start)
    np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-5)
    assert np.abs(ours - run(adafactor(), gradients, start)).max() > 1e-2


def test_a_relative_rate_is_a_fraction_of_the_size_of_the_numbers(problem):
    gradients, start = problem
    for scale in (0.01, 10.0):
        first = scale * start
        size = np.sqrt(np.mean(np.square(first.astype(np.float64))))
        expected = adafactor_by_hand(gradients[:1], first, rate=0.02 * size)
        ours = run(adafactor(0.02, parameter_scaling=True), gradients[:1], first)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
        theirs = optax.adafactor(0.02, decay_rate=0.8, weight_decay_rate=1e-5)
        np.testing.assert_allclose(run(adafactor(0.02, parameter_scaling=True), gradients, first),
                                   run(theirs, gradients, first), rtol=1e-5, atol=1e-6)


def test_large_prompts_have_factored_moments():
    state = adafactor().init(np.zeros((128, 256), np.float32))
    assert sum(leaf.size for leaf in _leaves(state)) < 128 * 256 / 10


def _leaves(tree):
    import jax
    return jax.tree.leaves(tree)


def test_adamw_clips_the_gradient(problem):
    gradients, start = problem
    small = run(adamw(0.1), gradients[:1] * 1e-3, start)
    large = run(adamw(0.1), gradients[:1] * 1e6, start)
    np.testing.assert_allclose(small, large, atol=1e-3)


def test_warmup_schedule():
    schedule = warmup_schedule(0.3, 10, 110, 'linear')
    values = [float(schedule(step)) for step in (0, 5, 10, 60, 110)]
    np.testing.assert_allclose(values, [0, 0.15, 0.3, 0.15, 0], atol=1e-6)
    at_once = warmup_schedule(0.3, 0, 10, 'cosine')
    np.testing.assert_allclose([float(at_once(step)) for step in (0, 5, 10)], [0.3, 0.15, 0],
                               atol=1e-6)
    with pytest.raises(ValueError, match="decay='square' is no schedule"):
        warmup_schedule(0.3, 1, 10, 'square')
    with pytest.raises(ValueError, match='warmup_steps=10 leaves nothing of total_steps=10'):
        warmup_schedule(0.3, 10, 10)


def test_loss_by_hand():
    logits = np.array([[[1.0, 2.0, 0.5], [0.0, 3.0, 1.0]]], np.float32)
    targets, weights = np.array([[1, 2]]), np.array([[1.0, 0.0]], np.float32)
    total, metrics = token_loss(logits, targets, weights, z_loss=0.1)
    log_z = np.log(np.exp(logits[0, 0]).sum())
    np.testing.assert_allclose(metrics['loss'], log_z - 2.0, rtol=1e-6)
    np.testing.assert_allclose(total, log_z - 2.0 + 0.1 * log_z**2, rtol=1e-6)
    assert (metrics['correct'], metrics['tokens']) == (1, 1)
