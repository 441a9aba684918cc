"""Templates with places for searched words, and where these stand among the tokens."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from jax_prompt.data.design import ANSWER, CLOZE, PLAIN_FORM
from jax_prompt.search.strategy import SLOT

#: In a strategy's template, the place of the task's own.
INPUTS = '{inputs}'


def filled(template: str, texts: Sequence[str]) -> str:
    """Return a template with texts in its slots; one without text takes a space with it.

    Args:
      template: with as many slots as there are texts.
      texts: that stand there as they are, braces too.

    Example:
      >>> filled('{search} {text} {search} {answer}', ['Great:', ''])
      'Great: {text} {answer}'
    """
    first, *parts = template.split(SLOT)
    for text, part in zip(texts, parts, strict=True):
        if text:
            first += text.replace('{', '{{').replace('}', '}}')
        elif not part:
            first = first.removesuffix(' ')
        elif first.endswith(' ') or not first:
            part = part.removeprefix(' ')
        first += part
    return first


def form_of(template: str) -> str:
    """Return which form of a design a template is of: a cloze where it has the answer's place."""
    return CLOZE if f'{{{ANSWER}}}' in template else PLAIN_FORM


def place_of(words: Sequence[int], tokens: Sequence[int], expected: int) -> int | None:
    """Return where words stand among tokens, nearest to where they should; None for nowhere."""
    tokens, count = list(tokens), len(words)
    found = [start for start in range(len(tokens) - count + 1)
             if tokens[start:start + count] == list(words)]
    return min(found, key=lambda start: abs(start - expected)) if found else None


def information(counts: Mapping[tuple[int, int], int], label_B: np.ndarray) -> dict[int, float]:
    """Return what each word tells of the label that it speaks for most.

    Args:
      counts: (word, label) -> texts of the label that have the word.
      label_B: int[B], the label of each text.

    Returns:
      word -> max over labels of p(word, label) log(p(word, label) / (p(word) p(label))).

    Source: pointwise mutual information, Church and Hanks 1990, by which BDPL (arXiv:2201.08531,
    section 3.1) chooses n-grams, there without labels.
    """
    texts, of_label = len(label_B), collections.Counter(label_B.tolist())
    of_word: collections.Counter = collections.Counter()
    for (word, _), count in counts.items():
        of_word[word] += count
    told: dict[int, float] = {}
    for (word, label), count in counts.items():
        expected = of_word[word] * of_label[label] / texts
        told[word] = max(told.get(word, -np.inf), count / texts * np.log(count / expected))
    return told
