"""Greedy decoding: what PyTorch generates, whatever the padding and the neighbours."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.inference.generate import (
    NOT_FINITE,
    Limits,
    before_end,
    greedy,
    largest,
    likeliest,
    make_generator,
    stack_limits,
)
from jax_prompt.models.t5.model import T5
from tests.inference.whole import assert_compiled_once

LENGTH = 10
compiled = functools.cache(make_generator)


def run(case, prompted, ids=None):
    ids = case.ids(prompted) if ids is None else ids
    return np.asarray(compiled(case.model, LENGTH)(case.frozen, case.prompt, ids))


def test_tokens_equal_pytorchs(case, pytorch, prompted):
    tokens = run(case, prompted)
    expected = pytorch.generate(case.ids(prompted), case.prompt, LENGTH)
    assert tokens.dtype == np.int32
    assert len(np.unique(tokens)) > 4, 'a model that repeats itself tests nothing'
    np.testing.assert_array_equal(tokens, expected)


def test_tokens_are_the_same_with_layers_in_a_row(case):
    model = T5(case.model.config, scan_layers=False)
    tokens = compiled(model, LENGTH)(case.frozen, case.prompt, case.ids(True))
    np.testing.assert_array_equal(tokens, run(case, True))


def test_cached_logits_equal_those_of_training(case, teacher_forced, cached):
    ids = case.ids(prompted=True)
    inputs = np.random.default_rng(0).integers(0, 29, (len(ids), LENGTH), np.int32)
    at_once = teacher_forced(case, ids, case.prompt, inputs)
    by_steps = cached(case, ids, case.prompt, inputs)
    np.testing.assert_allclose(by_steps, at_once, rtol=1e-4, atol=1e-4)


def test_each_token_is_the_likeliest_of_the_whole_decode(case, teacher_forced):
    tokens = run(case, prompted=True)
    starts = np.zeros((len(tokens), 1), np.int32)
    inputs = np.concatenate([starts, tokens[:, :-1]], axis=1)
    logits = teacher_forced(case, case.ids(prompted=True), case.prompt, inputs)
    ended = np.cumsum(inputs == 1, axis=1) > 0
    np.testing.assert_array_equal(tokens, np.where(ended, 0, np.argmax(logits, axis=-1)))


def test_the_prompt_changes_the_output(case):
    assert (run(case, True) != run(case, False)).any()


def test_pads_change_nothing(one_case):
    wide = one_case.ids(prompted=True, width=40)
    np.testing.assert_array_equal(run(one_case, True), run(one_case, True, wide))


def test_rows_do_not_depend_on_their_neighbours(case):
    ids = case.ids(prompted=True)
    together = run(case, True)
    for row in range(len(ids)):
        mixed = np.roll(ids, 1, axis=0)
        mixed[0] = ids[row]
        mixed[1:3] = 0
        np.testing.assert_array_equal(run(case, True, mixed)[0], together[row])


def ends_at(positions):
    """Return a choice of token that ends row i at positions[i], and how often it was asked."""
    asked = []

    def choose(logits_VB, position):
        jax.debug.callback(lambda p: asked.append(int(p)), position)
        return jnp.where(position >= jnp.array(positions), 1, greedy(logits_VB, position) % 20 + 2)

    return choose, asked


def test_it_stops_when_every_row_has_ended_and_pads_the_rest(one_case):
    choose, asked = ends_at([0, 2, 4, 1, 3, 4])
    generate = make_generator(one_case.model, LENGTH, choose)
    tokens = np.asarray(generate(one_case.frozen, one_case.prompt, one_case.ids(True)))
    jax.effects_barrier()
    assert sorted(asked) == [0, 1, 2, 3, 4]
    for row, end in enumerate([0, 2, 4, 1, 3, 4]):
        assert (tokens[row, :end] > 1).all()
        assert tokens[row, end] == 1
        assert (tokens[row, end + 1:] == 0).all()


def test_filler_rows_hold_nobody_up(one_case):
    choose, asked = ends_at([1, LENGTH, LENGTH, LENGTH, LENGTH, LENGTH])
    ids = one_case.ids(True)
    ids[1:] = 0
    tokens = np.asarray(make_generator(one_case.model, LENGTH, choose)(
        one_case.frozen, one_case.prompt, ids))
    jax.effects_barrier()
    assert sorted(asked) == [0, 1]
    assert (tokens[1:] == 0).all()


def test_a_row_without_end_fills_the_length(one_case):
    choose, _ = ends_at([LENGTH] * 6)
    generate = make_generator(one_case.model, LENGTH, choose)
    tokens = np.asarray(generate(one_case.frozen, one_case.prompt, one_case.ids(True)))
    assert tokens.shape == (6, LENGTH)
    assert (tokens > 1).all()


def test_rows_keep_their_own_limits(one_case):
    ids = one_case.ids(True)
    frozen = jax.tree.map(np.array, one_case.frozen)
    frozen['lm_head']['kernel'][:, 1] *= 1.8  # most rows end early
    limits = [1, 4, 10, 2, 7, 3]
    generate = compiled(one_case.model, LENGTH)
    whole = np.asarray(generate(frozen, one_case.prompt, ids))
    short = np.asarray(generate(frozen, one_case.prompt, ids,
                                stack_limits([(0, limit) for limit in limits], LENGTH)))
    for row, limit in enumerate(limits):
        np.testing.assert_array_equal(short[row, :limit], whole[row, :limit])
        assert (short[row, limit:] == 0).all()
    late = np.asarray(generate(frozen, one_case.prompt, ids,
                               stack_limits([(5, None)] * 6, LENGTH)))
    assert (whole[:, :5] == 1).any() and not (late[:, :5] == 1).any()
    first = np.argmax(whole == 1, axis=1)
    np.testing.assert_array_equal(late[first >= 5], whole[first >= 5])


def test_it_stops_when_every_row_is_at_its_limit(one_case):
    choose, asked = ends_at([LENGTH] * 6)
    make_generator(one_case.model, LENGTH, choose)(
        one_case.frozen, one_case.prompt, one_case.ids(True),
        Limits(np.zeros(6, np.int32), np.array([1, 3, 2, 3, 1, 1], np.int32)))
    jax.effects_barrier()
    assert sorted(asked) == [0, 1, 2]


def test_the_likeliest_is_the_first_of_the_largest():
    logits = np.array([[1, 3, 3], [-np.inf, -np.inf, -2], [5, 0, 5], [0, 0, 0]], np.float32)
    np.testing.assert_array_equal(likeliest(jnp.asarray(logits.T)), logits.argmax(axis=1))


@pytest.mark.parametrize('size', [127, 128, 129, 700])
def test_the_likeliest_is_found_in_a_vocabulary_of_many_blocks(size):
    logits = np.random.default_rng(size).integers(-4, 4, (50, size)).astype(np.float32)
    logits[:3] = -np.inf
    logits[1, -1] = logits[2, 0] = 0.0
    found = np.asarray(jax.jit(likeliest)(logits.T))
    np.testing.assert_array_equal(found, logits.argmax(axis=1))
    for number, wrong in enumerate((np.nan, np.inf, -np.nan), 2):
        logits[number, number * size // 5] = wrong
    found = np.asarray(jax.jit(likeliest)(logits.T))
    assert (found[2:5] == NOT_FINITE).all() and (np.delete(found, [2, 3, 4]) >= 0).all()


def test_a_row_ends_where_its_numbers_do(one_case):
    """One word of the head is no number: whatever reads all logits must say so."""
    frozen = jax.tree.map(np.array, one_case.frozen)
    frozen['lm_head']['kernel'][3, 17] = np.nan
    ids = one_case.ids(True)
    ids[2] = 0  # a filler
    tokens = np.asarray(compiled(one_case.model, LENGTH)(frozen, one_case.prompt, ids))
    assert (np.delete(tokens, 2, axis=0)[:, 0] == NOT_FINITE).all() and not tokens[:, 1:].any()
    assert not tokens[2].any()


def test_the_largest_are_found_without_sorting_all():
    """XLA on CPU sorts the whole vocabulary where it does not know top-k for what it is."""
    def use(scores):
        values, where = largest(scores, 5)
        return values[..., -1], where[..., 0]

    scores = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 500)), jnp.float32)
    for given in (scores, scores[0]):
        fifth, first = jax.jit(use)(given)
        np.testing.assert_array_equal(fifth, np.sort(given, axis=-1)[..., -5])
        np.testing.assert_array_equal(first, np.argmax(given, axis=-1))
    if jax.default_backend() == 'cpu':
        program = jax.jit(use).lower(scores[0]).compile().as_text()
        assert 'TopK' in program and ' sort(' not in program


def test_it_compiles_once_a_shape_and_captures_no_weights(one_case, compilations):
    assert_compiled_once(lambda: make_generator(one_case.model, LENGTH), one_case, compilations)


def test_the_loop_does_not_touch_the_encoders_outputs(one_case):
    """The encoder and the cross keys and values run before the loop: nothing in it is [., S, D]."""
    ids = jnp.asarray(one_case.ids(True, width=37))
    program = jax.make_jaxpr(make_generator(one_case.model, LENGTH))(
        one_case.frozen, one_case.prompt, ids)
    inner = [eqn for eqn in program.eqns if eqn.primitive.name in ('pjit', 'jit')]
    loops = [eqn for eqn in inner[-1].params['jaxpr'].eqns if eqn.primitive.name == 'while']
    assert len(loops) == 1
    shapes = [set(shape.split(',')) for shape in
              re.findall(r'[a-z]+\d+\[([\d,]+)\]', str(loops[0].params['body_jaxpr']))]
    assert any('37' in shape for shape in shapes), 'the loop reads the cached cross keys'
    assert not [shape for shape in shapes if {'37', '16'} <= shape]


def test_text_ends_before_the_first_end_token():
    assert before_end(np.array([5, 0, 7, 1, 9, 1]), (1, 9)) == [5, 0, 7]
    assert before_end(np.array([5, 7]), (1,)) == [5, 7]
    assert before_end(np.array([5, 9, 1]), (1, 9)) == [5]


def test_an_impossible_length_is_refused(one_case):
    with pytest.raises(ValueError, match='max_length=0; expected at least one token'):
        make_generator(one_case.model, 0)
