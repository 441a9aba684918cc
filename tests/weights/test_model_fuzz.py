"""Damaged model files: a clear refusal, or the model that was written; nothing in between.

What is guaranteed differs by format. `pytorch_model.bin`, converted models and T5X's gzipped zarr
chunks carry checksums: any damage that matters is refused. Safetensors, ONNX and numbers inside
T5X's msgpack carry none: there a flipped bit *within the numbers* gives a model with other numbers,
but never one of another structure, shape or dtype, and all else is refused. config.json says some
things that no weight can contradict (ids, distances, dropout); the weights loaded are never others.
"""

import itertools
import json
import os
import shutil

import jax
import numpy as np
import pytest

from jax_prompt.weights.convert import convert_model
from jax_prompt.weights.converted import RECORD, TREE
from jax_prompt.weights.load import load_weights
from tests.weights import fuzzing, make_torch_golden
from tests.weights.model_files import (
    split_in_two,
    t5x_tree,
    write_later_orbax,
    write_t5x,
)

#: Fields of a configuration that no tensor's shape contradicts.
UNCHECKED = {'relative_attention_max_distance', 'layer_norm_epsilon', 'pad_token_id',
             'eos_token_id', 'decoder_start_token_id', 'dropout_rate', 'activation',
             'scale_decoder_outputs', 'name', 'other_eos_token_ids'}


def loaded(folder) -> dict:
    """Everything that a load gives, to compare."""
    model = load_weights(folder)
    return {'frozen': jax.device_get(model.frozen), 'config': model.config.to_dict(),
            'fingerprint': model.fingerprint}


def same_form(got, original) -> bool:
    """Other numbers at most: structure, shapes, dtypes and what shapes tell are the same."""
    def form(result):
        shapes = jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), result['frozen'])
        return shapes, {key: value for key, value in result['config'].items()
                        if key not in UNCHECKED}
    return form(got) == form(original)


def damage_each_way(folder, file, samples, in_numbers=lambda content: False):
    """Load with a file damaged in every way; return how often it was refused and not noticed.

    Args:
      folder: of the model.
      file: the path within it to damage.
      samples: as for `fuzzing.mutations`.
      in_numbers: whether a damaged content differs from the whole one in nothing but numbers that
        have no checksum; such a model may load with other numbers.
    """
    path = folder / file
    original, content = loaded(folder), path.read_bytes()
    refused = harmless = other_numbers = 0
    with fuzzing.little_memory():
        for name, mutated in fuzzing.mutations(content, samples=samples):
            path.write_bytes(mutated)
            result, message = fuzzing.attempt(loaded, folder, name, fuzzing.NOWHERE)
            if message is not None:
                refused += 1
            elif fuzzing.same(result, original):
                harmless += 1
            else:
                assert same_form(result, original), f'{file}, {name}: another model'
                assert in_numbers(mutated), f'{file}, {name}: other content without a word'
                assert result['fingerprint'] != original['fingerprint'], f'{file}, {name}'
                other_numbers += 1
    path.write_bytes(content)
    assert fuzzing.same(loaded(folder), original)
    assert refused > harmless + other_numbers
    return refused, harmless, other_numbers


#: Random damages of each sort: a few in every run, many in the long campaign.
campaigns = pytest.mark.parametrize('more', [
    pytest.param(0.15, id='few'), pytest.param(1.5, id='many', marks=pytest.mark.slow)])


@pytest.fixture
def whole(plain_config, random_tree, hugging_face_folder):
    return hugging_face_folder(random_tree(plain_config), plain_config)


@pytest.fixture
def torch_whole(whole, config_json):
    """A model in a file of torch.save."""
    shutil.copyfile(make_torch_golden.PATH, whole / 'pytorch_model.bin')
    (whole / 'model.safetensors').unlink()
    (whole / 'config.json').write_text(json.dumps(config_json(make_torch_golden.CONFIG)))
    return whole


@campaigns
def test_safetensors(whole, more):
    content = (whole / 'model.safetensors').read_bytes()
    header = 8 + int.from_bytes(content[:8], 'little')
    _, _, other = damage_each_way(
        whole, 'model.safetensors', round(40 * more), lambda mutated: (
            mutated[:header] == content[:header] and len(mutated) == len(content)))
    assert other  # there is no checksum, and this says so


@campaigns
def test_shard_index(whole, more):
    split_in_two(whole)
    damage_each_way(whole, 'model.safetensors.index.json', round(25 * more))


@campaigns
def test_pytorch_model_bin(torch_whole, more):
    damage_each_way(torch_whole, 'pytorch_model.bin', round(60 * more))


@campaigns
def test_the_pickle_within_pytorch_model_bin(torch_whole, more):
    """Damaged inside, under a right checksum, it gives other tensors at most."""
    import zipfile
    original = loaded(torch_whole)
    with zipfile.ZipFile(make_torch_golden.PATH) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in parts if name.endswith('data.pkl'))
    with fuzzing.little_memory():
        for damage, mutated in fuzzing.mutations(parts[name], samples=round(40 * more)):
            with zipfile.ZipFile(torch_whole / 'pytorch_model.bin', 'w') as archive:
                for part, content in (parts | {name: mutated}).items():
                    archive.writestr(part, content)
            result, message = fuzzing.attempt(loaded, torch_whole, damage, fuzzing.NOWHERE)
            assert message is not None or same_form(result, original), damage


@campaigns
@pytest.mark.parametrize('form, tables', [
    ('float', False), pytest.param('integer', True, marks=pytest.mark.slow)])
