"""The tokens that may stand in a searched prompt: words that a person can read and paste."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jax_prompt.data.vocabularies import encode_batch
from jax_prompt.files import brief, listed


@dataclasses.dataclass(frozen=True, eq=False)
class Lexicon:
    """Words of one token each.

    Attributes:
      ids_A: int32[A], their ids in the vocabulary, ascending: as SentencePiece orders them, the
        frequent ones first.
      words: their texts.
      rows_AD: float32[A, D], their embeddings.
      encode: text -> token ids, without start and end tokens.
    """

    ids_A: np.ndarray
    words: tuple[str, ...]
    rows_AD: np.ndarray
    encode: Callable[[str], Sequence[int]]

    def __len__(self) -> int:
        return len(self.ids_A)

    def text(self, numbers: Sequence[int]) -> str:
        """Return the text of some of the words, by their numbers here."""
        return ' '.join(self.words[number] for number in numbers)

    def numbers(self, text: str) -> list[int]:
        """Return which of the words make up a text.

        Raises:
          ValueError: a word of it is not among them.
        """
        place = {word: number for number, word in enumerate(self.words)}
        unknown = [word for word in text.split() if word not in place]
        if unknown:
            raise ValueError(f'word {unknown[0]!r} of {brief(text)} has '
                             f'{len(self.encode(unknown[0]))} tokens or is not allowed; token '
                             'searches need words of one token each')
        return [place[word] for word in text.split()]

    def with_rows(self, rows_VD: np.ndarray) -> 'Lexicon':
        """Return it with the rows that its words have in an embedding table."""
        return dataclasses.replace(self, rows_AD=np.asarray(rows_VD, np.float32))


def make_lexicon(vocabulary: Any, allowed: Sequence[str] | None = None) -> Lexicon:
    """Find the words of a vocabulary that are one token each; without their rows yet.

    Whatever text a prompt is written down as must give the same tokens again when it is read: so
    these are entries of letters alone that begin a word and that the vocabulary itself would choose
    for their texts.

    Args:
      vocabulary: the model's.
      allowed: the words; None for all that there are.

    Returns:
      The lexicon, its `rows_AD` of width 0.

    Raises:
      ValueError: an allowed word has several tokens, or there are fewer than two.
    """
    start = len(getattr(vocabulary, 'start_ids', ()))
    words = allowed
    if words is None:
        some = (vocabulary.decode([index]) for index in range(vocabulary.vocab_size))
        words = [text for text in dict.fromkeys(some) if text.isalpha()]
    elif isinstance(words, str):
        raise ValueError(f'allowed words of a search are {brief(words)}; expected a list of words')
    tokens = [ids[start:] for ids in encode_batch(vocabulary, list(words))]
    unknown = getattr(vocabulary, 'unk_id', None)
    whole = {ids[0]: word for word, ids in zip(words, tokens, strict=True)
             if len(ids) == 1 and ids[0] != unknown}
    several = [(word, ids) for word, ids in zip(words, tokens, strict=True)
               if len(ids) != 1 or ids[0] == unknown]
    if allowed is not None and several:
        word, ids = several[0]
        raise ValueError(f'allowed word {brief(word)} of the search has {len(ids)} tokens '
                         f'({listed(map(vocabulary.word, ids))}) where one is needed, as have '
                         f'{len(several) - 1} others; name words that the vocabulary has whole')
    if len(whole) < 2:
        raise ValueError(f'the search has {len(whole)} words to choose from; expected at least two '
                         'that are one token each: name more, or use a vocabulary of words')
    ids_A = np.array(sorted(whole), np.int32)
    return Lexicon(ids_A, tuple(whole[index] for index in ids_A.tolist()),
                   np.zeros((len(ids_A), 0), np.float32),
                   lambda text: list(vocabulary.encode(text))[start:])
