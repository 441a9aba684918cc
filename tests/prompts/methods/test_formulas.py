"""Each method is its paper's formula, stated in PyTorch in float64: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.prompts.initializers import InitContext, from_string, uniform
from jax_prompt.prompts.methods.dept import dept
from jax_prompt.prompts.methods.dpt import dpt
from jax_prompt.prompts.methods.residual import residual
from jax_prompt.prompts.methods.superpos import superpos
from jax_prompt.prompts.methods.ulpt import ulpt
from jax_prompt.prompts.methods.wayward import wayward

torch = pytest.importorskip('torch')

RNG = jax.random.key(3)
P, D, V = 5, 8, 40
TABLE = jax.random.normal(jax.random.key(9), (V, D))
CONTEXT = InitContext(TABLE, P, lambda text: [int(word) for word in text.split()],
                      initializer=uniform(), inputs_length=7)


def residual_rows(params, constants, shared, norm):
    e, down, up = params['prompt'], params['down'], params['up']
    equation = 'pi,io->po' if shared else 'pi,pio->po'
    hidden = torch.relu(torch.einsum(equation, e, down['kernel']) + down['bias'])
    change = torch.einsum(equation, hidden, up['kernel']) + up['bias']
    if norm:
        change = torch.nn.functional.layer_norm(change, (D,))
        change = change * params['norm']['scale'] + params['norm']['bias']
    return e + change


CASES = {
    'residual, shared': (residual(width=6), lambda p, c: residual_rows(p, c, True, True)),
    'residual, a row': (residual(width=6, shared=False, layer_norm=False),
                        lambda p, c: residual_rows(p, c, False, False)),
    'ulpt': (ulpt(rank=3), lambda p, c: (p['low'] @ c['up']) * p['scale'] + p['shift']),
    'dpt': (dpt(rank=2), lambda p, c: p['left'] @ p['right']),
    'superpos': (superpos(entries=9), lambda p, c: torch.einsum(
        'pj,jd->pd', p['weights'], c['entries'])),
    'dept': (dept(rank=2), lambda p, c: torch.cat([p['prompt'], p['left'] @ p['right']])),
}


def moved(params):
    """Return parameters of which none is at its start, so that none can be left out unseen."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(8), len(leaves))
    return structure.unflatten(leaf + 0.3 * jax.random.normal(key, leaf.shape)
                               for leaf, key in zip(leaves, keys, strict=True))


def in_torch(tree, grad):
    return jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf, np.float64),
                                                  requires_grad=grad), tree)


@pytest.mark.parametrize('case', CASES)
def test_values_and_gradients_are_those_of_the_formula(case):
    method, formula = CASES[case]
    params, constants = method.init(RNG, CONTEXT)
    params = moved(params)
    theirs, fixed = in_torch(params, True), in_torch(constants, False)
    rows = formula(theirs, fixed)
    pull = np.random.default_rng(0).normal(size=rows.shape)
    (rows * torch.tensor(pull)).sum().backward()

    ours, pull_back = jax.vjp(lambda p: method.apply(p, constants).prompt.rows, params)
    np.testing.assert_allclose(ours, rows.detach().numpy(), rtol=1e-5, atol=1e-6)
    gradient, = pull_back(jnp.asarray(pull, jnp.float32))
    jax.tree.map(lambda own, other: np.testing.assert_allclose(
        own, other.grad.numpy(), rtol=1e-5, atol=1e-5), gradient, theirs)


@pytest.mark.parametrize('inner, formula', [(None, lambda p, c: p['prompt']),
                                            (ulpt(rank=3), lambda p, c: CASES['ulpt'][1](
                                                p, c['method']))], ids=['direct', 'ulpt'])
def test_the_wayward_penalty_and_its_gradient_are_those_of_the_paper(inner, formula):
    words = [7, 11, 30]
    method = wayward('7 11 30', gamma=0.5, method=inner)
    params, constants = method.init(RNG, CONTEXT)
    params = moved(params)
    theirs, fixed = in_torch(params, True), in_torch(constants, False)
    discrete = torch.tensor(np.asarray(TABLE, np.float64)[words])
    penalty = 0.5 * ((formula(theirs, fixed)[:3] - discrete)**2).sum() / 3
    penalty.backward()
    found, gradient = jax.value_and_grad(method.penalty)(params, constants)
    np.testing.assert_allclose(found, penalty.item(), rtol=1e-5)
    jax.tree.map(lambda own, other: np.testing.assert_allclose(
        own, other.grad.numpy(), rtol=1e-5, atol=1e-6), gradient, theirs)
    assert method.name == ('ulpt' if inner else 'direct')
    assert method.config['gamma'] == 0.5 and method.config['name'] == 'wayward'


