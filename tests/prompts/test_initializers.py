"""Initialisers: each one's numbers by its definition, and each refusal's message."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.prompts import initializers
from jax_prompt.prompts.initializers import InitContext

V, P, D = 64, 6, 5
TABLE = np.random.default_rng(0).normal(size=(V, D)).astype(np.float32)
WORDS = {'negative': [10, 11, 12], 'positive': [20], 'rate this': [30, 31], '': [], 'odd': [V]}
RNG = jax.random.key(7)


def context(table=TABLE, num_rows=P):
    return InitContext(table, num_rows, WORDS.__getitem__)


def row_ids(prompt_PD, table=TABLE):
    """Find which table row each prompt row copies."""
    ids = [np.flatnonzero((table == row).all(1)) for row in np.asarray(prompt_PD)]
    assert all(len(found) == 1 for found in ids)
    return [int(found[0]) for found in ids]


ALL = {
    'uniform': initializers.uniform(),
    'sampled_vocabulary': initializers.sampled_vocabulary(),
    'class_labels': initializers.class_labels(['negative', 'positive']),
    'from_string': initializers.from_string('rate this'),
    'from_array': initializers.from_array(np.ones((P, D))),
}


@pytest.mark.parametrize('name', ALL)
def test_every_initialiser_gives_float32_rows_that_depend_on_the_key_alone(name):
    first, again = ALL[name](RNG, context()), ALL[name](RNG, context())
    assert isinstance(first, jax.Array) and first.dtype == jnp.float32 and first.shape == (P, D)
    np.testing.assert_array_equal(first, again)
    other = ALL[name](jax.random.key(8), context())
    assert (name == 'from_array') == bool((first == other).all())


@pytest.mark.parametrize('name', ['uniform', 'sampled_vocabulary'])
def test_what_fills_up_may_have_nothing_to_fill(name):
    assert ALL[name](RNG, context(num_rows=0)).shape == (0, D)


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('table', [
    jnp.asarray(TABLE), jnp.asarray(TABLE, jnp.bfloat16), np.asarray(jnp.asarray(TABLE, 'bfloat16'))
], ids=['jax', 'jax bfloat16', 'numpy bfloat16'])
def test_every_initialiser_takes_tables_of_any_kind(name, table):
    exact = context(np.asarray(table, np.float32))
    np.testing.assert_array_equal(ALL[name](RNG, context(table)), ALL[name](RNG, exact))


def test_uniform_fills_its_interval():
    prompt_PD = np.asarray(initializers.uniform()(RNG, context(num_rows=2000)))
    assert -0.5 <= prompt_PD.min() < -0.499 and 0.499 < prompt_PD.max() < 0.5
    assert abs(prompt_PD.mean()) < 0.01 and abs(prompt_PD.std() - 12**-0.5) < 0.01
    assert np.abs(initializers.uniform(2.0)(RNG, context())).max() > 1


def test_sampled_rows_are_different_frequent_words():
    drawn = set()
    for seed in range(30):
        ids = row_ids(initializers.sampled_vocabulary(10)(jax.random.key(seed), context()))
        assert len(set(ids)) == P
        drawn |= set(ids)
    assert drawn == set(range(3, 13))  # no special token, no eleventh word, all of the ten


def test_the_whole_of_a_small_vocabulary_can_be_drawn():
    ids = row_ids(initializers.sampled_vocabulary()(RNG, context(num_rows=V - 3)))
    assert sorted(ids) == list(range(3, V))
    bare = dataclasses.replace(context(num_rows=V), num_special_ids=0)
    assert sorted(row_ids(initializers.sampled_vocabulary()(RNG, bare))) == list(range(V))


def test_labels_come_first_as_means_of_their_subwords():
    fallback = initializers.uniform()
    prompt_PD = initializers.class_labels(['negative', 'positive'], fallback)(RNG, context())
    np.testing.assert_allclose(prompt_PD[0], TABLE[10:13].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(prompt_PD[1], TABLE[20])
    np.testing.assert_array_equal(prompt_PD[2:], fallback(RNG, context(num_rows=P - 2)))


def test_labels_of_several_raw_values_count_once():
    prompt_PD = initializers.class_labels(['positive', 'positive'])(RNG, context(num_rows=1))
    np.testing.assert_array_equal(prompt_PD[0], TABLE[20])


def test_a_text_gives_a_row_a_token_then_the_fallback():
    prompt_PD = initializers.from_string('rate this')(RNG, context())
    np.testing.assert_array_equal(prompt_PD[:2], TABLE[30:32])
    rest = initializers.sampled_vocabulary()(RNG, context(num_rows=P - 2))
    np.testing.assert_array_equal(prompt_PD[2:], rest)


@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64', '>f4', 'bfloat16'])
def test_arrays_of_any_float_type_are_cast(dtype):
    array = np.asarray(jnp.asarray(TABLE[:P], jnp.bfloat16)).astype(dtype)
    prompt_PD = initializers.from_array(array)(RNG, context())
    np.testing.assert_array_equal(prompt_PD, array.astype(np.float32))


@pytest.mark.parametrize('name', ['prompt.npy', 'checkpoint without suffix'])
@pytest.mark.parametrize('dtype', ['float16', 'float32', 'float64'])
def test_numpy_files_are_known_by_their_content(tmp_path, name, dtype):
    array = TABLE[:P].astype(dtype)
    with (tmp_path / name).open('wb') as file:
        np.save(file, array)
    for path in (tmp_path / name, str(tmp_path / name)):
        prompt_PD = initializers.from_array(path)(RNG, context())
        np.testing.assert_array_equal(prompt_PD, array.astype(np.float32))


@pytest.mark.parametrize(('build', 'message'), [
    (lambda: initializers.uniform(0), 'scale=0; expected a positive number'),
    (lambda: initializers.uniform(float('nan')), 'scale=nan; expected'),
    (lambda: initializers.sampled_vocabulary(0), 'most_frequent=0; expected 1 or more'),
    (lambda: initializers.class_labels([]), r'labels=\[\]; expected a list of words'),
    (lambda: initializers.class_labels('positive'), "labels='positive'; expected a list"),
])
def test_impossible_initialisers_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(('initializer', 'rows', 'message'), [
    (initializers.sampled_vocabulary(5), 6, 'draw 6 prompt rows from 5 vocabulary entries'),
    (initializers.sampled_vocabulary(), 62, 'draw 62 prompt rows from 61 vocabulary entries'),
    (initializers.class_labels(['positive', 'negative']), 1,
     'the 2 class labels need 2 prompt rows but the prompt has 1; lengthen'),
    (initializers.class_labels(['positive', '']), 6, "no tokens for ''; initialise"),
    (initializers.from_string('negative'), 2,
     "the text 'negative' needs 3 prompt rows but the prompt has 2; lengthen"),
    (initializers.from_array(np.ones((4, D))), 6, r'array has shape \(4, 5\).*shape \(6, 5\)'),
    (initializers.from_array(np.ones(D)), 1, r'array has shape \(5,\).*shape \(1, 5\)'),
    (initializers.from_array(np.ones((6, D), int)), 6, 'array holds int64, not floats'),
    (initializers.from_array(np.diag([1, 1, np.nan, 1, 1])), 5, 'not finite.*in row 2'),
    (initializers.from_array(np.full((1, D), 1e300)), 1, 'not finite in float32, first in row 0'),
])
def test_prompts_that_cannot_be_initialised_are_refused(initializer, rows, message):
    with pytest.raises(ValueError, match=message):
        initializer(RNG, context(num_rows=rows))


def test_long_texts_are_cut_in_messages():
    words = dict.fromkeys(['word ' * 100], [3] * 100)
    with pytest.raises(ValueError, match=r"the text 'word .*\.\.\. \(502 characters\) needs 100"
                       ) as caught:
        initializers.from_string('word ' * 100)(RNG, InitContext(TABLE, P, words.__getitem__))
    assert len(str(caught.value)) < 250


def test_damaged_numpy_files_are_refused(tmp_path):
    path = tmp_path / 'prompt.npy'
    np.save(path, TABLE[:P])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match='prompt.npy'):
            initializers.from_array(path)(RNG, context())
    path.write_bytes(whole.replace(b'(6, 5)', b'(9999999999, 5)'))
    with pytest.raises(ValueError, match='no readable numpy array'):
        initializers.from_array(path)(RNG, context())


def test_pickles_are_never_loaded(tmp_path):
    np.save(tmp_path / 'objects.npy', np.array([[print]]), allow_pickle=True)
    (tmp_path / 'pickle.npy').write_bytes(b'\x80\x04N.')
    with pytest.raises(ValueError, match='no readable numpy array'):
        initializers.from_array(tmp_path / 'objects.npy')(RNG, context())
    with pytest.raises(ValueError, match='cannot use prompt file .*pickle.npy'):
        initializers.from_array(tmp_path / 'pickle.npy')(RNG, context())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r'cannot read .*none\.npy.*No such file'):
        initializers.from_array(tmp_path / 'none.npy')(RNG, context())