def test_onnx(more, form, tables, plain_config, random_tree, tmp_path):
    pytest.importorskip('onnx')
    from tests.weights.test_onnx import write_export
    folder = write_export(tmp_path / 'onnx', random_tree(plain_config), plain_config, form, tables)
    for file in ('encoder.onnx', 'decoder.onnx'):
        # A protobuf has neither a header nor checksums: numbers may stand anywhere.
        damage_each_way(folder, file, round(25 * more), lambda mutated: True)


@pytest.mark.parametrize('file, in_numbers', [
    ('checkpoint', True), ('target.token_embedder.embedding/.zarray', False),
    ('target.token_embedder.embedding/1.0', False)])
@campaigns
def test_t5x(more, file, in_numbers, tied_config, random_tree, tmp_path):
    write_t5x(tmp_path / 'c', t5x_tree(random_tree(tied_config)))
    damage_each_way(tmp_path / 'c', file, round(20 * more), lambda mutated: in_numbers)


@pytest.mark.slow
def test_orbax_of_t5x(tied_config, random_tree, tmp_path):
    write_later_orbax(tmp_path / 'c', t5x_tree(random_tree(tied_config)))
    files = sorted((path for path in (tmp_path / 'c' / 'state').rglob('*') if path.is_file()),
                   key=lambda path: path.stat().st_size)
    needed = [path for path in files if path.name in ('_METADATA', 'manifest.ocdbt')
              and path.parent.name == 'state']
    # Of the numbers themselves OCDBT keeps no checksum.
    for path in (*needed, files[-1]):
        damage_each_way(tmp_path / 'c', path.relative_to(tmp_path / 'c'), 10,
                        lambda mutated, path=path: path == files[-1])


@campaigns
def test_converted(whole, tmp_path, more):
    folder = convert_model(whole, tmp_path / 'out')
    for file in (RECORD, TREE):
        damage_each_way(folder, file, round(40 * more))


@campaigns
@pytest.mark.parametrize('file', ['config.json', 'generation_config.json'])
def test_config(whole, more, file):
    path = whole / file
    if not path.exists():
        path.write_text(json.dumps({'decoder_start_token_id': 0, 'eos_token_id': [1, 5],
                                    'forced_bos_token_id': 3}))
    original, content = loaded(whole), path.read_bytes()
    with fuzzing.little_memory():
        for name, mutated in fuzzing.mutations(content, samples=round(60 * more)):
            path.write_bytes(mutated)
            result, message = fuzzing.attempt(loaded, whole, name, fuzzing.NOWHERE)
            if message is None:
                assert fuzzing.same(result['frozen'], original['frozen']), name
                assert same_form(result, original), name


def test_config_of_other_types_and_sizes(whole):
    path = whole / 'config.json'
    original, said = loaded(whole), json.loads(path.read_text())
    with fuzzing.little_memory():
        for field, value in itertools.product(
                ('d_model', 'd_kv', 'num_heads', 'num_layers', 'vocab_size',
                 'relative_attention_num_buckets', 'eos_token_id', 'feed_forward_proj',
                 'tie_word_embeddings', 'model_type', 'layer_norm_epsilon', 'pad_token_id'),
                (10**9, 10**30, -1, 0, 0.5, '8', [], [[]], {}, True, 'x' * 10**5)):
            path.write_text(json.dumps(said | {field: value}))
            result, message = fuzzing.attempt(loaded, whole, f'{field}={value!r:.20}',
                                              fuzzing.NOWHERE)
            assert message is not None or (fuzzing.same(result['frozen'], original['frozen'])
                                           and same_form(result, original)), (field, value)


def test_shards_that_lead_elsewhere(whole, tmp_path):
    """A link is followed, as the hub's own cache needs, but what is no safetensors is refused."""
    split_in_two(whole)
    shard = whole / 'model-00002-of-00002.safetensors'
    shard.unlink()
    for target, refusal in (('/etc/passwd', 'corrupt or truncated'), ('/dev/zero', 'has no model'),
                            ('/', 'has no model'), (str(shard), 'has no model')):
        shard.symlink_to(target)
        assert refusal in fuzzing.assert_refused(loaded, whole, target)
        shard.unlink()
    os.mkfifo(shard)
    assert 'has no model' in fuzzing.assert_refused(loaded, whole, 'a pipe')
    shard.unlink()
    index = whole / 'model.safetensors.index.json'
    for name in ('../x.safetensors', '/etc/passwd', '..', '', '.', 'a\0b.safetensors',
                 'sub/../../x.safetensors', 'config.json', 5, None, ['x'], {'a': 1}):
        index.write_text(json.dumps({'weight_map': {'shared.weight': name}}))
        fuzzing.assert_refused(loaded, whole, str(name)[:40])


def test_sizes_that_were_only_declared(whole):
    """A header may claim any size: nothing is allocated for what the file does not hold."""
    content = (whole / 'model.safetensors').read_bytes()
    length = int.from_bytes(content[:8], 'little')
    header = json.loads(content[8:8 + length])
    for shape in ([10**12, 8], [2**61, 2**61], [-24, 8], [24], [24, 8.0], [0, 8], [2**64, 8]):
        changed = json.dumps(header | {'shared.weight': header['shared.weight'] | {
            'shape': shape}}).encode()
        (whole / 'model.safetensors').write_bytes(
            len(changed).to_bytes(8, 'little') + changed + content[8 + length:])
        with fuzzing.little_memory():
            fuzzing.assert_refused(loaded, whole, str(shape))
    assert np.prod(header['shared.weight']['shape']) == 24 * 8
