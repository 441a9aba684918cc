"""Vocabularies: text to token ids and back, from every place a T5 tokenizer comes in.

A vocabulary here is anything with seqio's `encode`, `decode`, `eos_id`, `unk_id`, `pad_id` and
`vocab_size`. `HuggingFaceVocabulary` needs no TensorFlow, so that a start does not pay five seconds
for importing it; `seqio_tasks.as_seqio` makes a seqio.Vocabulary of it.
"""

import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer

from jax_prompt.data.codecs import ByteCodec, RustCodec
from jax_prompt.data.tokenizer_folder import read_tokenizer, telling
from jax_prompt.files import TOKENIZER_FILES, first_line, hub_folder, hub_id, package_path

PAD_ID = 0  # seqio.PAD_ID

# Encoded into the fingerprint, so that a vocabulary of the same pieces that splits differently
# does not pass for the same. No runs of spaces: files made for one model disagree there.
_PROBES = (
    'sst2 sentence: a gripping , well-acted film .',
    'Unbelievably overcomplicated; 1,234.5 of 67%!',
    'Übergrößen, naïveté, 北京, привет, 🙂',
)

# A space where a text can be cut without any effect on the tokens before it: alone between ASCII
# characters, letters or digits, which no normalisation joins across it.
_BOUNDARY = re.compile(r'[!-~\w](?= [!-~\w])')
# A text is cut that has more characters than this for each token that is wanted.
_CHARACTERS_PER_TOKEN = 16


class HuggingFaceVocabulary:
    """Give the ids that a tokenizer of transformers gives, in the way of a seqio vocabulary.

    A start token that the tokenizer puts in front of its texts, such as CodeT5's `<s>`, is part of
    what is encoded; the end token is the feature converter's business. Truncation and padding that
    a tokenizer.json brings along are switched off.

    Example:
        >>> vocabulary = load_vocabulary('t5-small-folder/tokenizer.json')  # doctest: +SKIP
        >>> vocabulary.encode('a good film')  # doctest: +SKIP
        [3, 9, 207, 814]

    Attributes:
        eos_id, pad_id: of the end token and of padding.
        unk_id: of the unknown token; None for bytes, which need none.
        vocab_size: one more than the highest id.
        start_ids: what the tokenizer puts in front of each text.
        ends_inputs: whether it ends a text; targets are ended in any case.
    """

    def __init__(self, codec: Any, eos_token: str | None = '</s>',
                 pad_token: str | None = '<pad>', unk_token: str | None = '<unk>',
                 name: str = 'tokenizer'):
        """Take over a codec, or a `tokenizers.Tokenizer`, and the names of its special tokens.

        Raises:
            ValueError: a special token is missing, padding is not id 0 (T5's and seqio's), or texts
                are ended by something else than the end token.
        """
        self.name = name
        self._codec = RustCodec(codec) if isinstance(codec, Tokenizer) else codec
        entries = self._codec.entries
        special = {'end': eos_token, 'padding': pad_token, 'unknown': unk_token}
        for what, token in special.items():
            if token not in entries and not (token is None and what == 'unknown'):
                raise ValueError(f'{name} has no token {token!r}; a T5 tokenizer has '
                                 f'{", ".join(map(str, special.values()))}' if token else
                                 f'{name} names no {what} token; a T5 tokenizer has one')
        if entries[pad_token] != PAD_ID:
            raise ValueError(f'{name} pads with id {entries[pad_token]}; T5 pads with id {PAD_ID}')
        if unk_token is None and not self._codec.has_all_bytes:
            raise ValueError(f'{name} names no unknown token and has no entry for each byte, so '
                             'there are texts that it cannot write; name its unk_token in '
                             'tokenizer_config.json')
        self.eos_id, self.pad_id = entries[eos_token], PAD_ID
        self.unk_id = entries.get(unk_token)
        # Ids may have holes; whatever is looked up in a table needs the highest.
        self.vocab_size = 1 + max(entries.values())
        with telling(f'{name} cannot tokenize'):
            self.start_ids, end = self._codec.template()
        if end not in ([], [self.eos_id]):
            raise ValueError(f'{name} ends a text with {end}; a T5 tokenizer ends it with '
                             f'[{self.eos_id}], {eos_token!r}, or not at all')
        self.ends_inputs = bool(end)

    def encode(self, text: str) -> list[int]:
        """Tokenize one text, without an end token."""
        return self.encode_batch([text])[0]

    def encode_words(self, text: str) -> list[int]:
        """Tokenize words that no text begins with: without a start token either."""
        return self.encode(text)[len(self.start_ids):]

    def encode_batch(self, texts: Sequence[str], limit: int | None = None) -> list[list[int]]:
        """Tokenize many texts on all cores; the same ids as `encode` gives one by one.

        Args:
            texts: any number of them.
            limit: how many ids of each are wanted at most. Of a long text then only a beginning is
                tokenized, where that provably gives these ids: up to white space between two words,
                by a tokenizer that splits there before all else. Other texts are tokenized whole.

        Returns:
            All ids of each text, or at least `limit` of them.
        """
        wanted = {row: text for row, text in enumerate(texts)}
        ids: list[list[int]] = [[] for _ in texts]
        length = None if limit is None else limit * _CHARACTERS_PER_TOKEN
        while wanted:
            begun = {row: self._beginning(text, length) for row, text in wanted.items()}
            with telling(f'{self.name} cannot tokenize a text'):
                encoded = self._codec.encode(list(begun.values()))
            for row, some in zip(begun, encoded, strict=True):
                ids[row] = self.start_ids + self._without_padding(some)
                if len(begun[row]) == len(wanted[row]) or len(ids[row]) >= limit:
                    del wanted[row]
            length = length and 4 * length
        return ids

    def _beginning(self, text: str, length: int | None) -> str:
        """Return the text, or about so many of its characters that are tokenized alike."""
        if length is None or len(text) <= 2 * length or not self._codec.splits_at_spaces:
            return text
        boundary = _BOUNDARY.search(text, length)
        return text[:boundary.end()] if boundary else text

    def _without_padding(self, ids: list[int]) -> list[int]:
        """Turn '<pad>' written out in a text into unknowns: padding is masked wherever it stands.

        It is the one token that transformers gives otherwise; it attends to this padding.
        """
        if self.pad_id not in ids:
            return ids
        ids = [self.unk_id if index == self.pad_id else index for index in ids]
        return [index for index in ids if index is not None]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text up to the first end token, without special tokens.

        These are the unknown token and sentinels too, as by transformers with
        `skip_special_tokens`; ids of no vocabulary entry are left out as well.
        """
        kept = list(itertools.takewhile(lambda index: index != self.eos_id, map(int, ids)))
        with telling(f'{self.name} cannot decode'):
            return self._codec.decode(
                [index for index in kept if index != self.pad_id and 0 <= index < self.vocab_size])

    def word(self, index: int) -> str:
        """Return how to show one entry: its text, or the name of a special token."""
        return self.decode([index]) or self._codec.token(index) or f'[{index}]'

    def token_id(self, token: str) -> int | None:
        """Return the id of one vocabulary entry such as '<extra_id_99>', or None."""
        entries = self._codec.entries
        return entries.get(token, entries.get('▁' + token))  # mT5 has sentinels that begin a word

    @functools.cached_property
    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that two vocabularies share when they give the same ids.

        They cover the entries, their ids and the encoding of a few probe texts, not the file: the
        SentencePiece and the JSON form of one tokenizer agree, and so do versions of the libraries.
        """
        pieces = [(piece.removeprefix('▁') if piece.startswith('▁<extra_id_') else piece, index)
                  for piece, index in self._codec.pieces()]
        probes = [self.encode(text) for text in _PROBES]
        content = json.dumps([pieces, self.eos_id, self.unk_id, probes]
                             + ([] if self.ends_inputs else ['without end']))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, HuggingFaceVocabulary) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f'HuggingFaceVocabulary({self.name}, size={self.vocab_size})'


