"""Texts that fill blanks, alike for all examples: LM-BFF's beam search."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jax_prompt.models.open import OpenedModel
from jax_prompt.search.model_calls import next_of_all


class Beam(NamedTuple):
    """How `beam_for_all` searches.

    Attributes:
      ways: G.
      length: tokens at most, sentinels included.
      temperature: 0 for the likeliest; above, what goes on is drawn.
      inputs: how many there are, to take their mean where tokens are drawn.
      seed: of the draws.
    """

    ways: int
    length: int
    temperature: float
    inputs: int
    seed: int


def fill_blanks(opened: OpenedModel, inputs: Sequence[np.ndarray], blanks: int,
                settings: Beam) -> list[tuple[str, ...]]:
    """Let a model write what fills the blanks of some inputs, the likeliest first.

    Args:
      opened: the frozen model.
      inputs: int32[S'] of each example, with a sentinel for each blank.
      blanks: how many they have.
      settings: how to search.

    Returns:
      Of each way the texts of its blanks.
    """
    vocabulary, size = opened.vocabulary, opened.model.vocab_size
    sentinels = [vocabulary.token_id(sentinel(number)) for number in range(blanks + 1)]
    words_V = np.zeros(size, bool)
    words_V[[index for index in range(vocabulary.vocab_size) if vocabulary.decode([index])]] = True
    found = beam_for_all(next_of_all(opened, inputs), opened.model.tokens.start, sentinels, words_V,
                         settings)
    texts = []
    for tokens in found:
        ends = [number for number, token in enumerate(tokens) if token in sentinels]
        pieces = np.split(np.array(tokens, np.int32), ends)
        texts.append(tuple(vocabulary.decode([token for token in piece if token not in sentinels])
                           .strip() for piece in pieces))
    return list(dict.fromkeys(texts))


def sentinel(number: int) -> str:
    """Return the name of T5's sentinel of a number."""
    return f'<extra_id_{number}>'


def between_sentinels(texts: Sequence[str]) -> str:
    """Return what a model writes that fills blanks with these texts."""
    filled = ''.join(f'{sentinel(number)}{" " * bool(text)}{text}'
                     for number, text in enumerate(texts))
    return f'{filled}{sentinel(len(texts))}'


def check_sentinels(opened: OpenedModel, blanks: int, what: str) -> None:
    """Refuse, with ValueError, a vocabulary without the sentinels that blanks need."""
    missing = [sentinel(number) for number in range(blanks + 1)
               if opened.vocabulary.token_id(sentinel(number)) is None]
    if missing:
        raise ValueError(f'the vocabulary of {opened.name} has no {missing[0]}, which {what} '
                         'needs; choose another strategy and fluency 0, or a model that fills '
                         'blanks')


def beam_for_all(score: Callable[[np.ndarray, int], np.ndarray], start: int,
                 sentinels: Sequence[int], words_V: np.ndarray,
                 settings: Beam) -> list[tuple[int, ...]]:
    """Write what fills the sentinels, alike for all inputs, the likeliest first.

    Args:
      score: (int32[G, L] beginnings, position) -> float[G, V], summed log-probabilities of what
        comes next.
      start: the token that the decoder begins with.
      sentinels: of the blanks, and the one that ends the last blank.
      words_V: bool[V], tokens that may fill a blank.
      settings: how to search.

    Returns:
      Tokens that were written, with the sentinels between the blanks, without the first and the
      last; at most `settings.ways`.

    Source: LM-BFF, Gao et al. 2021 (arXiv:2012.15723), equation 4.
    """
    rng = np.random.default_rng(settings.seed)
    begun = [((start, sentinels[0]), 0.0, 1)]  # tokens, score, sentinels so far
    ended: list[tuple[tuple[int, ...], float]] = []
    for position in range(1, settings.length):
        prefixes_GL = np.zeros((settings.ways, settings.length + 1), np.int32)
        for number, (tokens, _, _) in enumerate(begun):
            prefixes_GL[number, :len(tokens)] = tokens
        next_GV = score(prefixes_GL, position)[:len(begun)]
        made = []
        for (tokens, total, blanks), next_V in zip(begun, next_GV, strict=True):
            hurried = settings.length - position <= len(sentinels) - blanks  # the rest must end
            allowed_V = np.where(words_V & ~np.bool_(hurried), next_V, -np.inf)
            allowed_V[sentinels[blanks]] = next_V[sentinels[blanks]]
            made += [((*tokens, token), total + float(next_V[token]),
                      blanks + (token == sentinels[blanks]))
                     for token in _chosen(allowed_V, settings, len(begun), rng)]
        made = sorted(made, key=lambda one: -one[1])
        ended += [(tokens[2:-1], total) for tokens, total, blanks in made
                  if blanks == len(sentinels) and set(tokens[2:-1]) - {*sentinels}]
        begun = [one for one in made if one[2] < len(sentinels)][:settings.ways]
        ended = sorted(ended, key=lambda one: -one[1])[:settings.ways]
        full = len(ended) == settings.ways and not settings.temperature
        if not begun or full and begun[0][1] < ended[-1][1]:
            break
    return list(dict.fromkeys(tokens for tokens, _ in ended))


def _chosen(scores_V: np.ndarray, settings: Beam, ways: int,
            rng: np.random.Generator) -> list[int]:
    """Return the tokens that may come next: the likeliest, or as many as keep the ways' number.

    What is drawn, without replacement, are the largest after Gumbel noise: Kool et al. 2019
    (arXiv:1903.06059), section 2.3.
    """
    count = settings.ways
    if settings.temperature:
        noise_V = rng.gumbel(size=scores_V.shape)
        scores_V = scores_V / (settings.inputs * settings.temperature) + noise_V
        count = -(-settings.ways // ways)
    count = min(count, int(np.isfinite(scores_V).sum()))
    best = np.argpartition(-scores_V, count - 1)[:count]
    return sorted(best.tolist(), key=lambda token: (-scores_V[token], token))
