"""Virtual tokens: the lookup, its gradient, and how the gradient is computed."""

import functools
import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.prompts.virtual import apart, join, shifted, with_rows_added

V, P, D = 11, 3, 4
TABLE = jax.random.normal(jax.random.key(0), (V, D))
PROMPT = jax.random.normal(jax.random.key(1), (P, D))
IDS = jnp.array([[V, V + 1, V + 2, 4, 1, 0], [10, V + 2, 0, V, V + 2, 1]])
WEIGHTS = jax.random.normal(jax.random.key(2), (*IDS.shape, D))


def reference(table_VD, prompt_PD, ids_BS, dtype=jnp.float32):
    """The definition: one table of V + P rows; its gradient is a scatter-add."""
    return jnp.concatenate([table_VD.astype(dtype), prompt_PD.astype(dtype)])[ids_BS]


def embed(table_VD, prompt_PD, ids_BS, dtype=jnp.float32):
    """Look words up, as a model does, and put the prompt's rows in."""
    words_BS = jnp.where(ids_BS < len(table_VD), ids_BS, 0)
    return join(jnp.take(table_VD, words_BS, axis=0).astype(dtype), prompt_PD, ids_BS,
                len(table_VD))


def loss(prompt_PD, table_VD, ids_BS, dtype=jnp.float32, embed=embed):
    hidden_BSD = embed(table_VD, prompt_PD, ids_BS, dtype).astype(jnp.float32)
    return jnp.sum(jnp.sin(hidden_BSD) * WEIGHTS[: ids_BS.shape[0]])


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_ids_past_the_vocabulary_are_rows_of_the_prompt(dtype):
    hidden_BSD = embed(TABLE, PROMPT, IDS, dtype)
    assert hidden_BSD.dtype == dtype
    np.testing.assert_array_equal(hidden_BSD, reference(TABLE, PROMPT, IDS, dtype))


def test_rows_of_a_bfloat16_table_and_a_float32_prompt_meet_in_the_activation_dtype():
    hidden_BSD = embed(TABLE.astype(jnp.bfloat16), PROMPT, IDS, jnp.float32)
    expected = reference(TABLE.astype(jnp.bfloat16), PROMPT, IDS, jnp.float32)
    np.testing.assert_array_equal(hidden_BSD, expected)
    np.testing.assert_array_equal(hidden_BSD[0, :P], PROMPT)  # not rounded through bfloat16


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_gradient_equals_the_scatter_add_in_float32(dtype):
    grad_PD = jax.grad(loss)(PROMPT, TABLE, IDS, dtype)
    expected = jax.grad(loss)(PROMPT, TABLE, IDS, dtype, reference)
    assert grad_PD.dtype == jnp.float32
    # In bfloat16 the reference also sums in bfloat16.
    rtol = 1e-6 if dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(grad_PD, expected, rtol=rtol, atol=1e-6)


def test_bfloat16_gradients_are_summed_in_float32():
    """4099 places of one row: bfloat16 has no such number, and a sum of ones stops at 256."""
    ids = jnp.full((1, 4099), V)
    total = jax.grad(lambda p: jnp.sum(embed(TABLE, p, ids, jnp.bfloat16).astype(jnp.float32)))
    np.testing.assert_array_equal(total(PROMPT)[0], np.full(D, 4099, np.float32))


def test_no_virtual_token_gives_a_zero_gradient():
    grad_PD = jax.grad(loss)(PROMPT, TABLE, jnp.minimum(IDS, V - 1))
    np.testing.assert_array_equal(grad_PD, np.zeros((P, D)))


def test_without_virtual_tokens_the_values_are_the_plain_ones():
    ids = jnp.minimum(IDS, V - 1)
    np.testing.assert_array_equal(embed(TABLE, PROMPT, ids), TABLE[ids])


def test_not_a_number_in_places_of_the_vocabulary_does_not_reach_the_prompt():
    is_virtual = (IDS >= V)[..., None]
    cotangent = jnp.where(is_virtual, WEIGHTS, jnp.nan)
    _, transpose = jax.vjp(lambda p: embed(TABLE, p, IDS), PROMPT)
    _, expected = jax.vjp(lambda p: reference(TABLE, p, IDS), PROMPT)
    clean = jnp.where(is_virtual, WEIGHTS, 0)
    np.testing.assert_allclose(transpose(cotangent)[0], expected(clean)[0], rtol=1e-6)


