"""Weights go straight into their shards: each device has its part, and no more was made of it."""

import os

import jax
import numpy as np
import pytest

from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.int8 import Int8, quantise_tree
from jax_prompt.weights import assemble
from jax_prompt.weights.convert import convert_model
from jax_prompt.weights.load import load_weights
from jax_prompt.weights.placing import Builder
from tests.parallel import devices
from tests.weights.model_files import assert_same_tree, split_in_two, t5x_tree, write_t5x

CONFIG = T5Config(vocab_size=32, d_model=8, d_kv=3, d_ff=16, num_heads=4, num_layers=2,
                  num_decoder_layers=2, relative_attention_num_buckets=6)
SCRIPT = '../weights/load_on_devices.py'


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """One model as each kind of checkpoint."""
    from tests.weights.conftest import make_tree, write_config_json, write_hugging_face
    root = tmp_path_factory.mktemp('models')
    frozen = make_tree(CONFIG)
    write_hugging_face(root / 'safetensors', frozen, CONFIG, write_config_json(CONFIG))
    write_hugging_face(root / 'shards', frozen, CONFIG, write_config_json(CONFIG))
    split_in_two(root / 'shards')
    write_t5x(root / 't5x', t5x_tree(frozen))
    convert_model(root / 'safetensors', root / 'converted', 'float32')
    os.environ['MODELS'] = str(root)
    yield root
    del os.environ['MODELS']


@pytest.fixture(scope='module')
def seen(folders):
    return devices.run(SCRIPT, 8)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['safetensors', 'shards', 't5x', 'converted', 'bfloat16', 'int8',
                                  'one device'])
def test_each_device_has_its_part(kind, seen):
    one = seen[kind]
    assert one['right'] and one['same tree'] and one['same model'] and not one['moved']
    # Split over all devices but for norms and biases, which are copied.
    assert one['bytes'] <= one['held'] < 2 * one['bytes']


@pytest.mark.slow
def test_two_processes_read_their_own_parts(folders):
    """Rows of a kernel that stand on another process's devices are read by one of the two alone."""
    reports = devices.run_together(SCRIPT, 2, 2)
    for report in reports:
        assert all(one['right'] and one['same model'] for one in report.values())
        one = report['safetensors']
        assert one['held'] < 0.8 * one['bytes']
        assert one['read'] < one['read whole'] - 0.05 * one['bytes']


@pytest.mark.parametrize('block_bytes', [1, 100, 2**25])
@pytest.mark.parametrize('weights', ['float32', 'bfloat16', 'int8'])
def test_the_size_of_blocks_changes_nothing(block_bytes, weights, config, random_tree,
                                            hugging_face_folder, monkeypatch):
    frozen = random_tree(config)
    folder = hugging_face_folder(frozen, config)
    monkeypatch.setattr(assemble, '_BLOCK_BYTES', block_bytes)
    _, got, fingerprint, *_ = load_weights(folder, weights=weights)
    if weights == 'int8':
        assert_same_tree(got, quantise_tree(frozen))
    else:
        dtype = assemble.check_dtype(weights)
        assert_same_tree(got, jax.tree.map(lambda leaf: leaf.astype(dtype), frozen))
    monkeypatch.undo()
    assert fingerprint == load_weights(folder).fingerprint


def test_int8_keeps_the_rest_in_dtype(plain_config, random_tree, hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config)
    model = load_weights(folder, 'bfloat16', weights='int8')
    kinds = {type(leaf).__name__ if isinstance(leaf, Int8) else str(leaf.dtype)
             for leaf in jax.tree.leaves(model.frozen, is_leaf=lambda x: isinstance(x, Int8))}
    assert kinds == {'Int8', 'bfloat16'}
    with pytest.raises(ValueError, match="cannot be kept in 'int4'; expected float32 or bfloat16 "
                                         r'.*, or weights=int8 for the kernels'):
        load_weights(folder, weights='int4')


def test_shardings_may_be_one_or_a_tree(plain_config, random_tree, hugging_face_folder):
    frozen = random_tree(plain_config)
    folder = hugging_face_folder(frozen, plain_config)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for shardings in (one, jax.tree.map(lambda _: one, frozen), lambda shapes, rules: one):
        got = load_weights(folder, shardings=shardings).frozen
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(got))
        assert_same_tree(got, frozen)
    with pytest.raises(ValueError, match="not of this model: 1 paths differ, the first 'lm_head"):
        load_weights(folder, shardings={key: jax.tree.map(lambda _: one, value)
                                   for key, value in frozen.items() if key != 'lm_head'})


def test_an_array_is_not_changed_by_what_is_built_after_it():
    """XLA's CPU backend takes the host's memory over: it must not be used again."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    arrays = []
    for number in range(20):
        builder = Builder((64, 64), np.dtype(np.float32), one)
        builder.write(((0, 64), (0, 64)), np.full((64, 64), number, np.float32))
        arrays.append(builder.finish())
    assert [float(array.min()) for array in arrays] == list(range(20))
    assert [float(array.max()) for array in arrays] == list(range(20))


def test_what_never_fits_is_refused():
    with pytest.raises(ValueError, match=r'no memory for a weight of shape \[1000000000000, 4096\] '
                                         r'in float32 \(16,384,000,000,000,000 bytes\); use a'):
        Builder((10**12, 4096), np.dtype(np.float32))
