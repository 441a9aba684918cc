"""T5X checkpoints: every form gives the tree that was written; what is missing is never zeros."""

import dataclasses
import gzip
import json
import pathlib
import shutil

import ml_dtypes
import numpy as np
import pytest
from flax import serialization

from jax_prompt.models.t5.int8 import quantise_tree
from jax_prompt.weights import array_folder, t5x
from jax_prompt.weights.load import load_weights
from jax_prompt.weights.t5x_arrays import find_model
from tests.weights import t5x_files
from tests.weights.model_files import (
    assert_same_tree,
    t5x_tree,
    write_later_orbax,
    write_t5x,
)

pytest.importorskip('tensorstore')

FORMS = {
    'native': lambda folder, tree: write_t5x(folder, tree),
    'native, all inline': lambda folder, tree: write_t5x(folder, tree, smallest=10**9),
    'first Orbax': lambda folder, tree: write_t5x(folder, tree, orbax=True),
    'OCDBT': lambda folder, tree: write_later_orbax(folder, tree),
    'OCDBT with zarr 3': lambda folder, tree: write_later_orbax(folder, tree, use_zarr3=True),
    'Orbax without OCDBT': lambda folder, tree: write_later_orbax(folder, tree, use_ocdbt=False),
}


@pytest.fixture
def written(tmp_path, plain_config, random_tree):
    """A native checkpoint of T5 1.1's shape, and its tree."""
    frozen = random_tree(plain_config)
    write_t5x(tmp_path / 'checkpoint_9', t5x_tree(frozen))
    return tmp_path / 'checkpoint_9', frozen


def tell_silu(folder, config):
    """Say beside a checkpoint the one thing that shapes do not tell."""
    if config.activation == 'silu':
        (folder / 'config.json').write_text(json.dumps(dict(
            vocab_size=24, d_model=8, d_kv=3, d_ff=10, num_layers=2, num_heads=2,
            feed_forward_proj='gated-silu', relative_attention_num_buckets=6)))


@pytest.mark.parametrize('form', FORMS)
def test_every_form_is_read(form, plain_config, random_tree, tmp_path):
    frozen = random_tree(plain_config)
    FORMS[form](tmp_path / 'run' / 'checkpoint_9', t5x_tree(frozen))
    model = load_weights(tmp_path / 'run' / 'checkpoint_9')
    assert_same_tree(model.frozen, frozen)
    assert model.name == 'run/checkpoint_9'
    assert model.config == dataclasses.replace(plain_config, name='run/checkpoint_9')
    assert model.folder is None


@pytest.mark.parametrize('scanned', [False, True])
@pytest.mark.parametrize('fused', [False, True])
def test_every_shape_and_layout(scanned, fused, config, random_tree, tmp_path):
    frozen = random_tree(config)
    write_t5x(tmp_path / 'c', t5x_tree(frozen, scanned, fused))
    tell_silu(tmp_path / 'c', config)
    # A T5X model scales before a tied head and only there, which 1.0 alone does here.
    got_config, got, *_ = load_weights(tmp_path / 'c')
    assert got_config == dataclasses.replace(config, name='c')
    assert_same_tree(got, frozen)


def test_a_kernel_multiplies_as_in_t5x(plain_config, random_tree, tmp_path):
    """T5X: x @ kernel, then heads apart: the fused axis is heads first (`DenseGeneral`)."""
    tree = t5x_tree(random_tree(plain_config))
    query = tree['decoder']['layers_1']['encoder_decoder_attention']['query']['kernel']
    assert query.shape == (8, 6)
    write_t5x(tmp_path / 'c', tree)
    decoder = load_weights(tmp_path / 'c').frozen['decoder']
    ours = decoder['layers']['cross_attention']['query']['kernel'][1]
    x_D = np.random.default_rng(1).normal(size=8).astype(np.float32)
    np.testing.assert_allclose(np.einsum('D,DHK->HK', x_D, ours), (x_D @ query).reshape(2, 3),
                               rtol=1e-5)


def test_fingerprint_is_that_of_the_hugging_face_conversion(
        config, random_tree, hugging_face_folder, tmp_path, monkeypatch):
    frozen = random_tree(config)
    write_t5x(tmp_path / 'c', t5x_tree(frozen, scanned=True))
    tell_silu(tmp_path / 'c', config)
    expected = load_weights(hugging_face_folder(frozen, config)).fingerprint
    assert load_weights(tmp_path / 'c').fingerprint == expected
    monkeypatch.setattr(t5x, '_WHOLE_BYTES', 1)  # all tensors as the largest are: by rows
    _, got, fingerprint, *_ = load_weights(tmp_path / 'c', weights='bfloat16')
    assert fingerprint == expected
    assert got['token_embedder']['embedding'].dtype == ml_dtypes.bfloat16


