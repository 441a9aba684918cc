"""Weights in Hugging Face's format: every tensor in its place, every fault named."""

import contextlib
import dataclasses
import itertools
import json
import resource
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jax_prompt.models.t5.model import T5
from jax_prompt.weights import huggingface
from jax_prompt.weights.convert import convert_model
from jax_prompt.weights.load import load_weights
from jax_prompt.weights.tensors import FLOATS, Digest, is_finite
from tests.weights.conftest import CONFIGS, make_tree
from tests.weights.model_files import assert_same_tree, split_in_two


def test_round_trip_in_every_shape(config, random_tree, hugging_face_folder):
    frozen = random_tree(config)
    got_config, got, *_ = load_weights(hugging_face_folder(frozen, config))
    assert got_config == dataclasses.replace(config, name='tiny-t5')
    assert_same_tree(got, frozen)


def test_shards_give_the_same_as_one_file(plain_config, random_tree, hugging_face_folder):
    frozen = random_tree(plain_config)
    whole = hugging_face_folder(frozen, plain_config, 'whole')
    shards = hugging_face_folder(frozen, plain_config, 'shards')
    split_in_two(shards)
    _, one, fingerprint_of_one, *_ = load_weights(whole)
    _, many, fingerprint_of_many, *_ = load_weights(shards)
    assert_same_tree(many, one)
    assert fingerprint_of_many == fingerprint_of_one


def test_bfloat16_is_each_weight_rounded(plain_config, random_tree, hugging_face_folder):
    frozen = random_tree(plain_config)
    folder = hugging_face_folder(frozen, plain_config)
    _, got, fingerprint, *_ = load_weights(folder, 'bfloat16')
    assert_same_tree(got, jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), frozen))
    assert fingerprint == load_weights(folder, 'float32').fingerprint


def test_bfloat16_files_are_read(plain_config, random_tree, hugging_face_folder):
    frozen = jax.tree.map(lambda leaf: leaf.astype(ml_dtypes.bfloat16), random_tree(plain_config))
    _, got, *_ = load_weights(hugging_face_folder(frozen, plain_config))
    assert_same_tree(got, jax.tree.map(lambda leaf: leaf.astype(np.float32), frozen))


def test_fingerprint_tells_models_apart_and_not_processes(
        plain_config, random_tree, hugging_face_folder):
    frozen = random_tree(plain_config)
    folder = hugging_face_folder(frozen, plain_config)
    fingerprint = load_weights(folder.rename(folder.with_name('called otherwise'))).fingerprint
    folder = folder.with_name('called otherwise')
    program = ('import sys; from jax_prompt.weights.load import load_weights; '
               'print(load_weights(sys.argv[1]).fingerprint)')
    out = subprocess.run([sys.executable, '-c', program, str(folder)], check=True, text=True,
                         capture_output=True)
    assert out.stdout.strip() == fingerprint
    frozen['decoder']['layers']['feed_forward']['wo']['kernel'][1, 0, 0] += 1e-3
    assert load_weights(hugging_face_folder(frozen, plain_config, 'b')).fingerprint != fingerprint
    assert load_weights(hugging_face_folder(
        random_tree(plain_config), plain_config, 'c', relative_attention_max_distance=64)
    )[2] != fingerprint


@pytest.mark.parametrize('shape, fingerprint', [
    ('t5-1.0', 'cf0756242d804e74243fcea1e6f45205bd8e24b0a0c2daa408b983d45b5f5e00-05d5daf8490f0ffa'),
    ('t5-1.1', '060d376a3eb32de9465cd975200439cd433ca91b6b9a3cafbee19b3288e48f02-ab8e9f8161fcf469'),
    ('umt5', 'd7237de2701f171596f4a04ec460d9d5d47797cc5d565901ba7ab42ad7f474cd-742b107e7d1e8349')])
def test_a_fingerprint_is_the_same_in_every_version(shape, fingerprint, hugging_face_folder):
    """Prompt files say which model they belong to by it: a change would refuse them all."""
    config = CONFIGS[shape]
    assert load_weights(hugging_face_folder(make_tree(config, 7), config)).fingerprint == (
        fingerprint)