def load_vocabulary(source: str) -> HuggingFaceVocabulary:
    """Load a vocabulary from wherever it is.

    Args:
        source: a folder of tokenizer files (a Hugging Face model's); a tokenizer.json; a
            SentencePiece `.model` file; 'package:NAME/sub/tokenizer.json' or 'package:NAME/sub'
            inside an installed Python package; 'byt5' for bytes; or a Hugging Face repository id.

    Raises:
        FileNotFoundError: no such file, package or repository.
        ValueError: what is there is not a T5 tokenizer.
    """
    path = os.path.expanduser(str(source))
    if path == 'byt5':
        return HuggingFaceVocabulary(ByteCodec(), name=path)
    if path.startswith('package:'):
        path = str(package_path(path))
    elif not (os.path.exists(path) or path.endswith(('.json', '.model'))
              or path.startswith(('.', '/'))):
        path = _from_hub(path)
    return HuggingFaceVocabulary(name=path, **read_tokenizer(path)._asdict())


def encode_batch(vocabulary: Any, texts: Sequence[str],
                 limit: int | None = None) -> list[list[int]]:
    """Tokenize many texts with any vocabulary, without end tokens; at least `limit` of the ids."""
    if hasattr(vocabulary, 'encode_batch'):
        return vocabulary.encode_batch(texts, limit)
    return [list(vocabulary.encode(text)) for text in texts]


def _from_hub(source: str) -> str:
    """Return the folder with a repository's tokenizer files."""
    try:
        if hub_id(source) is None:
            raise ValueError(f'{source!r} is no repository id')
        return str(hub_folder(source, ['config.json', *TOKENIZER_FILES]))
    except ValueError as error:
        raise FileNotFoundError(
            f'no tokenizer {source!r}: neither a file or folder here nor a Hugging Face repository '
            f'that can be loaded ({first_line(error)})') from error