def test_large_arrays_are_read_by_rows(monkeypatch, written):
    folder, frozen = written
    monkeypatch.setattr(t5x, '_WHOLE_BYTES', 1)
    monkeypatch.setattr('jax_prompt.weights.assemble._BLOCK_BYTES', 64)
    assert_same_tree(load_weights(folder).frozen, frozen)
    # A scale is of a whole column: it must not be one of some rows.
    assert_same_tree(load_weights(folder, weights='int8').frozen, quantise_tree(frozen))


def test_bfloat16_arrays_are_read(plain_config, random_tree, tmp_path):
    tree = t5x_tree(random_tree(plain_config))
    kernel = tree['decoder']['logits_dense']['kernel'].astype(ml_dtypes.bfloat16)
    tree['decoder']['logits_dense']['kernel'] = kernel
    write_t5x(tmp_path / 'c', tree)
    np.testing.assert_array_equal(load_weights(tmp_path / 'c').frozen['lm_head']['kernel'],
                                  kernel.astype(np.float32))


@pytest.mark.parametrize('folder, spec', [
    ('gs://t5-data/pretrained_models/t5x/t5_1_1_base/checkpoint_1000000/',
     {'driver': 'gcs', 'bucket': 't5-data',
      'path': 'pretrained_models/t5x/t5_1_1_base/checkpoint_1000000/'}),
    ('/models/checkpoint_3', {'driver': 'file', 'path': '/models/checkpoint_3/'})])
def test_where_a_folder_is(folder, spec):
    import tensorstore
    assert array_folder.kvstore(folder) == spec
    # TensorStore understands it, for an array within, too.
    array = {'driver': 'zarr', 'kvstore': spec | {'path': f'{spec["path"]}target.x/'}}
    assert tensorstore.Spec(array).to_json()['kvstore'] == array['kvstore']


@pytest.mark.parametrize('form', ['native', 'OCDBT'])
def test_a_bucket_is_read_through_tensorstore(form, monkeypatch, plain_config, random_tree,
                                              tmp_path):
    """With the bucket's store replaced by a local one, a gs:// address loads like a folder."""
    frozen = random_tree(plain_config)
    FORMS[form](tmp_path / 'bucket' / 'run' / 'checkpoint_9', t5x_tree(frozen))
    specs = []

    def local(folder):
        specs.append(KVSTORE(folder))
        assert specs[-1]['driver'] == 'gcs' and specs[-1]['bucket'] == 'bucket'
        return {'driver': 'file', 'path': f'{tmp_path}/bucket/{specs[-1]["path"]}'}

    monkeypatch.setattr(array_folder, 'kvstore', local)
    model = load_weights('gs://bucket/run/checkpoint_9')
    assert_same_tree(model.frozen, frozen)
    assert (model.name, model.folder) == ('run/checkpoint_9', None)
    assert specs[0]['path'] == 'run/checkpoint_9/'


KVSTORE = array_folder.kvstore


def test_an_address_without_a_path_is_refused():
    with pytest.raises(ValueError, match="'gs://bucket' is no address of a checkpoint; expected"):
        load_weights('gs://bucket')


def test_what_is_not_there(tmp_path, written):
    with pytest.raises(FileNotFoundError, match='neither a file checkpoint nor _METADATA'):
        find_model(str(tmp_path / 'nowhere'))
    with pytest.raises(FileNotFoundError, match=r'a T5X checkpoint is a folder such as .*nt_9$'):
        load_weights(tmp_path)


def missing_chunk(folder):
    """Zarr takes a chunk that is not there for one of zeros."""
    (folder / 'target.encoder.layers_1.mlp.wo.kernel' / '1.0').unlink()


def missing_array(folder):
    shutil.rmtree(folder / 'target.encoder.layers_1.mlp.wo.kernel')


def cut_chunk(folder, count=9):
    chunk = folder / 'target.encoder.layers_1.mlp.wo.kernel' / '1.0'
    chunk.write_bytes(chunk.read_bytes()[:-count])


def cut_checksum(folder):
    """TensorStore reads what is left, and compares it with nothing."""
    cut_chunk(folder, 1)


def lost_bytes(folder):
    """Of numbers that gzip stores as they are, so that its end is taken for numbers."""
    numbers = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32).tobytes()
    content = gzip.compress(numbers, 0)
    (folder / 'target.encoder.layers_1.mlp.wo.kernel' / '1.0').write_bytes(
        content[:20] + content[25:])


def say_in_zarray(folder, old, new):
    """Change what an array's file says of it."""
    zarray = folder / 'target.encoder.layers_1.mlp.wo.kernel' / '.zarray'
    zarray.write_text(zarray.read_text().replace(old, new))


def other_order(folder):
    say_in_zarray(folder, '"order":"C"', '"order":"F"')


def another_compressor(folder):
    say_in_zarray(folder, '"gzip"', '"zlib"')


def flipped_number(folder):
    """Gzip carries a checksum."""
    chunk = folder / 'target.encoder.layers_1.mlp.wo.kernel' / '1.0'
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 4
    chunk.write_bytes(content)


def longer_array(folder):
    """As if a damaged .zarray declared more rows than were ever written."""
    say_in_zarray(folder, '"shape":[10,8]', '"shape":[1000000000000,8]')


