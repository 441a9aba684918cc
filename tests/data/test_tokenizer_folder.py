"""Folders of many kinds: each is read with transformers' ids, or refused in a line."""

import json
import random
import shutil
import subprocess
import sys

import pytest
import sentencepiece
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from jax_prompt.data.vocabularies import load_vocabulary

T5 = {'tokenizer_class': 'T5Tokenizer', 'eos_token': '</s>', 'pad_token': '<pad>',
      'unk_token': '<unk>', 'extra_ids': 100, 'model_max_length': 512}
CODE = {'tokenizer_class': 'RobertaTokenizer', 'bos_token': '<s>', 'eos_token': '</s>',
        'cls_token': '<s>', 'sep_token': '</s>', 'unk_token': '<unk>', 'pad_token': '<pad>'}
FAST = T5 | {'tokenizer_class': 'PreTrainedTokenizerFast'}
BYTES = {'tokenizer_class': 'ByT5Tokenizer', 'extra_ids': 125}
TEXTS = ['', ' ', 'a film', ' two  spaces ', 'a\nb\n', '-' * 17, '---- ------- -', '</s>',
         'a </s> b', '<unk> b', '<extra_id_0> park<extra_id_1>', '<extra_id_299>',
         '[ORG] or\n[ORG]x', '<sp> y', '▁a ▁', 'ﬁne ２００ ①', 'e\u0301 naïve 北京 🙂', '<s> a',
         '\ufeff\u200b\u00a0x\u3000y\x00z\x1c', 'def f(x):\n    return x[1:]', "it 's n't , ok ?"]


def _texts():
    """Random characters, words, special tokens and runs of them; the same each time."""
    rng = random.Random(0)
    parts = [*'-=_. \n\t', *' '.join(TEXTS).split(), 'film', 'plot']
    return TEXTS + [''.join(
        chr(rng.randrange(32, 0x3000)) if rng.random() < 0.2 else
        rng.choice(parts) * rng.choice([1, 1, 7]) + rng.choice(['', ' ']) for _ in range(15))
        for _ in range(40)]


def _added(first, *contents):
    """Entries of `added_tokens_decoder`."""
    return {str(first + i): dict(content=content, lstrip=False, rstrip=False, single_word=False,
                                 normalized=False, special=content[0] == '<')
            for i, content in enumerate(contents)}


@pytest.fixture(scope='module')
def files(tmp_path_factory, words):
    """A folder of what tokenizers are made of: T5's and code's, with and without unknowns."""
    root = tmp_path_factory.mktemp('files')
    lines = [' '.join(words[i:] + words[:i]) + ' - -- --- ---- [](){}' for i in range(len(words))]
    (root / 'text.txt').write_text('\n'.join(lines * 3))
    sentencepiece.SentencePieceTrainer.train(
        input=str(root / 'text.txt'), model_prefix=str(root / 'spiece'), vocab_size=90,
        hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2)
    for name, special in (('code', ['<pad>', '<s>', '</s>', '<unk>']), ('fred', ['<pad>', '</s>'])):
        tokenizer = Tokenizer(models.BPE(unk_token='<unk>' if '<unk>' in special else None))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        tokenizer.model.save(str(root), name)
        tokenizer.save(str(root / f'{name}.json'))
    _write(root / 't5', {'model_type': 't5'}, T5, {'spiece.model': root / 'spiece.model'})
    from transformers import T5Tokenizer
    T5Tokenizer.from_pretrained(str(root / 't5')).save_pretrained(str(root / 'five'))
    return root


def _write(folder, model=None, config=None, others=()):
    """Write a folder: JSON, or copies of files."""
    folder.mkdir()
    for name, content in {'config.json': model, 'tokenizer_config.json': config,
                          **dict(others)}.items():
        if isinstance(content, dict):
            (folder / name).write_text(json.dumps(content))
        elif content is not None:
            shutil.copy(content, folder / name)
    return folder