def test_methods_begin_where_they_say():
    start = CONTEXT.start(RNG)
    for method in (superpos(entries=9), dept(rank=2), wayward('7'), ulpt(D, from_start=True),
                   dpt(P, scale=None)):
        params, constants = method.init(RNG, CONTEXT)
        rows = method.apply(params, constants).prompt.rows
        np.testing.assert_allclose(rows[:P], start, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(rows[P:], 0)
    low, nearest = dpt(2, scale=None), np.linalg.svd(start)
    rows = low.apply(*low.init(RNG, CONTEXT)).prompt.rows
    np.testing.assert_allclose(rows, nearest[0][:, :2] * nearest[1][:2] @ nearest[2][:2],
                               rtol=1e-4, atol=1e-5)


def test_the_text_that_dept_changes_is_as_long_as_the_longest_or_as_said():
    tuned = [jax.eval_shape(method.apply, *method.init(RNG, CONTEXT))
             for method in (dept(rank=2), dept(rank=2, length=3))]
    assert [(one.prompt.rows.shape, one.prompt.added) for one in tuned] == [
        ((P + 7, D), 7), ((P + 3, D), 3)]


def test_what_is_trained_has_the_size_that_the_papers_count():
    def numbers(method, rows, width):
        table = jnp.ones((6000, width))
        context = InitContext(table, rows, None, initializer=uniform(), inputs_length=256)
        return sum(leaf.size for leaf in jax.tree.leaves(
            method.init(RNG, context)[0]))

    assert numbers(ulpt(rank=2), 100, 768) == 1_736
    assert numbers(ulpt(rank=64), 100, 768) == 7_936
    assert numbers(dpt(rank=10), 100, 1024) == 11_240
    assert numbers(superpos(), 10, 768) == 1_280
    assert numbers(dept(), 40, 768) == 76_800


@pytest.mark.parametrize('make, message', [
    (lambda: ulpt(rank=0), 'ulpt has rank=0; expected a whole number of at least 1'),
    (lambda: ulpt(rank=9).init(RNG, CONTEXT), 'ulpt has rank=9; expected a whole number of 1 to 8'),
    (lambda: dpt(rank=6).init(RNG, CONTEXT), 'dpt has rank=6; expected a whole number of 1 to 5'),
    (lambda: dpt(scale=0.0), 'dpt has scale=0.0; expected a positive number'),
    (lambda: superpos(entries=True), 'superpos has entries=True; expected a whole number'),
    (lambda: superpos(entries=4).init(RNG, CONTEXT), 'entries=4 but the prompt has 5 rows'),
    (lambda: superpos(entries=90).init(RNG, CONTEXT), 'cannot draw 85 prompt rows from 37'),
    (lambda: dept(length=0), 'dept has length=0; expected at least 1 token'),
    (lambda: dept(rank=8).init(RNG, CONTEXT), 'dept has rank=8; expected a whole number of 1 to 7'),
    (lambda: wayward('7', gamma=-1.0), 'wayward has gamma=-1.0; expected a positive number'),
    (lambda: wayward('3 4 5 6 7 8').init(RNG, CONTEXT), 'has 6 tokens but the prompt 5 rows'),
    (lambda: wayward('').init(RNG, CONTEXT), 'the tokenizer gives no tokens')])
def test_settings_that_are_none_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_best_of_several_starts_is_the_one_with_the_lowest_loss():
    from jax_prompt.prompts.initializers import best_of, class_labels, sampled_vocabulary
    context = InitContext(TABLE, P, CONTEXT.encode, labels=['5 6', '7'],
                          loss=lambda rows: float(jnp.abs(rows[0] - TABLE[11]).sum()))
    start = best_of(texts=['9 10 12 13 14', '11 3 4 5 6'], starts=[class_labels()])
    np.testing.assert_array_equal(start(RNG, context), TABLE[jnp.array([11, 3, 4, 5, 6])])
    one, many = (best_of(starts=[sampled_vocabulary()], draws=draws)(RNG, context)
                 for draws in (1, 30))
    assert context.loss(many) < context.loss(one)
    labels = class_labels(fallback=from_string('9 10 12'))(RNG, context)
    np.testing.assert_allclose(labels[:2], [TABLE[5:7].mean(axis=0), TABLE[7]], rtol=1e-6)
    assert start.config['texts'] == ['9 10 12 13 14', '11 3 4 5 6']
    for wrong in (dict(), dict(texts='words'), dict(texts=['9'], draws=0)):
        with pytest.raises(ValueError, match='best_of has .* expected a list of texts or starts'):
            best_of(**wrong)
    with pytest.raises(ValueError, match='best_of needs examples to choose by'):
        start(RNG, CONTEXT)
    with pytest.raises(ValueError, match='class_labels has no labels and the task is of free text'):
        class_labels()(RNG, CONTEXT)
