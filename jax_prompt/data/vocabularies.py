"""Vocabularies: text to token ids and back, from every place a T5 tokenizer comes in.

A vocabulary here is a `HuggingFaceVocabulary`, or one of `t5_vocabularies`: all have `encode`,
`encode_batch`, `decode`, `token_id`, `pieces`, `eos_id`, `unk_id`, `pad_id` and `vocab_size`. None
needs TensorFlow; `seqio_tasks.as_seqio` makes a seqio.Vocabulary of it.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer

from jax_prompt.data.t5_vocabularies import ByteVocabulary, SentencePieceVocabulary
from jax_prompt.files import first_line, package_path

PAD_ID = 0  # T5's and seqio's

# Encoded into the fingerprint, so that a vocabulary of the same pieces that splits differently
# does not pass for the same. No runs of spaces: files made for one model disagree there.
_PROBES = (
    'sst2 sentence: a gripping , well-acted film .',
    'Unbelievably overcomplicated; 1,234.5 of 67%!',
    'Übergrößen, naïveté, 北京, привет, 🙂',
)

# Encodings hold the text of each token too: all of IMDB's at once take a gigabyte.
_ENCODED_AT_ONCE = 1024


class HuggingFaceVocabulary:
    """Read a Hugging Face tokenizer the way seqio reads SentencePiece.

    Truncation and padding that a tokenizer.json brings along are switched off, and no special
    token is added: lengths and the end token are the feature converter's business.

    Example:
        >>> vocabulary = load_vocabulary('t5-small-folder/tokenizer.json')  # doctest: +SKIP
        >>> vocabulary.encode('a good film')  # doctest: +SKIP
        [3, 9, 207, 814]
    """

    def __init__(self, tokenizer: Tokenizer, eos_token: str = '</s>', pad_token: str = '<pad>',
                 unk_token: str = '<unk>', name: str = 'tokenizer'):
        """Wrap a copy of a tokenizer.

        Raises:
            ValueError: a special token is missing, or padding is not id 0 (T5's and seqio's).
        """
        self.name = name
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        special = {token: self._tokenizer.token_to_id(token)
                   for token in (eos_token, pad_token, unk_token)}
        for token, index in special.items():
            if index is None:
                raise ValueError(
                    f'{name} has no token {token!r}; a T5 tokenizer has {", ".join(special)}')
        if special[pad_token] != PAD_ID:
            raise ValueError(f'{name} pads with id {special[pad_token]}; T5 pads with id {PAD_ID}')
        self.eos_id = special[eos_token]
        self.pad_id = special[pad_token]
        self.unk_id = special[unk_token]
        # Ids may have holes; whatever is looked up in a table needs the highest.
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values())

    @classmethod
    def from_file(cls, path: str) -> 'HuggingFaceVocabulary':
        """Read a tokenizer.json, and the special tokens of the tokenizer_config.json beside it."""
        if not os.path.isfile(path):
            raise FileNotFoundError(f'tokenizer file {path} does not exist')
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ValueError(f'{path} is not a tokenizer.json: {first_line(error)}') from None
        return cls(tokenizer, name=str(path), **_special_tokens(os.path.dirname(path)))

    def encode(self, text: str) -> list[int]:
        """Tokenize one text, without an end token."""
        return self._clean(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize many texts on all cores; the same ids as `encode` gives one by one."""
        ids = []
        for start in range(0, len(texts), _ENCODED_AT_ONCE):
            encodings = self._tokenizer.encode_batch_fast(
                list(texts[start:start + _ENCODED_AT_ONCE]), add_special_tokens=False)
            ids += [self._clean(encoding.ids) for encoding in encodings]
        return ids

    def _clean(self, ids: list[int]) -> list[int]:
        """Turn '</s>' and '<pad>' written out in a text into unknowns, as SentencePiece does.

        As themselves they would end the text, or be masked, in its middle.
        """
        if self.eos_id in ids or self.pad_id in ids:
            return [self.unk_id if i in (self.eos_id, self.pad_id) else i for i in ids]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text up to the first end token; ids of no vocabulary entry become unknowns."""
        kept = []
        for index in map(int, ids):
            if index == self.eos_id:
                break
            if index != self.pad_id:
                kept.append(index if 0 <= index < self.vocab_size else self.unk_id)
        return self._tokenizer.decode(kept, skip_special_tokens=False)

    def token_id(self, token: str) -> int | None:
        """Return the id of one vocabulary entry, or None."""
        return self._tokenizer.token_to_id(token)

    def pieces(self) -> list[tuple[str, int]]:
        """Return all entries with their ids, by id."""
        return sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])

    @functools.cached_property
    def fingerprint(self) -> str:
        """Return `vocabulary_fingerprint` of this vocabulary."""
        return _fingerprint(self, self.pieces())

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, HuggingFaceVocabulary) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f'HuggingFaceVocabulary({self.name}, size={self.vocab_size})'


def load_vocabulary(source: str) -> Any:
    """Load a vocabulary from wherever it is.

    Args:
        source: a tokenizer.json; a SentencePiece `.model` file; a folder with one of them (a
            Hugging Face model's); 'package:NAME/sub/tokenizer.json' or 'package:NAME/sub' inside
            an installed Python package; 'byt5' for bytes; or a Hugging Face repository id.

    Returns:
        A `HuggingFaceVocabulary`, a `SentencePieceVocabulary` or a `ByteVocabulary`.

    Raises:
        FileNotFoundError: no such file, package or repository.
        ValueError: what is there is not a T5 tokenizer.
    """
    path = os.path.expanduser(str(source))
    if path == 'byt5':
        return ByteVocabulary()
    if path.startswith('package:'):
        path = str(package_path(path))
    if os.path.isdir(path):
        return _from_folder(path)
    if path.endswith('.model'):
        return SentencePieceVocabulary(path)
    if path.endswith('.json') or path.startswith(('.', '/')) or os.path.isfile(path):
        return HuggingFaceVocabulary.from_file(path)
    return _from_transformers(path)


def encode_batch(vocabulary: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize many texts with any vocabulary, without end tokens."""
    if hasattr(vocabulary, 'encode_batch'):
        return vocabulary.encode_batch(texts)
    return [list(vocabulary.encode(text)) for text in texts]


def vocabulary_fingerprint(vocabulary: Any) -> str:
    """Return 16 hexadecimal digits that two vocabularies share when they give the same ids.

    It covers the entries, their ids and the encoding of a few probe texts, not the file: the
    SentencePiece and the JSON form of one tokenizer agree, and so do versions of the libraries.
    """
    if hasattr(vocabulary, 'fingerprint'):
        return vocabulary.fingerprint
    return _fingerprint(vocabulary, vocabulary.pieces())


def _fingerprint(vocabulary: Any, pieces: list[tuple[str, int]]) -> str:
    """Hash entries and the encoding of the probes."""
    pieces = [(piece.removeprefix('▁') if piece.startswith('▁<extra_id_') else piece, index)
              for piece, index in pieces]
    probes = [[int(i) for i in vocabulary.encode(text)] for text in _PROBES]
    content = json.dumps([pieces, vocabulary.eos_id, vocabulary.unk_id, probes])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _special_tokens(folder: str) -> dict[str, str]:
    """Read the names of the special tokens from a folder's tokenizer_config.json, if any."""
    path = os.path.join(folder, 'tokenizer_config.json')
    if not os.path.isfile(path):
        return {}
    try:
        with open(path, encoding='utf-8') as file:
            config = json.load(file)
    except ValueError as error:
        raise ValueError(f'{path} is not JSON: {first_line(error)}') from None
    found = {}
    for key in ('eos_token', 'pad_token', 'unk_token'):
        value = config.get(key)
        value = value.get('content') if isinstance(value, dict) else value
        if isinstance(value, str):
            found[key] = value
    return found


def _from_folder(folder: str) -> Any:
    """Load what a folder holds: tokenizer.json, a SentencePiece model, or a ByT5 configuration."""
    path = os.path.join(folder, 'tokenizer.json')
    if os.path.isfile(path):
        return HuggingFaceVocabulary.from_file(path)
    for name in ('spiece.model', 'sentencepiece.model'):
        if os.path.isfile(os.path.join(folder, name)):
            return SentencePieceVocabulary(os.path.join(folder, name))
    if os.path.isfile(os.path.join(folder, 'tokenizer_config.json')):
        return _from_transformers(folder)
    raise FileNotFoundError(
        f'folder {folder} has no tokenizer: neither tokenizer.json, spiece.model nor '
        'tokenizer_config.json; copy the files of the model, or name a tokenizer file')


def _from_transformers(name: str) -> Any:
    """Load a tokenizer by transformers, which knows the hub and the older formats."""
    from transformers import AutoTokenizer  # slow to import, and seldom needed

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the hub's, the network's and the parsers' own kinds
        raise FileNotFoundError(
            f'no tokenizer {name!r}: neither a file or folder here nor a Hugging Face repository '
            f'that can be loaded ({first_line(error)})') from None
    if type(tokenizer).__name__.startswith('ByT5'):
        return ByteVocabulary()
    backend = getattr(tokenizer, 'backend_tokenizer', None)
    if not isinstance(backend, Tokenizer):
        raise ValueError(
            f'tokenizer {name!r} is a {type(tokenizer).__name__} without a tokenizer.json form; '
            'name its SentencePiece .model file instead')
    return HuggingFaceVocabulary(backend, str(tokenizer.eos_token), str(tokenizer.pad_token),
                                 str(tokenizer.unk_token), name=name)