def _fast(files, form='four', **changes):
    """T5's tokenizer.json in the form that transformers 5 or 4 gives it."""
    content = json.loads((files / 'five' / 'tokenizer.json').read_text())
    if form == 'four':
        content['normalizer'] = {'type': 'Sequence', 'normalizers': [
            content['normalizer'],
            {'type': 'Replace', 'pattern': {'Regex': ' {2,}'}, 'content': '▁'}]}
        content['pre_tokenizer'] = {'type': 'Metaspace', 'replacement': '▁',
                                    'prepend_scheme': 'always', 'split': True}
    return content | changes


def _kinds(files):
    """Name -> what a folder holds and says."""
    n = sentencepiece.SentencePieceProcessor(model_file=str(files / 'spiece.model')).vocab_size()
    t5, spm = {'model_type': 't5'}, {'spiece.model': files / 'spiece.model'}
    sentinels = _added(n, *(f'<extra_id_{i}>' for i in reversed(range(100))))
    specials = _added(0, '<pad>', '</s>', '<unk>')
    decoder = {'added_tokens_decoder':
               specials | sentinels | _added(n + 100, '[ORG]', '\n', '<sp>')}
    code = {name: files / f'code-{name}' for name in ('vocab.json', 'merges.txt')}
    fred = {name: files / f'fred-{name}' for name in ('vocab.json', 'merges.txt')}
    no_unknown = FAST | {'unk_token': None}
    return {
        'slow': (t5, T5, spm),
        'slow legacy': (t5, T5 | {'legacy': True, 'clean_up_tokenization_spaces': True}, spm),
        'slow not legacy': (t5, T5 | {'legacy': False}, spm),
        'slow with added tokens': (t5, T5 | decoder, spm),
        'slow with added_tokens.json': (t5, T5, spm | {
            'added_tokens.json': {'[ORG]': n + 100, '<sp>': n + 101},
            'special_tokens_map.json': {'additional_special_tokens': ['<sp>']}}),
        'slow without sentinels': (t5, T5 | {'extra_ids': 0}, spm),
        'slow with 300 sentinels': (t5, T5 | {'extra_ids': 300}, spm),
        'spiece.model': (t5, None, spm), 'spiece.model alone': (None, None, spm),
        'sentencepiece.model': (t5, None, {'sentencepiece.model': files / 'spiece.model'}),
        'mT5': ({'model_type': 'mt5'}, T5 | {'extra_ids': 0}, spm),
        'fast': (t5, T5 | {'clean_up_tokenization_spaces': True},
                 {'tokenizer.json': _fast(files, 'five')}),
        'fast of transformers 4': (t5, T5, {'tokenizer.json': _fast(files)}),
        'fast with added tokens': (t5, T5 | decoder, {'tokenizer.json': _fast(files)}),
        'fast that truncates': (t5, T5, {'tokenizer.json': _fast(files, truncation=dict(
            direction='Right', max_length=4, strategy='LongestFirst', stride=0))}),
        'fast and config.json': (t5, None, {'tokenizer.json': _fast(files)}),
        'fast and tokenizer_config.json': (None, T5, {'tokenizer.json': _fast(files)}),
        'tokenizer.json alone': (None, None, {'tokenizer.json': _fast(files)}),
        'umT5': ({'model_type': 'umt5'}, T5, {'tokenizer.json': _fast(files)}),
        'another class': (t5, FAST, {'tokenizer.json': _fast(files, normalizer={
            'type': 'Lowercase'})}),
        'ByT5': (t5, BYTES, {}), 'ByT5 without sentinels': (t5, BYTES | {'extra_ids': 0}, {}),
        'CodeT5': (t5, CODE, code), 'CodeT5 with sentinels': (t5, CODE | {
            'additional_special_tokens': ['<extra_id_0>', '<extra_id_1>']}, code),
        'CodeT5 by config.json': (t5 | {'tokenizer_class': 'RobertaTokenizer'}, {}, code),
        'without unknown': (t5, no_unknown, {'tokenizer.json': files / 'fred.json'}),
        'without unknown, slow': (
            t5, no_unknown | {'tokenizer_class': 'GPT2Tokenizer'}, fred),
    }