def test_a_digest_heeds_every_byte_however_blocks_come():
    array = np.random.default_rng(0).normal(size=(300, 50)).astype(np.float32)

    def digest(array, bounds=(0, 300)):
        digest = Digest(array.dtype, array.shape)
        for start, stop in sorted(itertools.pairwise(bounds), key=lambda pair: -pair[1] % 7):
            digest.add(start, array[start:stop])
        return digest.finish()

    whole = digest(array)
    assert digest(array, (0, 1, 2, 30, 150, 299, 300)) == whole == digest(np.asfortranarray(array))
    changed = array.copy()
    changed[150, 25] += 1
    assert digest(changed)[0] != whole[0] and digest(changed)[1] == whole[1]
    changed[0, 0] += 1
    assert digest(changed)[1] != whole[1]
    assert digest(array.reshape(50, 300), (0, 50))[0] != whole[0]


@pytest.mark.parametrize('dtype', FLOATS)
def test_numbers_that_are_not_finite_are_found_in_any_dtype(dtype):
    array = np.linspace(-3, 4, 40).astype(dtype).reshape(5, 8)
    assert is_finite(array) and is_finite(array.T) and is_finite(-np.abs(array))
    with np.errstate(all='ignore'):
        largest = ml_dtypes.finfo(dtype).max
    assert is_finite(np.array([largest, -largest], dtype))
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        for others in (array, -np.abs(array)):
            spoilt = others.copy()
            spoilt[3, 5] = value
            assert not is_finite(spoilt) and not is_finite(spoilt.T)


@pytest.mark.parametrize('value, dtype', [(np.nan, 'float32'), (-np.inf, 'bfloat16'),
                                          (3.4e38, 'bfloat16')])
def test_weights_that_are_not_finite_are_refused(value, dtype, plain_config, random_tree,
                                                 hugging_face_folder, tmp_path):
    """Whether the file has them or rounding makes them, and before anything is converted."""
    frozen = random_tree(plain_config)
    frozen['decoder']['layers']['feed_forward']['wo']['kernel'][1, 3, 4] = value
    folder = hugging_face_folder(frozen, plain_config)
    with pytest.raises(ValueError, match="model.safetensors has 'decoder.block.1.layer.2.DenseRelu"
                                         rf"Dense.wo.weight' with .*inf or NaN as {dtype}\)"):
        convert_model(folder, tmp_path / 'out', dtype)
    assert not (tmp_path / 'out').exists()


def test_copies_of_the_embedding_are_checked(plain_config, random_tree, hugging_face_folder):
    frozen = random_tree(plain_config)

    def copy(tensors):
        tensors['encoder.embed_tokens.weight'] = tensors['shared.weight'].copy()
        tensors['decoder.embed_tokens.weight'] = tensors['shared.weight'].copy()

    _, got, fingerprint, *_ = load_weights(hugging_face_folder(frozen, plain_config, edit=copy))
    assert_same_tree(got, frozen)
    assert fingerprint == load_weights(hugging_face_folder(frozen, plain_config)).fingerprint

    def spoil(tensors):
        copy(tensors)
        tensors['decoder.embed_tokens.weight'][23, 7] += 1

    with pytest.raises(ValueError, match=r"'decoder.embed_tokens.weight' that differs from "
                                         r"'shared.weight'; expected them equal: T5 has one"):
        load_weights(hugging_face_folder(frozen, plain_config, edit=spoil))


def test_a_copy_stands_in_for_the_shared_table(plain_config, random_tree, hugging_face_folder):
    """Some savers keep one name of tied tensors, and not the one expected."""
    frozen = random_tree(plain_config)

    def rename(tensors):
        tensors['decoder.embed_tokens.weight'] = tensors.pop('shared.weight')

    folder = hugging_face_folder(frozen, plain_config, edit=rename)
    assert_same_tree(load_weights(folder).frozen, frozen)


def test_tensors_nobody_ever_read_are_accepted(plain_config, random_tree, hugging_face_folder):
    frozen = random_tree(plain_config)

    def add(tensors):
        tensors['decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight'] = (
            np.zeros((6, 2), np.float32))

    folder = hugging_face_folder(frozen, plain_config, edit=add)
    assert_same_tree(load_weights(folder).frozen, frozen)


