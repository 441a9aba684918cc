"""Residual prompt tuning is the paper's formula, whatever shares the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.prompts.initializers import InitContext, uniform
from jax_prompt.prompts.methods.residual import residual

RNG = jax.random.key(3)
P, D, E = 3, 4, 7
CONTEXT = InitContext(jnp.ones((9, D)), P, lambda text: [5], initializer=uniform())
WAYS = [dict(shared=shared, layer_norm=norm) for shared in (True, False) for norm in (True, False)]


def by_hand(params, layer_norm):
    """Return e + LayerNorm(relu(e W_down + b_down) W_up + b_up) in float64, row by row."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    rows = []
    for number, e in enumerate(params['prompt']):
        def own(layer, name, ndim, number=number):
            array = params[layer][name]
            return array if array.ndim == ndim else array[number]

        hidden = np.maximum(e @ own('down', 'kernel', 2) + own('down', 'bias', 1), 0)
        change = hidden @ own('up', 'kernel', 2) + own('up', 'bias', 1)
        if layer_norm:
            change = (change - change.mean()) / np.sqrt(change.var() + 1e-5)
            change = change * own('norm', 'scale', 1) + own('norm', 'bias', 1)
        rows.append(e + change)
    return np.stack(rows)


def moved(params):
    """Return parameters of which none is at its start, so that none can be left out unseen."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(8), len(leaves))
    return structure.unflatten(leaf + 0.3 * jax.random.normal(key, leaf.shape)
                               for leaf, key in zip(leaves, keys, strict=True))


@pytest.mark.parametrize('way', WAYS, ids=str)
def test_rows_are_those_of_the_formula(way):
    method = residual(width=E, **way)
    params, constants = method.init(RNG, CONTEXT)
    assert constants == {} and params['prompt'].shape == (P, D)
    assert params['down']['kernel'].shape == ((D, E) if way['shared'] else (P, D, E))
    params = moved(params)
    rows = method.apply(params, constants).prompt.rows
    np.testing.assert_allclose(rows, by_hand(params, way['layer_norm']), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('way', WAYS, ids=str)
def test_gradients_are_those_of_differences(way):
    method = residual(width=E, **way)
    params = moved(method.init(RNG, CONTEXT)[0])
    weights = np.random.default_rng(0).normal(size=(P, D))
    gradient = jax.grad(lambda p: jnp.sum(method.apply(p, {}).prompt.rows * weights))(params)
    direction = moved(jax.tree.map(jnp.zeros_like, params))
    step = 1e-6
    ends = [by_hand(jax.tree.map(
        lambda leaf, change, sign=sign: np.asarray(leaf, np.float64) + sign * step * np.asarray(
            change, np.float64), params, direction), way['layer_norm']) for sign in (1, -1)]
    along = ((ends[0] - ends[1]) * weights).sum() / (2 * step)
    ours = sum(float(jnp.sum(one * other)) for one, other in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(ours, along, rtol=1e-4)


def test_rows_with_networks_of_their_own_begin_with_different_ones():
    params, _ = residual(width=E, shared=False).init(RNG, CONTEXT)
    assert not np.allclose(params['down']['kernel'][0], params['down']['kernel'][1])


def test_it_tells_how_it_was_made():
    assert residual(width=E).config == {'name': 'residual', 'width': E, 'shared': True,
                                        'layer_norm': True}


@pytest.mark.parametrize('width', [0, 2.5, True])
def test_a_width_that_is_none_is_refused(width):
    with pytest.raises(ValueError, match=f'residual has width={width}; expected a whole number'):
        residual(width=width)