def test_not_a_number_in_unused_rows_does_not_reach_the_output():
    ids = jnp.array([[4, V + 1, 5]])
    table = TABLE.at[0].set(jnp.nan)  # the row that stands in for virtual ids
    prompt = PROMPT.at[0].set(jnp.nan)  # the row that stands in for vocabulary ids
    assert jnp.isfinite(embed(table, prompt, ids)).all()
    assert jnp.isfinite(jax.grad(lambda p: jnp.sum(embed(table, p, ids)))(prompt)).all()


def test_maps_over_prompts_and_over_batches():
    prompts = jnp.stack([PROMPT, 2 * PROMPT])
    grads = jax.vmap(jax.grad(loss), (0, None, None))(prompts, TABLE, IDS)
    for i in range(2):
        np.testing.assert_allclose(grads[i], jax.grad(loss)(prompts[i], TABLE, IDS), rtol=1e-5)
    rows = jax.vmap(functools.partial(embed, TABLE, PROMPT))(IDS)
    np.testing.assert_array_equal(rows, embed(TABLE, PROMPT, IDS))


def test_jit_and_second_derivatives_agree_with_the_reference():
    def norm(prompt_PD, lookup):
        return jnp.sum(jax.grad(loss)(prompt_PD, TABLE, IDS, jnp.float32, lookup) ** 2)

    ours = jax.jit(jax.grad(functools.partial(norm, lookup=embed)))(PROMPT)
    theirs = jax.grad(functools.partial(norm, lookup=reference))(PROMPT)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


# The instruction, the operation it came from, or the loop that some compilers turn it into; not the
# names of Python functions, which the text holds too.
SERIAL = re.compile(r' scatter\(|/scatter|scatter-add| while\(')


def compiled_gradient(lookup, sharding=None):
    """Compile the loss and its gradient at the size of T5 Small."""

    def shaped(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def squares(prompt_PD, table_VD, ids_BS):
        return jnp.sum(lookup(table_VD, prompt_PD, ids_BS, jnp.bfloat16).astype(jnp.float32) ** 2)

    arguments = (
        shaped((20, 512), jnp.float32), shaped((32128, 512), jnp.bfloat16),
        shaped((16, 84), jnp.int32),
    )
    return jax.jit(jax.value_and_grad(squares)).lower(*arguments).compile().as_text()


def test_the_gradient_is_compiled_without_a_scatter():
    assert SERIAL.search(compiled_gradient(reference))  # what to look for
    assert not SERIAL.search(compiled_gradient(embed))


def test_the_gradient_is_compiled_without_a_scatter_for_tpu(monkeypatch):
    if importlib.util.find_spec('libtpu') is None:
        pytest.skip('libtpu, the TPU compiler, is not installed')
    from jax.experimental import topologies

    monkeypatch.setenv('TPU_SKIP_MDS_QUERY', '1')
    monkeypatch.setenv('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')  # other tests may compile for TPUs now
    topology = topologies.get_topology_desc(
        platform='tpu', topology_name='v5e:1x1', chips_per_host_bounds=(1, 1, 1)
    )
    sharding = jax.sharding.SingleDeviceSharding(topology.devices[0])
    assert SERIAL.search(compiled_gradient(reference, sharding))
    assert not SERIAL.search(compiled_gradient(embed, sharding))


def test_virtual_ids_are_no_misses_of_the_table():
    with jax.debug_nans(True):  # a lookup out of bounds gives not-a-number
        embed(TABLE, PROMPT, IDS)


def test_ids_can_be_moved_to_the_rows_of_another_prompt():
    table, rows = np.zeros((5, 2), np.float32), np.arange(12, dtype=np.float32).reshape(6, 2)
    ids = np.array([5, 3, 6, 0])  # of a prompt of two rows and one that is added, here the second
    ids[1] = with_rows_added(ids[1], 2, 5)
    moved = shifted(ids, 3, 5)
    np.testing.assert_array_equal(moved[[0, 2, 3]], [8, 9, 0])
    tokens, added = apart(moved, 5)
    np.testing.assert_array_equal([tokens[1], added[1], added[0]], [3, 5, -1])
    joined = np.asarray(join(jnp.asarray(table)[jnp.minimum(tokens, 4)], rows, tokens, 5))
    np.testing.assert_array_equal(joined[[0, 2]], rows[[3, 4]])
    with pytest.raises(ValueError, match='cannot be added to tokens'):
        shifted(ids, 20_000, 5)