def test_ids_and_texts_are_those_of_transformers(files, tmp_path):
    from transformers import AutoTokenizer, T5Tokenizer

    for name, (model, config, others) in _kinds(files).items():
        folder = _write(tmp_path / name, model, config, others)
        vocabulary = load_vocabulary(str(folder))
        pieces = [str(path) for path in folder.glob('*.model')]
        loader = AutoTokenizer if model or config else T5Tokenizer
        named = dict(vocab_file=pieces[0]) if pieces else {}
        theirs = loader.from_pretrained(str(folder), **named)
        end = [vocabulary.eos_id] * vocabulary.ends_inputs
        for text in _texts():
            ids = vocabulary.encode(text)
            expected = theirs(text).input_ids
            assert ids + end == expected, (name, text)
            assert vocabulary.decode(ids) == theirs.decode(
                ids[:ids.index(vocabulary.eos_id)] if vocabulary.eos_id in ids else ids,
                skip_special_tokens=True), (name, text)
            some = vocabulary.encode_batch([40 * (text + ' and more ')], limit=3)[0]
            assert some[:3] == vocabulary.encode(40 * (text + ' and more '))[:3], (name, text)


def test_tokenizers_json_of_t5_needs_no_transformers(files, tmp_path):
    for number, (model, config) in enumerate([(None, None), ({'model_type': 't5'}, T5)]):
        folder = _write(tmp_path / str(number), model, config, {'tokenizer.json': _fast(files)})
        code = ('import sys; from jax_prompt.data.vocabularies import load_vocabulary as load;'
                'load(sys.argv[1]).encode("a film"); print("transformers" in sys.modules)')
        done = subprocess.run([sys.executable, '-c', code, str(folder)], capture_output=True,
                              text=True, check=True)
        assert done.stdout == 'False\n'


def test_words_of_a_prompt_have_no_start_token(files, tmp_path):
    vocabulary = load_vocabulary(str(_write(tmp_path / 'model', *_kinds(files)['CodeT5'])))
    assert vocabulary.encode('a film') == [1, *vocabulary.encode_words('a film')]


def test_a_file_is_read_as_its_folder_says(files, tmp_path):
    for name in ('slow with added tokens', 'fast with added tokens', 'CodeT5 with sentinels'):
        model, config, others = _kinds(files)[name]
        folder = _write(tmp_path / name, model, config, others)
        whole = load_vocabulary(str(folder))
        for file in others:
            if file != 'merges.txt':
                assert load_vocabulary(str(folder / file)) == whole


