"""A task, a model and a budget: what strategies ask, see `strategy.Problem`."""

import collections
import contextlib
import itertools
import re
from collections.abc import Sequence

import numpy as np

from jax_prompt.data.demonstrations import Demonstration
from jax_prompt.data.design import BLANK, CLOZE, Design
from jax_prompt.data.tasks.rows import Row as TextRow
from jax_prompt.data.tasks.text_task import column_text
from jax_prompt.data.vocabularies import encode_batch
from jax_prompt.inference.rank import LabelSet
from jax_prompt.search.filling import (
    Beam,
    between_sentinels,
    check_sentinels,
    fill_blanks,
    sentinel,
)
from jax_prompt.search.lexicon import Lexicon
from jax_prompt.search.model_calls import gradient, next_words
from jax_prompt.search.scoring import Scorer
from jax_prompt.search.settings import SearchSettings
from jax_prompt.search.strategy import SLOT, Candidate, Spent
from jax_prompt.search.wording import filled, information, place_of

#: Stands for a slot while a text is taken apart; of Unicode's private characters.
_MARK = '\ue0ff'


class TaskProblem:
    """Words to be searched for a task; see `strategy.Problem`."""

    def __init__(self, scorer: Scorer, rows: Sequence[TextRow], template: str, lexicon: Lexicon,
                 settings: SearchSettings):
        """Take examples into use; reads no model.

        Args:
          scorer: of the task and the model.
          rows: of training, those of the search, labels in turn.
          template: with the slots.
          lexicon: of the vocabulary, with the rows of the model's table.
          settings: of the search.
        """
        self._scorer, self._rows, self._template = scorer, list(rows), template
        self._settings, self.lexicon = settings, lexicon
        self.size, self.first = len(rows), settings.first_examples
        self.left = 0  # until `run.search` gives the budget
        self.slots, self.labels = template.count(SLOT), scorer.task.label_words
        self.label_B = None if self.labels is None else scorer.right(rows)
        #: Of texts that were measured; a search that goes on is given them again.
        self.known_fluency: dict[tuple[str, ...], float] = {}

    def spend(self, calls: int) -> None:
        """Count calls before they are made.

        Raises:
          Spent: the budget does not reach.
        """
        if calls > self.left:
            raise Spent
        self.left -= calls

    def design(self, candidate: Candidate) -> Design:
        """Return the design in which a candidate's words stand.

        Raises:
          ValueError: they cannot.
        """
        words = dict(candidate.words) or self._settings.words
        template = filled(self._template, candidate.texts or ('',) * self.slots)
        return self._scorer.make_design(template, words, self._settings.combine)

    def usable(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates that leave room for an input; see `strategy.Problem`."""
        found = []
        for one in dict.fromkeys(candidates):
            with contextlib.suppress(ValueError):
                self._scorer.in_use(self.design(one))
                found.append(one)
        return found

    def losses(self, candidates: Sequence[Candidate], examples: Sequence[int]) -> np.ndarray:
        """Score candidates; see `strategy.Problem`."""
        return self.losses_on(candidates, self._examples(examples))

    def losses_on(self, candidates: Sequence[Candidate], rows: Sequence[TextRow]) -> np.ndarray:
        """Score candidates on any rows, their fluency weighed in: float64[C, B]."""
        self.spend(len(candidates) * len(rows))
        losses = self._scorer.losses([self.design(one) for one in candidates], rows)
        if self._settings.fluency:
            losses += self._settings.fluency * self.fluency(candidates)[:, None]
        return losses

    def plain_losses(self, design: Design, rows: Sequence[TextRow] | None = None) -> np.ndarray:
        """Score a design that was not searched, on the search's examples or others: float64[B]."""
        rows = self._rows if rows is None else rows
        self.spend(len(rows))
        return self._scorer.losses([design], rows)[0]

    def fluency(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """Return how unlikely the model finds the words in their places: float64[C].

        It is the mean cross-entropy, in nats, of the tokens that fill the slots of a few examples,
        their right answers given: what `templates` has the model write by. Calls are counted for
        texts that are new.
        """
        new = [one for one in dict.fromkeys(one.texts for one in candidates)
               if one not in self.known_fluency]
        rows = self._rows[:self._settings.fluency_examples]
        self.spend(len(new) * len(rows))
        if new:
            targets = [between_sentinels(texts) for texts in new for _ in rows]
            found = self._scorer.target_losses(self._blanks(rows) * len(new), targets)
            self.known_fluency |= dict(zip(new, found.reshape(len(new), len(rows)).mean(axis=1),
                                      strict=True))
        return np.array([self.known_fluency[one.texts] for one in candidates])

    def gradient(self, words: Sequence[int], examples: Sequence[int]) -> tuple[float, np.ndarray]:
        """Differentiate by the embeddings in the slot; see `strategy.Problem`."""
        self.spend(2 * len(examples))
        rows, tokens = self._examples(examples), self.lexicon.ids_A[list(words)]
        scorer = self._scorer
        used = scorer.in_use(self.design(Candidate((self.lexicon.text(words),))))
        inputs, found_B = scorer.inputs(used, rows), np.zeros(len(rows), np.float32)
        for number, (ids, before) in enumerate(zip(inputs, self._before(rows), strict=True)):
            start = place_of(tokens, ids, before)
            if start is not None:
                found_B[number] = 1
                ids[start:start + len(words)] = scorer.opened.model.vocab_size + np.arange(
                    len(words))
        if not found_B.any():
            raise ValueError(f'the words {self.lexicon.text(words)!r} become other tokens in the '
                             f'template of the search; put spaces around {SLOT}')
        return gradient(scorer.opened, self.lexicon.rows_AD[list(words)], inputs,
                        self._targets(used.labels, examples), found_B)

    def telling_words(self, count: int) -> list[int]:
        """Return the words that tell most of the label, or the most frequent ones of free text."""
        place = {index: number for number, index in enumerate(self.lexicon.ids_A.tolist())}
        columns = self.design(Candidate()).columns
        texts = [' '.join(str(row.columns[name]) for name in columns) for row in self._rows]
        labels = np.zeros(len(texts), int) if self.label_B is None else self.label_B
        counts: collections.Counter = collections.Counter()
        for ids, label in zip(encode_batch(self._scorer.opened.vocabulary, texts), labels,
                              strict=True):
            counts.update((place[index], int(label)) for index in {*ids} & place.keys())
        told = information(counts, labels) if self.labels else {
            word: number for (word, _), number in counts.items()}
        best = sorted(told, key=lambda word: (-told[word], word))
        return list(dict.fromkeys([*best, *range(len(self.lexicon))]))[:count]

    def word_scores(self, examples: Sequence[int]) -> np.ndarray:
        """Score the lexicon's words as the answer; see `strategy.Problem`."""
        self.spend(len(examples))
        scorer, design = self._scorer, self.design(Candidate())
        opened = scorer.opened
        blank = [opened.vocabulary.token_id(BLANK)] if design.form == CLOZE else []
        inputs = scorer.inputs(scorer.in_use(design), self._examples(examples))
        scores_BV = next_words(opened, inputs, [opened.model.tokens.start, *blank],
                               self._settings.batch_size)
        return scores_BV[:, self.lexicon.ids_A]

    def fill(self, examples: Sequence[int], ways: int, length: int, temperature: float,
             seed: int) -> list[tuple[str, ...]]:
        """Let the model fill the slots; see `strategy.Problem`."""
        check_sentinels(self._scorer.opened, self.slots, 'filling blanks')
        self.spend(len(examples) * ways)
        inputs = self._scorer.ids(self._blanks(self._examples(examples)))
        return fill_blanks(self._scorer.opened, inputs, self.slots,
                           Beam(ways, length, temperature, len(inputs), seed))

    def write(self, inputs: Sequence[str], length: int, temperature: float,
              seed: int) -> list[str]:
        """Let the model answer texts; see `strategy.Problem`."""
        self.spend(len(inputs))
        return self._scorer.write(inputs, length, temperature, seed)

    def _examples(self, numbers: Sequence[int]) -> list[TextRow]:
        return [self._rows[number] for number in numbers]

    def _before(self, rows: Sequence[TextRow]) -> list[int]:
        """Return how many tokens stand in front of the slot."""
        design = self.design(Candidate((_MARK,)))
        fronts = [design.render(row).split(_MARK)[0].rstrip() for row in rows]
        return [len(ids) for ids in encode_batch(self._scorer.opened.vocabulary, fronts)]

    def _targets(self, labels: LabelSet | None,
                 examples: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what the gradient scores of each example, see `model_calls.gradient`.

        How a label's words are combined is taken for a sum: it is to name candidates alone.
        """
        if labels is None:
            targets_BL = self._scorer.targets([self._scorer.task.target_text(row)
                                               for row in self._examples(examples)])
            tokens_BL = (targets_BL != self._scorer.opened.model.tokens.pad).astype(np.float32)
            weights_BL = tokens_BL / tokens_BL.sum(axis=1, keepdims=True)
            return targets_BL[:, None], weights_BL[:, None], np.ones((len(targets_BL), 1), bool)
        shape = len(examples), *labels.shape
        ends = np.arange(labels.shape[0]) if labels.starts is None else labels.starts
        label_C = np.searchsorted(ends, np.arange(labels.shape[0]), side='right') - 1
        return (np.broadcast_to(labels.targets_CL, shape),
                np.broadcast_to(labels.weights_CL, shape),
                self.label_B[list(examples)][:, None] == label_C)

    def _blanks(self, rows: Sequence[TextRow]) -> list[str]:
        """Return the inputs with sentinels in the slots and the right answers in their place."""
        numbers = itertools.count()  # T5 learned sentinels that no space stands before
        template = re.sub(f' ?{re.escape(SLOT)}', lambda _: sentinel(next(numbers)), self._template)
        design = self._scorer.make_design(template, self._settings.words, self._settings.combine)
        return [design.shown(Demonstration(
            {name: column_text(row, name) for name in design.columns},
            self._scorer.task.target_text(row))) for row in rows]
