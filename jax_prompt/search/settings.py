"""What a search is told beside its strategy."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from jax_prompt.data.verbalizer import COMBINATIONS
from jax_prompt.files import brief


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
      budget: in model calls, of which one is one example scored once; the gradient of an example
        counts as two, a text that is written as one for each way in which it is followed. What
        measures the result in the end is not counted.
      seed: of which examples are used and of all that is drawn.
      template: with `{search}` where the words are searched, what stands fixed around it, columns
        in braces, and `{answer}` for a cloze; None for the strategy's own around the task's.
      words: label -> the words that are scored for it; None for the label words themselves.
      combine: how the scores of several words become the label's.
      allowed: the words that may stand in a prompt or for a label, of one token each; None for all
        of the vocabulary that consist of letters. Templates and instructions are the model's own.
      fluency: weight of how unlikely the model finds the words in their places, mean nats a token,
        in what is minimised.
      fluency_examples: that this is measured on.
      examples: of training that candidates are scored on.
      first_examples: of these, that a race begins with.
      held_out: other examples of training, on which the best ones are compared in the end.
      finalists: how many are.
      batch_size: rows that the model reads at once.
      measured: examples of training that the result is measured on.

    Raises:
      ValueError: values that no search can have.
    """

    budget: int = 10_000
    seed: int = 0
    template: str | None = None
    words: Mapping[str, str | Sequence[str]] | None = None
    combine: str = 'sum'
    allowed: Sequence[str] | None = None
    fluency: float = 0.0
    fluency_examples: int = 4
    examples: int = 64
    first_examples: int = 16
    held_out: int = 64
    finalists: int = 4
    batch_size: int = 32
    measured: int = 1000

    def __post_init__(self):
        for name, least in (('budget', 1), ('seed', 0), ('fluency_examples', 1), ('examples', 2),
                            ('first_examples', 1), ('held_out', 1), ('finalists', 1),
                            ('batch_size', 1), ('measured', 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                what = ' model calls (one is one example scored once)' * (name == 'budget')
                raise ValueError(f'search_settings.{name} is {brief(value)}; expected a whole '
                                 f'number of at least {least}{what}')
        if not 0 <= self.fluency < math.inf:
            raise ValueError(f'search_settings.fluency is {self.fluency}; expected a weight from 0 '
                             '(none)')
        if self.combine not in COMBINATIONS:
            raise ValueError(f'search_settings.combine is {brief(self.combine)}; expected one of '
                             f'{", ".join(COMBINATIONS)}')
