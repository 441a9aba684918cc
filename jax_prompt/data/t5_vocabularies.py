"""T5's own two vocabularies, SentencePiece files and bytes, with the ids that seqio gives."""

import itertools
import os
from collections.abc import Iterable, Sequence

from jax_prompt.files import first_line

# T5's SentencePiece files lack the 100 sentinels that its embedding table has.
_T5_EXTRA_IDS = 100
# ByT5 (Xue et al. 2021, section 3): 3 special ids, 256 bytes; Hugging Face adds 125 sentinels.
_SPECIAL_IDS, _BYTES, _BYT5_EXTRA_IDS = 3, 256, 125


class SentencePieceVocabulary:
    """Read a SentencePiece `.model` file, with T5's 100 sentinels where it lacks them.

    Example:
        >>> vocabulary = SentencePieceVocabulary('t5-small/spiece.model')  # doctest: +SKIP
        >>> vocabulary.encode('a good film')  # doctest: +SKIP
        [3, 9, 207, 814]
    """

    pad_id = 0

    def __init__(self, path: str):
        """Read the file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a SentencePiece model.
        """
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

        if not os.path.isfile(path):
            raise FileNotFoundError(f'SentencePiece model {path} does not exist')
        self.name = str(path)
        model = sentencepiece_model_pb2.ModelProto()
        try:
            with open(path, 'rb') as file:
                model.ParseFromString(file.read())
            if not any(piece.piece.removeprefix('▁') == '<extra_id_0>' for piece in model.pieces):
                for i in reversed(range(_T5_EXTRA_IDS)):  # with a word's boundary, as seqio does
                    model.pieces.add(piece=f'▁<extra_id_{i}>', score=0.0,
                                     type=model.SentencePiece.USER_DEFINED)
            self._processor = SentencePieceProcessor(model_proto=model.SerializeToString())
        except Exception as error:  # protobuf's and sentencepiece's own kinds
            raise ValueError(f'{path} is not a SentencePiece model: {first_line(error)}') from None
        self.eos_id, self.unk_id = self._processor.eos_id(), self._processor.unk_id()
        self.vocab_size = self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """Tokenize one text, without an end token."""
        return self._processor.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize many texts; the same ids as `encode` gives one by one."""
        return self._processor.encode(list(texts))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text up to the first end token; ids of no vocabulary entry become unknowns."""
        return self._processor.decode([i if 0 <= i < self.vocab_size else self.unk_id
                                       for i in _before_end(ids, self.eos_id)])

    def token_id(self, token: str) -> int | None:
        """Return the id of one vocabulary entry, or None."""
        found = map(self._processor.piece_to_id, (token, '▁' + token))
        return next((index for index in found if index != self.unk_id), None)

    def pieces(self) -> list[tuple[str, int]]:
        """Return all entries with their ids, by id."""
        return [(self._processor.id_to_piece(i), i) for i in range(self.vocab_size)]

    def __repr__(self) -> str:
        return f'SentencePieceVocabulary({self.name}, size={self.vocab_size})'


class ByteVocabulary:
    """The bytes of UTF-8 as ids, three above their value, and as many ids as ByT5's table has."""

    name = 'byt5'
    pad_id, eos_id, unk_id = range(_SPECIAL_IDS)
    vocab_size = _SPECIAL_IDS + _BYTES + _BYT5_EXTRA_IDS

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text, without an end token."""
        return [byte + _SPECIAL_IDS for byte in text.encode()]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of many texts."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text up to the first end token; what is no byte, or no UTF-8, is dropped."""
        return bytes(i - _SPECIAL_IDS for i in _before_end(ids, self.eos_id)
                     if 0 <= i - _SPECIAL_IDS < _BYTES).decode(errors='ignore')

    def token_id(self, token: str) -> int | None:
        """Return None: bytes have no entry for a token of several."""
        del token

    def pieces(self) -> list[tuple[str, int]]:
        """Return what tells this vocabulary from others."""
        return [('ByteVocabulary', self.vocab_size)]

    def __repr__(self) -> str:
        return f'ByteVocabulary(size={self.vocab_size})'


def _before_end(ids: Iterable[int], eos_id: int) -> list[int]:
    """Return the ids before the first end token, as Python's integers."""
    return list(itertools.takewhile(lambda i: i != eos_id, map(int, ids)))
