"""A converted model is the model, in one piece or not at all."""

import errno
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jax_prompt.files import sealed
from jax_prompt.models.t5.int8 import Int8
from jax_prompt.weights import assemble, converted, tensors
from jax_prompt.weights.assemble import named_leaves
from jax_prompt.weights.convert import convert_model
from jax_prompt.weights.load import load_weights
from tests.weights.model_files import assert_same_tree


@pytest.fixture
def folder(plain_config, random_tree, hugging_face_folder):
    """A Hugging Face folder with a tokenizer."""
    folder = hugging_face_folder(random_tree(plain_config), plain_config)
    for name in ('tokenizer.json', 'vocab.json'):
        (folder / name).write_text('{"version": "1.0"}')
    return folder


def test_any_safetensors_reader_opens_it(folder, tmp_path):
    """Other programs can read it, values and scale for each kernel in eight bits."""
    convert_model(folder, tmp_path / 'out', 'int8')
    leaves = named_leaves(load_weights(folder, 'bfloat16', weights='int8').frozen)
    got = load_file(tmp_path / 'out' / converted.TREE)
    assert got.keys() == leaves.keys()
    for name, leaf in leaves.items():
        assert got[name].dtype == leaf.dtype
        np.testing.assert_array_equal(got[name], leaf)


@pytest.mark.parametrize('weights', ['float32', 'bfloat16', 'int8'])
def test_many_blocks_are_one_tree(weights, folder, tmp_path, monkeypatch):
    """Of a layer that is read in parts, the whole is held to the checksum before the first."""
    convert_model(folder, tmp_path / 'out', weights, 'float32')
    monkeypatch.setattr(assemble, '_BLOCK_BYTES', 64)
    monkeypatch.setattr(tensors, '_PASSING_BYTES', 50)
    assert_same_tree(load_weights(tmp_path / 'out').frozen,
                     load_weights(folder, weights=weights).frozen if weights != 'bfloat16' else
                     jax.tree.map(lambda leaf: leaf.astype(np.float32),
                                  load_weights(folder, 'bfloat16').frozen))
    flip(tmp_path / 'out')
    with pytest.raises(ValueError, match='does not match its checksum'):
        load_weights(tmp_path / 'out')


@pytest.mark.parametrize('weights', ['float32', 'bfloat16', 'int8'])
def test_it_is_what_loading_gives(weights, folder, tmp_path):
    output = convert_model(folder, tmp_path / 'out' / 'model', weights)
    assert output == tmp_path / 'out' / 'model'
    dtype = 'float32' if weights == 'float32' else 'bfloat16'
    expected = load_weights(folder, dtype, weights=weights)
    model = load_weights(output, dtype)
    assert_same_tree(model.frozen, expected.frozen)
    assert (model.name, model.fingerprint, model.config) == (
        expected.name, expected.fingerprint, expected.config)
    assert model.folder == output
    for name in ('config.json', 'vocab.json', 'tokenizer.json'):  # says how tokens are read
        assert (output / name).read_bytes() == (folder / name).read_bytes()
    assert [path.name for path in output.parent.iterdir()] == ['model']


def test_every_shape(config, random_tree, hugging_face_folder, tmp_path):
    frozen = random_tree(config)
    convert_model(hugging_face_folder(frozen, config), tmp_path / 'out', 'float32')
    model = load_weights(tmp_path / 'out')
    assert_same_tree(model.frozen, frozen)
    assert model.folder is None


def test_it_can_be_converted_again(folder, tmp_path):
    convert_model(folder, tmp_path / 'one', 'float32')
    convert_model(tmp_path / 'one', tmp_path / 'two', 'bfloat16')
    expected = load_weights(folder, 'bfloat16')
    model = load_weights(tmp_path / 'two', 'bfloat16')
    assert_same_tree(model.frozen, expected.frozen)
    assert (model.name, model.fingerprint) == (expected.name, expected.fingerprint)


def test_dtypes_are_changed_while_it_is_read(folder, tmp_path):
    convert_model(folder, tmp_path / 'out', 'bfloat16')
    rounded = load_weights(folder, 'bfloat16').frozen
    expected = jax.tree.map(lambda leaf: leaf.astype(np.float32), rounded)
    assert_same_tree(load_weights(tmp_path / 'out', 'float32').frozen, expected)
    assert_same_tree(load_weights(tmp_path / 'out', weights='float32').frozen, expected)
    convert_model(folder, tmp_path / 'int8', 'int8')
    frozen = load_weights(tmp_path / 'int8', 'float32').frozen
    kinds = {leaf.dtype for leaf in jax.tree.leaves(frozen)}
    assert kinds == {np.dtype(np.int8), np.dtype(np.float32)}


def test_it_stands_where_shardings_say(folder, tmp_path):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    convert_model(folder, tmp_path / 'out', 'int8')
    got = load_weights(tmp_path / 'out', 'bfloat16',
                       lambda shapes, rules: jax.tree.map(lambda _: one, shapes))
    wo = got.frozen['encoder']['layers']['feed_forward']['wo']
    assert isinstance(wo['kernel'], Int8)
    assert all(isinstance(leaf, jax.Array) and leaf.sharding == one
               for leaf in jax.tree.leaves(got.frozen))
    assert got.frozen['token_embedder']['embedding'].dtype == ml_dtypes.bfloat16
    assert_same_tree(got.frozen, load_weights(folder, 'bfloat16', weights='int8').frozen)


