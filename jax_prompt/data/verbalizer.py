"""Verbalizers: which words stand for each label, and what is taken away from their scores."""

from collections.abc import Mapping
from typing import Any

from jax_prompt.files import brief

#: How the scores of a label's words become the label's: log of the sum or the mean of the words'
#: probabilities, or the score of the best word.
COMBINATIONS = ('sum', 'mean', 'best')
#: Bounds on what a design may ask of everyone who shares a model with it: each word is scored.
_LONGEST_WORD, _MOST_WORDS, _LARGEST_SCORE = 500, 1000, 1e6


def checked_words(words: Any) -> dict[str, tuple[str, ...]] | None:
    """Return a verbalizer as label -> words, or None.

    Raises:
        ValueError: it is none, or larger than a design may have.
    """
    if words is None:
        return None
    if not isinstance(words, Mapping) or not words:
        raise ValueError(f'words of a design are {brief(words)}; expected label -> words')
    checked: dict[str, tuple[str, ...]] = {}
    for label, some in words.items():
        some = (some,) if isinstance(some, str) else some
        if not isinstance(some, tuple | list) or not some:
            raise ValueError(f'words of a design for label {brief(label)} are {brief(some)}; '
                             'expected at least one word')
        for word in some:
            if not isinstance(word, str) or not word.strip() or len(word) > _LONGEST_WORD:
                raise ValueError(f'words of a design for label {brief(label)} have {brief(word)}; '
                                 f'expected text of at most {_LONGEST_WORD} characters')
        checked[label] = tuple(some)
    if (count := sum(map(len, checked.values()))) > _MOST_WORDS:
        raise ValueError(f'a design has {count:,} words; expected at most {_MOST_WORDS:,}, '
                         'each of which is scored for every row')
    return checked


def checked_calibration(calibration: Any) -> tuple[float, ...] | None:
    """Return what is taken away from labels' scores, or None.

    Raises:
        ValueError: it is no number for each label.
    """
    if calibration is None:
        return None
    if not isinstance(calibration, tuple | list) or not all(
            isinstance(one, int | float) and not isinstance(one, bool)
            and abs(one) < _LARGEST_SCORE for one in calibration):
        raise ValueError(f'calibration of a design is {brief(calibration)}; expected a number for '
                         f'each label, between -{_LARGEST_SCORE:g} and {_LARGEST_SCORE:g}')
    return tuple(map(float, calibration))
