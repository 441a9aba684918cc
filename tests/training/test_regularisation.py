"""What regularises a prompt is what its paper says, in values, in gradients and in a step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_prompt.models import forward
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.prompt import Prompt, Tuned
from jax_prompt.training.regularisation import averaged, disturbed, worsened
from jax_prompt.training.settings import TrainSettings
from jax_prompt.training.step import init_state, make_train_step, token_loss
from tests.training.test_step import CONFIG, ROWS, make_batch, make_frozen, make_method

KEY = jax.random.key(4)


def tuned(shape=(40, 50), seed=0, scale=3.0):
    return Tuned(Prompt(scale * jax.random.normal(jax.random.key(seed), shape)))


def test_a_prompt_that_nothing_disturbs_stays_the_same_object():
    given = tuned()
    assert disturbed(given, TrainSettings(), KEY) is given


def test_dropped_numbers_are_zero_and_the_others_make_up_for_them():
    given, settings = tuned(), TrainSettings(prompt_dropout=0.25)
    rows, before = disturbed(given, settings, KEY).prompt.rows, given.prompt.rows
    dropped = np.asarray(rows == 0)
    assert abs(dropped.mean() - 0.25) < 0.03
    np.testing.assert_allclose(rows[~dropped], before[~dropped] / 0.75, rtol=1e-6)
    gradient = jax.grad(lambda one: disturbed(one, settings, KEY).prompt.rows.sum())(given)
    np.testing.assert_allclose(gradient.prompt.rows, ~dropped / 0.75, rtol=1e-6)
    other = disturbed(given, settings, jax.random.key(5)).prompt.rows
    assert np.mean(np.asarray(other == 0) != dropped) > 0.3


@pytest.mark.parametrize('scale', [0.01, 100.0])
def test_noise_is_relative_to_the_size_of_the_prompts_numbers(scale):
    given, settings = tuned(scale=scale), TrainSettings(noise=0.5)
    noise = disturbed(given, settings, KEY).prompt.rows - given.prompt.rows
    size = np.sqrt(np.mean(np.square(given.prompt.rows)))
    assert abs(float(noise.std()) / (0.5 * size) - 1) < 0.05
    assert abs(float(noise.mean())) < size / 20
    gradient = jax.grad(lambda one: disturbed(one, settings, KEY).prompt.rows.sum())(given)
    np.testing.assert_array_equal(gradient.prompt.rows, np.ones_like(noise))


def test_the_worst_neighbour_is_along_the_gradient():
    given, slope = tuned(), tuned(seed=1)
    rows = worsened(given, slope, 0.1).prompt.rows
    p, g = (np.asarray(one.prompt.rows, np.float64) for one in (given, slope))
    np.testing.assert_allclose(rows, p + 0.1 * np.linalg.norm(p) * g / np.linalg.norm(g), rtol=1e-5)
    flat = worsened(given, jax.tree.map(jnp.zeros_like, slope), 0.1).prompt.rows
    np.testing.assert_array_equal(flat, given.prompt.rows)


@pytest.mark.parametrize('decay, start', [(0.6, 0), (0.9, 3), (1.0, 0), (1.0, 4)])
def test_averages_are_those_of_a_loop(decay, start):
    settings = TrainSettings(average=decay, average_from=start)
    prompts = np.random.default_rng(0).normal(size=(12, 3, 2))
    ours, by_hand, count = {'prompt': jnp.zeros((3, 2))}, None, 0
    for step, prompt in enumerate(prompts, 1):
        ours = averaged(ours, {'prompt': jnp.asarray(prompt)}, step, settings)
        count = max(step - start, 1)
        weight = max(1 - decay, 1 / count)
        by_hand = prompt if weight == 1 else (1 - weight) * by_hand + weight * prompt
        np.testing.assert_allclose(ours['prompt'], by_hand, rtol=1e-5, atol=1e-6)
    if decay == 1.0:
        np.testing.assert_allclose(ours['prompt'], prompts[start:].mean(axis=0), rtol=1e-5)


def loss(rows):
    batch = make_batch()
    logits = forward.score(T5(CONFIG), make_frozen(), Prompt(rows), batch)
    return token_loss(logits, batch['decoder_target_tokens'], batch['decoder_loss_weights'])[0]


gradient_at = jax.jit(jax.grad(loss))


@functools.cache
def start():
    return np.array(jax.random.normal(jax.random.key(1), (ROWS, 12)))


def one_step(settings, method=None):
    """Return the state after a step of plain descent."""
    optimizer = optax.sgd(1.0)
    step = make_train_step(T5(CONFIG), method or make_method(), optimizer, settings)
    return step(init_state({'prompt': jnp.array(start())}, optimizer, settings), make_frozen(),
                make_batch())[0]


def test_an_adversarial_step_descends_by_the_gradient_of_the_worst_neighbour():
    moved = start() - np.asarray(one_step(TrainSettings(adversarial=0.3)).params['prompt'])
    plain = np.asarray(gradient_at(start()))
    there = start() + 0.3 * np.linalg.norm(start()) * plain / np.linalg.norm(plain)
    np.testing.assert_allclose(moved, gradient_at(there), rtol=1e-4, atol=1e-5)
    assert np.abs(moved - plain).max() > 1e-2


@pytest.mark.parametrize('reduction, weight', [('sum', 12), ('mean', 1)])
def test_a_penalty_is_added_to_the_mean_loss_of_a_token(reduction, weight):
    method = Method('pulled', None, make_method().apply,
                    penalty=lambda params, constants: 0.5 * jnp.sum(params['prompt']**2))
    settings = TrainSettings(reduction=reduction)
    moved = start() - np.asarray(one_step(settings, method).params['prompt'])
    expected = np.asarray(gradient_at(start())) * weight / 12 + weight * start()
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-5)


def test_a_step_averages_and_what_is_evaluated_is_the_average():
    settings = TrainSettings(average=1.0)
    optimizer, frozen = optax.sgd(0.1), make_frozen()
    step = make_train_step(T5(CONFIG), make_method(), optimizer, settings)
    state, prompts = init_state({'prompt': jnp.array(start())}, optimizer, settings), []
    for seed in range(3):
        state, _ = step(state, frozen, make_batch(seed=seed))
        prompts.append(np.array(state.params['prompt']))
    np.testing.assert_allclose(state.evaluated['prompt'], np.mean(prompts, axis=0), rtol=1e-5)
    assert init_state({}, optimizer).evaluated == {}


@pytest.mark.parametrize('wrong, message', [
    (dict(noise=-0.1), 'noise is -0.1; expected at least 0'),
    (dict(adversarial=float('inf')), 'adversarial is inf; expected at least 0'),
    (dict(prompt_dropout=1.0), 'prompt_dropout is 1.0; expected from 0 to below 1'),
    (dict(average=0.0), 'average is 0.0; expected above 0, at most 1'),
    (dict(average_from=-1), 'average_from is -1; expected a whole number of at least 0')])
def test_settings_that_are_none_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings(**wrong)