@pytest.mark.parametrize('weights', ['float32', 'int8'])
def test_a_cpu_takes_the_leaves_where_they_lie_in_the_file(weights, folder, tmp_path):
    """Whole and at addresses that XLA takes over as they are; damage is seen all the same."""
    convert_model(folder, tmp_path / 'out', weights, 'float32')
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    frozen = load_weights(tmp_path / 'out', shardings=device).frozen
    assert_same_tree(frozen, load_weights(tmp_path / 'out').frozen)
    maps = [line.split()[0].split('-') for line in open('/proc/self/maps')
            if line.endswith(f'{tmp_path / "out" / converted.TREE}\n')]
    starts = [leaf.addressable_shards[0].data.unsafe_buffer_pointer()
              for leaf in jax.tree.leaves(frozen) if leaf.nbytes % 64 == 0]
    assert len(starts) > 10
    assert all(any(int(first, 16) <= start < int(last, 16) for first, last in maps)
               for start in starts)
    flip(tmp_path / 'out')
    with pytest.raises(ValueError, match='does not match its checksum'):
        load_weights(tmp_path / 'out', shardings=device)


def test_what_was_kept_otherwise_is_refused(folder, tmp_path):
    convert_model(folder, tmp_path / 'int8', 'int8')
    with pytest.raises(ValueError, match='was converted to int8, but bfloat16 is wanted; convert '
                                         'the model again with weights=bfloat16, or leave'):
        load_weights(tmp_path / 'int8', weights='bfloat16')
    convert_model(folder, tmp_path / 'half', 'bfloat16')
    with pytest.raises(ValueError, match='was converted to bfloat16, but int8 is wanted'):
        load_weights(tmp_path / 'half', weights='int8')
    with pytest.raises(ValueError, match="cannot be kept in 'float16'"):
        convert_model(folder, tmp_path / 'x', 'float16')


def test_nothing_is_replaced_unasked(folder, tmp_path):
    output = tmp_path / 'out'
    output.mkdir()
    convert_model(folder, output, 'float32')  # an empty folder is no loss
    with pytest.raises(FileExistsError, match='out is there; choose another folder'):
        convert_model(folder, output, 'bfloat16')
    convert_model(folder, output, 'bfloat16', overwrite=True)
    assert json.loads((output / converted.RECORD).read_text())['weights'] == 'bfloat16'
    with pytest.raises(FileExistsError, match='tiny-t5 is there and is no converted model; choose'):
        convert_model(output, folder, overwrite=True)


def test_a_conversion_that_breaks_off_leaves_nothing(folder, tmp_path, monkeypatch):
    convert_model(folder, tmp_path / 'out', 'float32')
    before = load_weights(tmp_path / 'out').frozen

    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('jax_prompt.weights.convert._write_tree', full)
    for name in ('out', 'new'):
        with pytest.raises(OSError, match=f'^cannot write output .*/{name}: No space left on '
                                          'device; mend that, or name another output$'):
            convert_model(folder, tmp_path / name, 'bfloat16', overwrite=True)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out', 'tiny-t5']
    assert_same_tree(load_weights(tmp_path / 'out').frozen, before)


def cut(folder):
    path = folder / converted.TREE
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder):
    path = folder / converted.TREE
    content = bytearray(path.read_bytes())
    content[-len(content) // 4] ^= 1
    path.write_bytes(content)


def swap_names(folder):
    """Two leaves of one shape under each other's name, as a damaged header might have them."""
    path = folder / converted.TREE
    one, other = b'self_attention/query/kernel', b'self_attention/value/kernel'
    path.write_bytes(path.read_bytes().replace(one, b'x' * len(one)).replace(other, one).replace(
        b'x' * len(one), other))


def cast(folder):
    leaves = load_file(folder / converted.TREE)
    save_file({name: leaf.astype(np.float32) for name, leaf in leaves.items()},
              folder / converted.TREE)


def change_record(folder):
    record = json.loads((folder / converted.RECORD).read_text())
    record['config']['relative_attention_max_distance'] = 64
    (folder / converted.RECORD).write_text(json.dumps(record))


def of_a_later_version(folder):
    record = json.loads((folder / converted.RECORD).read_text())
    record['config']['sparsity'] = 64
    (folder / converted.RECORD).write_text(json.dumps(sealed(record)))


@pytest.mark.parametrize('damage, message', [
    (of_a_later_version, "says what this version of jax_prompt does not read .*'sparsity'.*conv"),
    (cut, r'out/model.safetensors is corrupt or truncated: .*; copy or download the file again'),
    (flip, "out/model.safetensors is corrupt: '.*' within it does not match its checksum; copy"),
    (swap_names, "'encoder/layers/self_attention/.*' within it does not match its checksum"),
    (cast, 'out is damaged: model.safetensors has other tensors than jax_prompt.json says; conv'),
    (lambda folder: (folder / converted.TREE).unlink(), 'model.safetensors is missing; convert it'),
    (change_record, 'jax_prompt.json has been changed'),
    (lambda folder: (folder / converted.RECORD).write_text('{'), 'jax_prompt.json cannot be read'),
    (lambda folder: (folder / converted.RECORD).write_text('[1]'), 'jax_prompt.json'),
])
def test_damage_is_named(damage, message, folder, tmp_path):
    convert_model(folder, tmp_path / 'out', 'bfloat16')
    damage(tmp_path / 'out')
    with pytest.raises(ValueError, match=message):
        load_weights(tmp_path / 'out')


def test_what_an_earlier_version_converted_is_to_be_converted_again(tmp_path):
    (tmp_path / 'out' / 'tree').mkdir(parents=True)
    record = sealed({'format_version': 1, 'name': 't5', 'weights': 'int8', 'files': {}})
    (tmp_path / 'out' / converted.RECORD).write_text(json.dumps(record))
    with pytest.raises(ValueError, match='was converted in format 1; expected 2: convert the mod'):
        load_weights(tmp_path / 'out')