@pytest.mark.parametrize('says, head, tied, scaled', [
    # Older hub files: what config.json says holds.
    (dict(tie_word_embeddings=False), 'own', False, False),
    (dict(tie_word_embeddings=True), None, True, True),
    (dict(tie_word_embeddings=None), None, True, True),
    (dict(tie_word_embeddings=True), 'copy', True, True),
    # transformers 5 always says tied; the tensors decide, and scaling has a key of its own.
    (dict(tie_word_embeddings=True, scale_decoder_outputs=False), 'own', False, False),
    (dict(tie_word_embeddings=True, scale_decoder_outputs=False), None, True, False),
    (dict(tie_word_embeddings=True, scale_decoder_outputs=True), None, True, True),
    (dict(tie_word_embeddings=True, scale_decoder_outputs=True), 'own', False, True),
    (dict(tie_word_embeddings=True, model_type='mt5', transformers_version='5.23.0'), 'own', False,
     False),
    (dict(tie_word_embeddings=True, model_type='mt5', transformers_version='5.23.0'), None, True,
     False),
    (dict(tie_word_embeddings=None, model_type='mt5'), 'own', False, False),
    # Before 5.24 it wrote of a umT5 what all its readers take for scaled, whatever the head.
    (dict(tie_word_embeddings=True, model_type='umt5', transformers_version='5.23.0'), 'own', False,
     True),
    (dict(tie_word_embeddings=True, model_type='umt5', transformers_version='5.0.0'), None, True,
     True),
    (dict(tie_word_embeddings=False, model_type='umt5', transformers_version='4.31.0'), 'own',
     False, False),
])
def test_how_the_head_is_settled(says, head, tied, scaled, plain_config, random_tree,
                                 hugging_face_folder, caplog):
    umt5 = says.get('model_type') == 'umt5'
    plain_config = CONFIGS['umt5'] if umt5 else plain_config
    frozen = random_tree(plain_config)

    def edit(tensors):
        own = tensors.pop('lm_head.weight')
        if head is not None:
            tensors['lm_head.weight'] = own if head == 'own' else tensors['shared.weight'].copy()

    config, got, *_ = load_weights(hugging_face_folder(frozen, plain_config, edit=edit, **says))
    assert (config.tied_head, config.scale_decoder_outputs) == (tied, scaled)
    assert ('lm_head' in got) == (not tied)
    assert ('scales the outputs of every umT5' in caplog.text) == (umt5 and scaled and not tied)


@pytest.mark.parametrize('says, message', [
    (dict(architectures=['T5Model']), 'tiny-t5 was saved from T5Model, without a head to write'),
    (dict(architectures=['T5EncoderModel', 'X']), 'was saved from T5EncoderModel, without a head'),
    (dict(architectures=['T5Model'], transformers_version='5.24.0'), 'from T5Model, without a'),
    (dict(architectures=['T5WithLMHeadModel']), None), (dict(architectures=[]), None),
    (dict(architectures='T5Model'), "has architectures='T5Model'; expected list"),
    (dict(is_gated_act=False), "feed_forward_proj='gated-gelu', but is_gated_act=False"),
    (dict(dense_act_fn='relu'), "feed_forward_proj='gated-gelu', but .* dense_act_fn='relu'; set"),
    (dict(dense_act_fn='gelu_new', is_gated_act=True), None),
    (dict(model_type='mt5', scale_decoder_outputs=True), 'scale_decoder_outputs=true for an mT5'),
    (dict(model_type='mt5', scale_decoder_outputs=False), None),
    (dict(decoder_start_token_id=24), "special id 24 .*; expected ids below vocab_size=24"),
])
def test_what_contradicts_itself_is_refused(says, message, plain_config, random_tree,
                                            hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config, tie_word_embeddings=True,
                                 edit=lambda tensors: tensors.pop('lm_head.weight'), **says)
    with pytest.raises(ValueError, match=message) if message else contextlib.nullcontext():
        load_weights(folder)