@pytest.mark.parametrize('kind, changes, message', [
    ('slow', {'spiece.model': None}, 'has no spiece.model, which a T5Tokenizer is read from; copy'),
    ('CodeT5', {'merges.txt': None}, 'cannot be read by transformers: `vocab` and `merges` must'),
    ('slow', {'spiece.model': b'\x0a\xff'}, 'spiece.model is not a SentencePiece model: '),
    ('slow', {'spiece.model': b''}, 'spiece.model is not a SentencePiece model: it has no pieces'),
    ('slow', {'tokenizer_config.json': T5 | {'extra_ids': 10 ** 9}},
     'has extra_ids 1000000000; expected a number of sentinels up to 10000'),
    ('slow', {'tokenizer_config.json': []}, 'tokenizer_config.json holds a JSON list; expected an'),
    ('fast', {'tokenizer.json': b'{"model": 3}'},
     "do not fit each other: no 'added_tokens'"),
    ('fast', {'tokenizer.json': b'\xff'}, "tokenizer.json is not JSON: 'utf-8' codec"),
    ('fast', {'tokenizer.json': 'damaged table'}, 'tokenizer.json is not a tokenizer.json: Error'),
    ('without unknown', {'tokenizer.json': 'fewer bytes'},
     'names no unknown token and has no entry for each byte, so there are texts that it cannot'),
    ('without unknown', {'tokenizer_config.json': FAST | {'unk_token': None, 'eos_token': None}},
     'names no end token; a T5 tokenizer has one'),
    ('CodeT5', {'tokenizer_config.json': CODE | {'sep_token': '<unk>'}}, r'ends a text with \[3\]'),
])
def test_what_cannot_be_read_is_refused_in_a_line(files, tmp_path, capfd, kind, changes, message):
    model, config, others = _kinds(files)[kind]
    folder = _write(tmp_path / 'model', model, config, others)
    for name, content in changes.items():
        if content == 'damaged table':
            content = _fast(files, 'five')
            content['normalizer']['precompiled_charsmap'] = 'AAAA'
        elif content == 'fewer bytes':
            content = json.loads((files / 'fred.json').read_text())
            content['model'] |= {'vocab': {'<pad>': 0, '</s>': 1, 'a': 2}, 'merges': []}
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content if isinstance(content, bytes) else
                                        json.dumps(content).encode())
    with pytest.raises((ValueError, FileNotFoundError), match=message) as told:
        load_vocabulary(str(folder))
    assert '\n' not in str(told.value) and capfd.readouterr().err == ''


def test_a_panic_of_rust_is_an_error_like_others(files, tmp_path):
    content = _fast(files, 'five')
    content['normalizer']['precompiled_charsmap'] = 'AAAAAA=='
    folder = _write(tmp_path / 'model', None, None, {'tokenizer.json': content})
    with pytest.raises(ValueError, match='model cannot tokenize: index out of bounds: '):
        load_vocabulary(str(folder))


def test_code_that_a_folder_brings_is_never_run(files, tmp_path, monkeypatch):
    """Nor is standard input asked, whose lines are the user's texts."""
    code = {'auto_map': {'AutoTokenizer': ['code.Mine', None], 'AutoConfig': 'code.Mine'}}
    for name, model, config in (('both', code | {'model_type': 'mine'},
                                 code | {'tokenizer_class': 'Mine'}),
                                ('tokenizer', {'model_type': 't5'}, code), ('model', code, None)):
        folder = _write(tmp_path / name, model, config, {'spiece.model': files / 'spiece.model'})
        (folder / 'code.py').write_text(f'open({str(tmp_path / "ran")!r}, "w")\nclass Mine: pass')
        with monkeypatch.context() as patched:
            patched.setattr('builtins.input', lambda *_: pytest.fail('standard input was asked'))
            patched.setattr('sys.stdin', open(files / 'text.txt'))
            try:
                load_vocabulary(str(folder))
            except ValueError as error:
                assert name == 'model' or 'cannot be read by transformers' in str(error)
            assert sys.stdin.tell() == 0
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('kind', ['fast', 'CodeT5', 'ByT5', 'spiece.model alone'])
def test_a_long_text_is_tokenized_no_further_than_is_wanted(files, tmp_path, monkeypatch, kind):
    model, config, others = _kinds(files)[kind]
    folder = _write(tmp_path / 'model', model, config, others)
    path = folder / 'spiece.model' if kind == 'spiece.model alone' else folder
    vocabulary, read = load_vocabulary(str(path)), []
    codec = vocabulary._codec
    monkeypatch.setattr(codec, 'encode', lambda texts, encode=codec.encode: (
        read.append(max(map(len, texts))), encode(texts))[1])
    words = ' '.join(f'film{i % 97} <extra_id_1> --- plot.' for i in range(4000))
    for text in (words, ' ' * 9000 + words, '\n' * 50_000, '北京' * 9000 + ' a b', 'a' * 9000):
        whole = vocabulary.encode(text)
        read.clear()
        some = vocabulary.encode_batch([text, 'short'], limit=50)[0]
        assert some == whole[:len(some)] and len(some) >= min(50, len(whole))
        assert read[0] < 4000 or text is not words