def other_byte_order(folder):
    """One bit of the text."""
    say_in_zarray(folder, '<f4', '>f4')


@pytest.mark.parametrize('damage, message', [
    (missing_chunk, "cannot read the array 'encoder/layers_1/mlp/wo/kernel' of .*is missing"),
    (missing_array, "cannot read the array 'encoder/layers_1/mlp/wo/kernel' of .*NOT_FOUND"),
    (cut_chunk, "cannot read the array 'encoder/layers_1/mlp/wo/kernel' of .*; copy the"),
    (cut_checksum, 'target.encoder.layers_1.mlp.wo.kernel/1.0 does not end in its checksum and s'),
    (lost_bytes, 'target.encoder.layers_1.mlp.wo.kernel/1.0 does not end in its checksum and size'),
    (another_compressor, "'encoder/layers_1/mlp/wo/kernel' .* compressed by zlib, .* expected gz"),
    (other_order, r'as <f4\[10, 8\], .* little-endian, rows first'),
    (flipped_number, "cannot read the array 'encoder/layers_1/mlp/wo/kernel' of .*; copy the"),
    (longer_array, r"'encoder/layers_1/mlp/wo/kernel' as <f4\[1000000000000, 8\], but its list of "
                   r'arrays says \[10, 8\]'),
    (other_byte_order, r"'encoder/layers_1/mlp/wo/kernel' as >f4\[10, 8\], .* little-endian"),
])
def test_damage_is_named(damage, message, written):
    folder, _ = written
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_weights(folder)


def edited(folder, change):
    """Change the state in the msgpack file."""
    path = folder / 'checkpoint'
    state = serialization.msgpack_restore(path.read_bytes())
    change(state)
    path.write_bytes(serialization.msgpack_serialize(state))


def lead(path):
    def change(state):
        kernel = state['optimizer']['target']['encoder']['layers_0']['mlp']['wo']['kernel']
        kernel['kvstore']['path'] = path
    return change


def drop(*keys):
    def change(state):
        node = state['optimizer']['target']
        for key in keys[:-1]:
            node = node[key]
        del node[keys[-1]]
    return change


def add_prompt(state):
    state['optimizer']['target']['encoder']['prompt'] = {'prompt': np.ones((2, 8), np.float32)}


@pytest.mark.parametrize('change, message', [
    (lead('../../../etc'), "'encoder/layers_0/mlp/wo/kernel' as .*; expected an array of floats"),
    (lead('/etc/passwd'), 'the name of a folder beside it; copy the checkpoint again'),
    (lead('..'), 'the name of a folder beside it'),
    (lead(''), 'the name of a folder beside it'),
    (drop('encoder', 'layers_1', 'mlp', 'wo'),
     "no tensor 'encoder.block.1.layer.1.DenseReluDense.wo.weight'; a T5 of 2"),
    (drop('encoder', 'relpos_bias'), "no tensor 'encoder.block.0.layer.0.SelfAttention.relative"),
    (drop('token_embedder'), "no tensor 'shared.weight', and there is no config.json"),
    (add_prompt, "unexpected parameter 'encoder/prompt/prompt' .*a prompt is imported by itself"),
    (lambda state: state.update(version=2), 'has the version 2 of T5X checkpoints; expected 3'),
    (lambda state: state.pop('optimizer'), r"no model among \['version'\]; expected \"optimizer\""),
])
def test_what_does_not_fit_is_named(change, message, written):
    folder, _ = written
    edited(folder, change)
    with pytest.raises(ValueError, match=message):
        load_weights(folder)


def test_integers_are_refused(written):
    folder, _ = written
    name = 'target.encoder.layers_0.mlp.wo.kernel'
    shutil.rmtree(folder / name)
    t5x_files.write_zarr(folder, name, np.ones((10, 8), np.uint16))
    with pytest.raises(ValueError, match=r'as uint16; expected floating-point numbers \(check'):
        load_weights(folder)


def test_a_configuration_beside_it_decides_what_shapes_do_not_tell(written, config_json,
                                                                   plain_config):
    folder, _ = written
    said = config_json(plain_config, relative_attention_max_distance=77)
    (folder / 'config.json').write_text(json.dumps(said))
    assert load_weights(folder).config.relative_attention_max_distance == 77
    (folder / 'config.json').write_text(json.dumps(said | dict(d_ff=11)))
    with pytest.raises(ValueError, match=r'with shape \[10, 8\]; expected \[11, 8\]'):
        load_weights(folder)
    (folder / 'config.json').write_text('{')
    with pytest.raises(ValueError, match='config.json is not valid JSON'):
        load_weights(folder)


def test_a_tensorflow_checkpoint_is_told_apart(tmp_path):
    (tmp_path / 'checkpoint').write_text('model_checkpoint_path: "model.ckpt-1000000"\n')
    with pytest.raises(ValueError, match='checkpoint is no T5X checkpoint'):
        load_weights(pathlib.Path(tmp_path))