@pytest.mark.parametrize('says, generation, expected, told', [
    (dict(eos_token_id=[1, 20]), None, (0, 1, (20,)), ''),
    ({}, dict(eos_token_id=[20, 1, 3, 20]), (0, 1, (20, 3)), ''),
    (dict(eos_token_id=2), dict(eos_token_id=5, decoder_start_token_id=4), (4, 2, (5,)),
     'decoder_start_token_id=4 where the configuration has 0; the decoder starts with 4'),
    ({}, dict(forced_bos_token_id=3, suppress_tokens=[1, 2], num_beams=1, do_sample=True,
              no_repeat_ngram_size=0, max_length=20), (0, 1, ()), 'generation_config.json asks for '
     'forced_bos_token_id=3, suppress_tokens=[1, 2], do_sample=True, which is not heeded'),
    (dict(num_beams=4), None, (0, 1, ()), 'config.json asks for num_beams=4, which is not heeded'),
])
def test_what_generation_is_asked_for_is_heeded_or_told(
        says, generation, expected, told, plain_config, random_tree, hugging_face_folder, caplog,
        tmp_path):
    folder = hugging_face_folder(random_tree(plain_config), plain_config, **says)
    fingerprint = load_weights(folder).fingerprint
    if generation is not None:
        (folder / 'generation_config.json').write_text(json.dumps(generation))
    caplog.clear()
    loaded = load_weights(folder)
    converted = load_weights(convert_model(folder, tmp_path / 'out', 'float32'))
    for config in (loaded.config, converted.config):
        assert (config.decoder_start_token_id, config.eos_token_id,
                config.other_eos_token_ids) == expected
        assert T5(config).tokens.ends == (expected[1], *expected[2])
        hash(config)
    assert told in caplog.text and bool(told) == bool(caplog.text)
    # Ends tell no model from another, its start does.
    assert (loaded.fingerprint == fingerprint) == (expected[0] == 0)


@pytest.mark.parametrize('content, message', [
    ('{"eos_token_id": [1, "x"]}', 'generation_config.json has eos_token_id=.*expected an id'),
    ('{"decoder_start_token_id": 99}', 'special id 99 .padding, end or start'),
    ('{"eos', 'generation_config.json is not valid JSON'), ('[1]', 'expected an object')])
def test_a_damaged_generation_config_is_refused(content, message, plain_config, random_tree,
                                                hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config)
    (folder / 'generation_config.json').write_text(content)
    with pytest.raises(ValueError, match=message):
        load_weights(folder)


def test_a_tied_head_that_differs_is_refused(plain_config, random_tree, hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config, tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"'lm_head.weight' that differs from 'shared.weight'; .* "
                                         r'set tie_word_embeddings to false'):
        load_weights(folder)


@pytest.mark.parametrize('name', [
    'encoder.block.1.layer.0.SelfAttention.k.weight', 'lm_head.weight',
    'decoder.final_layer_norm.weight', 'shared.weight'])
def test_a_missing_tensor_is_named(name, plain_config, random_tree, hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config,
                                 edit=lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match=f"tiny-t5 has no tensor '{name}'.*complete T5|"
                                         f"no tensor 'shared.weight'; expected the weights"):
        load_weights(folder)


def test_a_missing_layer_is_counted(plain_config, random_tree, hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config, num_layers=3)
    with pytest.raises(ValueError, match=r"no tensor 'encoder.block.2.layer.0.layer_norm.weight' "
                                         r'and 8 more; a T5 of 3\+2 layers'):
        load_weights(folder)


@pytest.mark.parametrize('changes, name', [
    (dict(num_decoder_layers=1), 'decoder.block.1.layer.0.SelfAttention.k.weight'),
    (dict(feed_forward_proj='gelu_new'), 'decoder.block.0.layer.2.DenseReluDense.wi_0.weight')])
def test_an_extra_tensor_is_named(changes, name, plain_config, random_tree, hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config, **changes)
    with pytest.raises(ValueError, match=rf"model.safetensors has an unexpected tensor '{name}"):
        load_weights(folder)


def test_a_misshapen_tensor_is_named(plain_config, random_tree, hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config, d_ff=12)
    with pytest.raises(ValueError, match=(
            r"model.safetensors has 'decoder.block.0.layer.2.DenseReluDense.wi_0.weight' with "
            r'shape \[10, 8\]; expected \[12, 8\] for a T5 of 2\+2 layers')):
        load_weights(folder)


