"""Texts to ids and back, by each of the libraries that have T5's tokenizers.

A codec has `entries`, token -> id, `template`, what it puts around a text, `encode`, `decode`,
`token`, `pieces`, `has_all_bytes` and `splits_at_spaces`.
"""

import functools
import json
import re
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

# Encodings hold the text of each token too: all of IMDB's at once take a gigabyte.
_ENCODED_AT_ONCE = 1024

_SPLITS_AT_SPACES = {'WhitespaceSplit', 'Whitespace', 'BertPreTokenizer', 'Metaspace', 'ByteLevel'}
_LOCAL = {'Precompiled', 'NFC', 'NFD', 'NFKC', 'NFKD', 'Lowercase', 'StripAccents',
          'BertNormalizer'}

# SentencePiece's own rules, none of which reaches across a space.
_NORMALIZATIONS = ('identity', 'nfkc', 'nfkc_cf', 'nmt_nfkc', 'nmt_nfkc_cf')

#: T5 (Raffel et al. 2020) has 100 sentinels, which its SentencePiece files lack.
SENTINELS = 100
# ByT5 (Xue et al. 2021, section 3): 3 special ids, 256 bytes; transformers adds 125 sentinels.
_FIRST_BYTE = 3
_SPECIAL_OF_BYT5 = {token: index for index, token in enumerate(('<pad>', '</s>', '<unk>'))} | {
    f'<extra_id_{i}>': 256 + _FIRST_BYTE + i for i in range(125)}

# What transformers takes out of decoded texts where a tokenizer's configuration says so.
_CLEANED = ((' .', '.'), (' ?', '?'), (' !', '!'), (' ,', ','), (" ' ", "'"), (" n't", "n't"),
            (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))


def exact_tokenizer(content: str) -> Tokenizer:
    """Parse a tokenizer.json without the rounding of Rust's parser.

    That loses the last bit of some scores, enough to divide runs of dashes otherwise.
    """
    tokenizer, model = Tokenizer.from_str(content), json.loads(content)['model']
    if isinstance(tokenizer.model, models.Unigram):
        tokenizer.model = models.Unigram([tuple(piece) for piece in model['vocab']],
                                         model.get('unk_id'), model.get('byte_fallback', False))
    return tokenizer


