"""A small tokenizer of T5's kind, built on the spot."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from jax_prompt.data.vocabularies import HuggingFaceVocabulary

WORDS = ('a good film bad the plot is thin and slow sentence review of it was great fun dull '
         'negative positive neutral').split()


def _build_tokenizer(words=WORDS, pad='<pad>', eos='</s>', unk='<unk>', sentinels=2):
    """Build a Unigram tokenizer with T5's special ids, sentinels, single letters and some words."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [(pad, 0.0), (eos, 0.0), (unk, 0.0), ('▁', -2.0)]
    pieces += [('▁' + word, -3.0) for word in words] + [(letter, -10.0) for letter in letters]
    pieces += [(f'<extra_id_{i}>', 0.0) for i in reversed(range(sentinels))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = [pad, eos, unk, *(f'<extra_id_{i}>' for i in range(sentinels))]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f'$A {eos}', special_tokens=[(eos, 1)])
    return tokenizer


@pytest.fixture(scope='session')
def build_tokenizer():
    """Return the function that builds tokenizers, for those that differ from `tokenizer`."""
    return _build_tokenizer


@pytest.fixture(scope='session')
def words():
    return WORDS


@pytest.fixture(scope='session')
def tokenizer():
    return _build_tokenizer()


@pytest.fixture(scope='session')
def vocabulary(tokenizer):
    return HuggingFaceVocabulary(tokenizer)


@pytest.fixture
def write(tmp_path):
    """Write a text file and return its path."""
    def write_file(name, text):
        path = tmp_path / name
        path.write_text(text, encoding='utf-8')
        return str(path)
    return write_file