def test_integers_are_refused(plain_config, random_tree, hugging_face_folder):
    def quantise(tensors):
        tensors['lm_head.weight'] = tensors['lm_head.weight'].astype(np.int8)

    folder = hugging_face_folder(random_tree(plain_config), plain_config, edit=quantise)
    with pytest.raises(ValueError, match="'lm_head.weight' as I8; expected one of F32, BF16"):
        load_weights(folder)


@pytest.mark.parametrize('keep', [0, 5, 100, -3])
def test_a_truncated_file_is_named(keep, plain_config, random_tree, hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config)
    file = folder / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match='model.safetensors is corrupt or truncated: .*again$'):
        load_weights(folder)


def test_shards_stay_in_their_folder(plain_config, random_tree, hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config)
    split_in_two(folder)
    (folder.parent / 'secret.safetensors').write_bytes(b'')
    index = folder / 'model.safetensors.index.json'
    content = json.loads(index.read_text())
    for bad in ('../secret.safetensors', '/etc/passwd', 'a/../../b', 'sub/x', 'sub\\x'):
        content['weight_map']['shared.weight'] = bad
        index.write_text(json.dumps(content))
        with pytest.raises(ValueError, match='index.json names the shard .* without any path'):
            load_weights(folder)


def test_a_missing_shard_is_named(plain_config, random_tree, hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config)
    split_in_two(folder)
    (folder / 'model-00002-of-00002.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='no model-00002-of-00002.safetensors, which'):
        load_weights(folder)


def test_a_tensor_in_two_shards_is_refused(plain_config, random_tree, hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config)
    split_in_two(folder)
    second = folder / 'model-00002-of-00002.safetensors'
    tensors = load_file(second)
    first = next(iter(load_file(folder / 'model-00001-of-00002.safetensors').items()))
    save_file(tensors | dict([first]), second)
    with pytest.raises(ValueError, match=f"tensor '{first[0]}' is in both model-00001.* and model"):
        load_weights(folder)


def test_other_faults_of_a_folder(tmp_path, plain_config, random_tree, hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config)
    (folder / 'config.json').rename(folder / 'x')
    with pytest.raises(FileNotFoundError, match='config.json does not exist; a Hugging Face T5'):
        load_weights(folder)
    with pytest.raises(ValueError, match="cannot be kept in 'float16'; expected float32 or bfloat"):
        load_weights(folder, 'float16')
    (folder / 'config.json').write_text('{"d_model":')
    with pytest.raises(ValueError, match='config.json is not valid JSON'):
        load_weights(folder)
    (folder / 'config.json').write_text('[]')
    with pytest.raises(ValueError, match='config.json holds a JSON list; expected an object'):
        load_weights(folder)


def test_a_folder_without_weights(plain_config, random_tree, hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config)
    (folder / 'model.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match=(
            'has no weights; expected one of model.safetensors, model.safetensors.index.json, '
            'pytorch_model.bin, pytorch_model.bin.index.json')):
        load_weights(str(folder))


def test_memory_is_about_the_weights(tmp_path, plain_config, hugging_face_folder):
    """Loading holds the tree and about one tensor; PyTorch's way would hold the weights twice."""
    config = dataclasses.replace(plain_config, vocab_size=1000, d_model=512, d_ff=1024,
                                 num_heads=8, d_kv=64, num_layers=6, num_decoder_layers=6)
    rng = np.random.default_rng(0)
    from jax_prompt.models.architecture import leaf_shapes
    tree, size = {}, 0
    for path, shape in leaf_shapes(config).items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = rng.random(shape, np.float32)
        size += node[path[-1]].nbytes
    folder = hugging_face_folder(tree, config)
    program = (
        'import resource, sys, numpy\n'
        'from jax_prompt.weights.load import load_weights\n'
        'import jax_prompt.weights.huggingface\n'
        'anonymous = lambda: int(next(l for l in open("/proc/self/status") if l.startswith('
        '"RssAnon")).split()[1]) * 1024\n'
        'before = anonymous()\n'
        'model = load_weights(sys.argv[1], "bfloat16")\n'
        'print(anonymous() - before)\n')
    if not hasattr(resource, 'RUSAGE_SELF') or sys.platform != 'linux':
        pytest.skip('RssAnon of /proc/self/status is Linux')
    out = subprocess.run([sys.executable, '-c', program, str(folder)], check=True, text=True,
                         capture_output=True)
    weights = size // 2
    # Modules that loading imports count too; some 16 MB. Two copies would be 2.0.
    assert weights * 0.9 < int(out.stdout) < weights * 1.4