class RustCodec:
    """Encode and decode by a `tokenizers.Tokenizer`."""

    def __init__(self, tokenizer: Tokenizer, clean_up: bool = False):
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self._clean_up = tokenizer, clean_up
        self.entries: dict[str, int] = tokenizer.get_vocab()

    @property
    def has_all_bytes(self) -> bool:
        """Whether no text needs an unknown token."""
        return (self.entries.keys() >= set(pre_tokenizers.ByteLevel.alphabet())
                or self.entries.keys() >= {f'<0x{byte:02X}>' for byte in range(256)})

    @functools.cached_property
    def splits_at_spaces(self) -> bool:
        """Whether the tokens in front of white space are the same whatever stands behind it."""
        first, *_ = [*_components(self._tokenizer.pre_tokenizer), {'type': None}]
        return (first['type'] in _SPLITS_AT_SPACES and first.get('split', True)
                and first.get('use_regex', True)
                and all(one['type'] in _LOCAL or one.get('pattern') == {'Regex': ' {2,}'}
                        for one in _components(self._tokenizer.normalizer))
                and not any(re.search(r'\S[\s▁]+\S', token.content)
                            for token in self._tokenizer.get_added_tokens_decoder().values()))

    def template(self) -> tuple[list[int], list[int]]:
        """Return the ids in front of each text and behind it."""
        ids, text = (self._tokenizer.encode('a', add_special_tokens=special).ids
                     for special in (True, False))
        first = next(i for i in range(len(ids) + 1) if ids[i:i + len(text)] == text)
        return ids[:first], ids[first + len(text):]

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Tokenize texts, without start and end."""
        return [encoding.ids for first in range(0, len(texts), _ENCODED_AT_ONCE)
                for encoding in self._tokenizer.encode_batch_fast(
                    texts[first:first + _ENCODED_AT_ONCE], add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids."""
        text = self._tokenizer.decode(ids)
        for spaced, closed in _CLEANED if self._clean_up else ():
            text = text.replace(spaced, closed)
        return text

    def token(self, index: int) -> str | None:
        """Return the entry of an id."""
        return self._tokenizer.id_to_token(index)

    def pieces(self) -> list[tuple[str, int]]:
        """Return all entries with their ids, by id."""
        return sorted(self.entries.items(), key=lambda item: item[1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {'_tokenizer': self._tokenizer.to_str()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state | {'_tokenizer': exact_tokenizer(state['_tokenizer'])}


class SentencePieceCodec:
    """Encode and decode by SentencePiece, with T5's 100 sentinels where the file lacks them."""

    has_all_bytes = True  # or an unknown token, which its files cannot lack

    def __init__(self, model: Any):
        """Take a parsed file, a `ModelProto`."""
        from sentencepiece import SentencePieceProcessor

        if not any(_sentinel(piece.piece) == '<extra_id_0>' for piece in model.pieces):
            for i in reversed(range(SENTINELS)):  # with a word's boundary, as seqio does
                model.pieces.add(piece=f'▁<extra_id_{i}>', score=0.0,
                                 type=model.SentencePiece.USER_DEFINED)
        self._processor = SentencePieceProcessor(model_proto=model.SerializeToString())
        self._normalizes_known = model.normalizer_spec.name in _NORMALIZATIONS
        self._pieces = [piece.piece for piece in model.pieces]
        self._skipped = {index for index, piece in enumerate(self._pieces)
                         if index == self._processor.unk_id() or _sentinel(piece)}
        self.entries = {piece: index for index, piece in enumerate(self._pieces)}

    @functools.cached_property
    def splits_at_spaces(self) -> bool:
        """Whether the tokens in front of white space are the same whatever stands behind it."""
        return self._normalizes_known and not any('▁' in piece[1:] for piece in self._pieces)

    def special(self) -> tuple[str | None, str | None, str | None]:
        """Return the end token, padding and the unknown token."""
        ids = self._processor.eos_id(), self._processor.pad_id(), self._processor.unk_id()
        return tuple(self._pieces[index] if index >= 0 else None for index in ids)

    def template(self) -> tuple[list[int], list[int]]:
        """Return the ids in front of each text and behind it."""
        return [], [self._processor.eos_id()]

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Tokenize texts, without start and end."""
        return self._processor.encode(texts)

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids."""
        return self._processor.decode([index for index in ids if index not in self._skipped])

    def token(self, index: int) -> str | None:
        """Return the entry of an id."""
        return self._pieces[index]

    def pieces(self) -> list[tuple[str, int]]:
        """Return all entries with their ids, by id."""
        return [(piece, index) for index, piece in enumerate(self._pieces)]


class ByteCodec:
    """Encode and decode bytes as ids; texts with special tokens by transformers' ByT5Tokenizer."""

    has_all_bytes = splits_at_spaces = True

    def __init__(self, tokenizer: Any = None):
        """Take a `ByT5Tokenizer`; None for that of ByT5, imported where a text needs it."""
        self._tokenizer = tokenizer
        self._special = tokenizer.added_tokens_encoder if tokenizer else _SPECIAL_OF_BYT5
        self._end = tokenizer.eos_token_id if tokenizer else 1
        self._search = re.compile('|'.join(map(re.escape, self._special))).search
        self.entries = {chr(byte): byte + _FIRST_BYTE for byte in range(256)} | self._special

    def template(self) -> tuple[list[int], list[int]]:
        """Return the ids in front of each text and behind it."""
        return [], [self._end]

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Tokenize texts, without start and end."""
        return [self._with_special(text) if self._search(text) else
                [byte + _FIRST_BYTE for byte in text.encode()] for text in texts]

    def _with_special(self, text: str) -> list[int]:
        """Tokenize a text with special tokens; transformers takes an end token for the end."""
        ids = self._byt5.encode(text, add_special_tokens=False)
        return ids[:-1] if ids[-1:] == [self._end] else ids

    @property
    def _byt5(self) -> Any:
        if self._tokenizer is None:
            from transformers import ByT5Tokenizer  # slow to import, and seldom needed

            self._tokenizer = ByT5Tokenizer()
        return self._tokenizer

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids; what is no UTF-8 is dropped."""
        if self._special is not _SPECIAL_OF_BYT5:
            return self._byt5.decode(ids, skip_special_tokens=True)
        return bytes(index - _FIRST_BYTE for index in ids
                     if 0 <= index - _FIRST_BYTE < 256).decode(errors='ignore')

    def token(self, index: int) -> str | None:
        """Return the entry of an id."""
        return next((token for token, found in self.entries.items() if found == index), None)

    def pieces(self) -> list[tuple[str, int]]:
        """Return what tells these bytes from others, as seqio's ByteVocabulary was told."""
        return [('ByteVocabulary', 1 + max(self.entries.values())),
                *sorted((token, index) for token, index in self._special.items()
                        if token not in _SPECIAL_OF_BYT5)]


def _sentinel(piece: str) -> str | None:
    """Return the sentinel that a piece is, without a word's boundary."""
    return piece.removeprefix('▁') if re.fullmatch(r'▁?<extra_id_\d+>', piece) else None


def _components(component: Any) -> list[dict[str, Any]]:
    """Return the members of a sequence of normalizers or pre-tokenizers, or the one there is."""
    if component is None:
        return []
    told = json.loads(component.__getstate__())
    return told.get('normalizers', told.get('pretokenizers', [told]))