def test_the_hub_is_asked_for_what_a_model_needs(monkeypatch, plain_config, random_tree,
                                                 hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config)
    (folder / 'tokenizer.json').write_text('{}')
    asked = {}

    def snapshot_download(repository, revision, allow_patterns):
        asked.update(repository=repository, revision=revision, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot_download)
    load_weights('google/flan-t5-tiny')
    assert asked['revision'] is None
    model = load_weights('google/flan-t5-tiny@refs/pr/1')
    assert (asked['repository'], asked['revision']) == ('google/flan-t5-tiny', 'refs/pr/1')
    assert 'model*.safetensors' in asked['patterns'] and 'tokenizer.json' in asked['patterns']
    assert {'vocab.json', 'merges.txt', 'sentencepiece.model'} < set(asked['patterns'])
    assert not any('bin' in pattern for pattern in asked['patterns'])
    assert (model.name, model.config.name) == ('google/flan-t5-tiny',) * 2
    assert model.folder == folder


def test_the_hub_is_asked_for_pickled_weights_only_where_there_are_no_others(
        monkeypatch, plain_config, random_tree, hugging_face_folder):
    folder = hugging_face_folder(random_tree(plain_config), plain_config)
    (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
    asked = []

    def snapshot_download(repository, revision, allow_patterns):
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot_download)
    assert huggingface.download('Salesforce/codet5-base') == folder
    assert 'model*.safetensors' in asked[0] and 'pytorch_model*.bin' not in asked[0]
    assert 'pytorch_model*.bin' in asked[1] and 'tokenizer.json' in asked[1]


def test_a_hub_that_does_not_answer(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot_download(repository, revision, allow_patterns):
        raise LocalEntryNotFoundError('cannot reach the hub\nand more lines')

    monkeypatch.setattr('huggingface_hub.snapshot_download', snapshot_download)
    with pytest.raises(ValueError, match=r"no folder 'gogle/flan' here, and could not get "
                                         r"'gogle/flan' from the Hugging Face hub: cannot reach "
                                         r'the hub; give a repository id'):
        load_weights('gogle/flan')


@pytest.mark.parametrize('path', ['here/flan', './flan', '../flan', 'a/b/c', '~/flan', 'here/',
                                  'here\\flan', '/flan', 'file.bin', 'flan@', 'a/b/c@main'])
def test_a_mistyped_path_is_not_asked_of_the_hub(monkeypatch, tmp_path, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file.bin').write_text('')
    (tmp_path / 'here').mkdir()
    monkeypatch.setattr('huggingface_hub.snapshot_download', None)  # calling it would be an error
    with pytest.raises(FileNotFoundError, match='no model at|no T5 in the folder here'):
        load_weights(path)


def test_sources_that_are_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model at './nowhere': found nothing there"):
        load_weights('./nowhere')
    (tmp_path / 'file').write_text('')
    with pytest.raises(FileNotFoundError, match='found a file there, expected a folder'):
        load_weights(str(tmp_path / 'file'))
    with pytest.raises(FileNotFoundError, match='no T5 in the folder .*: expected config.json'):
        load_weights(str(tmp_path))
    with pytest.raises(FileNotFoundError, match='pip install no-such-package'):
        load_weights('package:no_such_package/data')
    with pytest.raises(FileNotFoundError, match="package 'safetensors' has no 'weights'"):
        load_weights('package:safetensors/weights')
    with pytest.raises(ValueError, match='leaves its package'):
        load_weights('package:safetensors/../numpy')


def test_importing_the_loader_stays_light():
    """Neither onnx nor Orbax nor transformers is imported to read safetensors."""
    program = ('import sys; from jax_prompt.weights import load, huggingface, onnx; '
               'print([m for m in ("onnx", "orbax", "transformers", "tensorflow", '
               '"huggingface_hub") if m in sys.modules])')
    out = subprocess.run([sys.executable, '-c', program], check=True, text=True,
                         capture_output=True)
    assert out.stdout.strip() == '[]'
    assert huggingface.WEIGHTS == 'model.safetensors'
