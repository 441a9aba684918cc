"""Designs in use with a model: inputs with as many demonstrations as fit, and words as tokens."""

import collections
import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_prompt.data.demonstrations import Demonstration
from jax_prompt.data.design import BLANK, BLANK_END, CLOZE, Design
from jax_prompt.data.examples import Examples
from jax_prompt.data.ragged import Ragged
from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.text_task import TextTask, column_text
from jax_prompt.data.vocabularies import encode_batch
from jax_prompt.files import brief, listed
from jax_prompt.inference.rank import LabelSet, label_arrays
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.file import PromptFile

#: tokens of texts -> float32[N, D], see `states.mean_states`
States = Callable[[Sequence[Sequence[int]]], np.ndarray]

#: Characters of a column that are read for each token that there is room for.
_CHARACTERS_PER_TOKEN = 64

_log = logging.getLogger(__name__)


class Worded(NamedTuple):
    """An input as a design words it.

    Attributes:
      tokens: without an end token.
      cut: whether text of the input was left out, so that the template's own words stay.
    """

    tokens: list[int]
    cut: bool


class DesignInUse:
    """Word inputs by a design for one model.

    Attributes:
      design: the design.
      task: renders an input alone, see `Design.task`.
      labels: as tokens; None for free text.
    """

    def __init__(self, opened: OpenedModel, task: Any, design: Design,
                 states: States | None = None):
        """Take a design into use.

        Args:
          opened: the frozen model.
          task: a `TextTask`, which the design is for.
          design: the design.
          states: of texts, to find the nearest demonstrations by; None where nothing will be
            worded.

        Raises:
          ValueError: the design is for another task or model, its words cannot be told apart or are
            longer than it says, or it leaves no room for an input.
        """
        if not isinstance(task, TextTask):
            raise ValueError(f'task {task.name} is registered with seqio and gives ready inputs, '
                             'which a design cannot word; give a task of text columns')
        design.check(task)
        self._opened, self.design, self._states = opened, design, states
        self._vocabulary, self._tally = opened.vocabulary, collections.Counter()
        self.task = design.task(task)
        self.labels = None
        if task.label_words is not None:
            self.labels = dataclasses.replace(
                self.label_set(task.label_words), calibration_C=None if design.calibration is None
                else np.array(design.calibration))
        self._room = task.inputs_length - 1  # the end token's
        if design.nearest is not None and design.nearest.states_ND.shape[1] != opened.model.d_model:
            raise ValueError(f'the pool of the design has states of width '
                             f'{design.nearest.states_ND.shape[1]} but {opened.name} has '
                             f'D={opened.model.d_model}; make the design with this model')
        alone = len(self._encode([design.render(dict.fromkeys(design.columns, ''))])[0])
        if alone >= self._room:
            raise ValueError(f'the instruction and the template of the design take {alone} tokens '
                             f'of inputs_length {task.inputs_length}, which leaves no room for an '
                             'input; shorten them or raise inputs_length')
        self._lengths = [len(tokens) for tokens in self._encode(
            [f'{design.shown(one)}{design.separator}' for one in design.examples])]
        self._known = {tuple(one.columns[name] for name in design.columns): number
                       for number, one in enumerate(design.examples)}

    def label_set(self, labels: Sequence[str]) -> LabelSet:
        """Spell labels as the design has them answered; those that it does not know, by themselves.

        Raises:
          ValueError: fewer than two, words that the vocabulary cannot tell apart, or a word of
            several tokens where one is read.
        """
        design, words = self.design, self.design.words or {}
        if design.form != CLOZE and design.words is None:
            return LabelSet.encode(labels, self._vocabulary.encode, self._opened.model)
        spelt = {label: words.get(label, (label,)) for label in labels}
        flat = [(label, word) for label, some in spelt.items() for word in some]
        starts = np.cumsum([0, *map(len, spelt.values())])[:-1]
        tokens = [list(self._vocabulary.encode_words(word) if design.form == CLOZE else
                       self._vocabulary.encode(word)) for _, word in flat]
        self._check_words(flat, tokens)
        targets_CL, weights_CL = label_arrays(tokens, self._opened.model)
        if design.form == CLOZE:
            targets_CL, weights_CL = self._in_the_blank(tokens)
        return LabelSet(tuple(spelt), targets_CL, weights_CL, starts, design.combine)

    def word(self, rows: Sequence[Row]) -> list[Worded]:
        """Word inputs, each with as many of its demonstrations as there is room for.

        Where not even the input fits, its longest column is cut at its end: an instruction, and
        what a template says behind a text, are what the answer hangs on.

        Args:
          rows: with the columns of the template.

        Raises:
          ValueError: a column of the template is not there or holds no text.
        """
        rows = [self._bounded(row) for row in rows]
        chosen = self._choose([row for row, _ in rows])
        bare = self._encode([self.design.render(row) for row, _ in rows])
        counts = [self._that_fit(some, self._room - len(tokens))
                  for some, tokens in zip(chosen, bare, strict=True)]
        worded = []
        tokens = dict(enumerate(bare))
        # What is tokenized by itself may have a token less than what is joined.
        waiting = [number for number, count in enumerate(counts) if count]
        while waiting:
            texts = [self.design.render(rows[number][0], self._of(chosen[number][:counts[number]]))
                     for number in waiting]
            tokens |= zip(waiting, self._encode(texts), strict=True)
            waiting = [number for number in waiting if len(tokens[number]) > self._room]
            for number in waiting:
                counts[number] -= 1
            for number in [number for number in waiting if not counts[number]]:
                tokens[number] = bare[number]
                waiting.remove(number)
        for number, (row, cut) in enumerate(rows):
            found = tokens[number]
            if len(found) > self._room:
                found, cut = self._shortened(row), True
            worded.append(Worded(found, cut))
            missing = len(chosen[number]) - counts[number]
            self._tally.update(inputs=1, shown=counts[number], lacking=missing > 0)
        return worded

    def told(self) -> str:
        """Say how many inputs, since it was last asked, lacked room for demonstrations, or ''."""
        tally, self._tally = self._tally, collections.Counter()
        if not tally['lacking']:
            return ''
        return (f'{tally["lacking"]:,} of {tally["inputs"]:,} inputs had room for fewer than their '
                f'{self.design.shots} demonstrations, {tally["shown"] / tally["inputs"]:.1f} on '
                'average; raise inputs_length, or ask for fewer')

    def examples(self, examples: Examples) -> Examples:
        """Word a split; says in the log, once, how many demonstrations there was no room for.

        Targets are each label's first word, as the design has it answered.
        """
        self.told()
        worded = self.word(examples.rows)
        if line := self.told():
            _log.warning('%s: %s', examples.name, line)
        targets = examples.targets
        if self.labels is not None:
            starts = range(len(self.labels.words)) if self.labels.starts is None else (
                self.labels.starts)
            ends = self._opened.model.tokens.eos, self._opened.model.tokens.pad
            first = [[token for token in self.labels.targets_CL[start] if token not in ends]
                     for start in starts]
            targets = Ragged.from_sequences([first[label] for label in examples.labels])
        return dataclasses.replace(
            examples, inputs=Ragged.from_sequences([one.tokens for one in worded]),
            targets=targets)

    def warm_up(self, lengths: Sequence[int], stop: Callable[[], bool]) -> None:
        """Compile what choosing the nearest needs for an input by itself, of such lengths."""
        for length in lengths if self.design.nearest is not None else ():
            if not stop():
                self._states([[0] * (length - 1)])

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(tokens) for tokens in encode_batch(self._vocabulary, texts)]

    def _check_words(self, flat: Sequence[tuple[str, str]],
                     tokens: Sequence[Sequence[int]]) -> None:
        """Refuse words that are spelt alike, or that no single token is where one is read."""
        seen: dict[tuple[int, ...], tuple[str, str]] = {}
        for (label, word), ids in zip(flat, tokens, strict=True):
            if self.design.form == CLOZE and not self.design.closed and len(ids) != 1:
                pieces = [self._vocabulary.word(token) for token in ids]
                raise ValueError(
                    f'word {brief(word)} of label {brief(label)} has {len(ids)} tokens '
                    f'({listed(pieces)}) where a cloze reads one; choose a word of one token, or '
                    'set closed=True to score all of them and what closes the blank')
            if (other := seen.setdefault(tuple(ids), (label, word))) != (label, word) or (
                    flat.count((label, word)) > 1):
                raise ValueError(f'words {brief(other[1])} of label {brief(other[0])} and '
                                 f'{brief(word)} of label {brief(label)} have the same tokens '
                                 f'{list(ids)}; choose words that the vocabulary tells apart')

    def _in_the_blank(self, tokens: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Put words between the sentinels, of which the first is given; int32, float32[C, L]."""
        blank, end = map(self._vocabulary.token_id, (BLANK, BLANK_END))
        if blank is None or end is None:
            raise ValueError(f'the vocabulary of {self._opened.name} has no {BLANK} and '
                             f"{BLANK_END}, which a cloze is answered with; set form='plain'")
        closing = [end] if self.design.closed else []
        longest = max(map(len, tokens)) + 1 + len(closing)
        targets_CL = np.full((len(tokens), longest), self._opened.model.tokens.pad, np.int32)
        weights_CL = np.zeros(targets_CL.shape, np.float32)
        for number, ids in enumerate(tokens):
            told = [blank, *ids, *closing]
            targets_CL[number, :len(told)] = told
            weights_CL[number, 1:len(told)] = 1.0
        return targets_CL, weights_CL

    def _bounded(self, row: Row) -> tuple[Row, bool]:
        """Return a row with texts of a length that can be read, and whether any was longer."""
        most = _CHARACTERS_PER_TOKEN * (self._room + 1)
        texts = {name: column_text(row, name) for name in self.design.columns}
        longer = any(len(text) > most for text in texts.values())
        return Row({name: text[:most] for name, text in texts.items()}, row.where), longer

    def _of(self, numbers: Sequence[int]) -> list[Demonstration]:
        return [self.design.examples[number] for number in numbers]

    def _choose(self, rows: Sequence[Row]) -> list[list[int]]:
        """Return for each input the numbers of its demonstrations, none of which is the input."""
        design = self.design
        own = [self._known.get(tuple(row.columns.values())) for row in rows]
        if design.nearest is None:
            every = range(len(design.demonstrations))
            return [[number for number in every if number != one] for one in own]
        if not rows:
            return []
        tokens = [some[:self._room] for some in self._encode([design.compared(row)
                                                              for row in rows])]
        cosines = self._states(tokens) @ design.nearest.states_ND.T
        found = []
        for one, row in zip(own, cosines, strict=True):
            order = np.argsort(-row, kind='stable')
            found.append([int(number) for number in order if number != one][:design.shots])
        return found

    def _that_fit(self, numbers: Sequence[int], room: int) -> int:
        """Return how many of the first demonstrations there is room for, by their own tokens."""
        lengths = np.cumsum([self._lengths[number] for number in numbers])
        return int(np.searchsorted(lengths, room, side='right'))

    def _shortened(self, row: Row) -> list[int]:
        """Return the tokens of an input whose longest text is cut until it fits."""
        columns = dict(row.columns)
        while True:
            tokens, = self._encode([self.design.render(columns)])
            over = len(tokens) - self._room
            name = max(columns, key=lambda one: len(columns[one]))
            if over <= 0 or not columns[name]:
                return tokens
            own = len(self._encode([columns[name]])[0])
            keep = int(len(columns[name]) * max(0, own - over) / max(1, own))
            kept = columns[name][:min(keep, len(columns[name]) - 1)]
            columns[name] = kept.rpartition(' ')[0] or kept


def task_of(opened: OpenedModel, file: PromptFile,
            states: States | None = None) -> tuple[TextTask, LabelSet | None, 'DesignInUse | None']:
    """Return what a prompt file says that inputs and labels are, and by what design.

    Args:
      opened: the frozen model.
      file: the prompt file.
      states: of texts, as `DesignInUse` takes them; None where nothing will be worded.

    Raises:
      ValueError: the task or the design cannot be used.
    """
    task, design = TextTask.from_dict(file.metadata.task), Design.of(file)
    if design is not None:
        used = DesignInUse(opened, task, design, states)
        return used.task, used.labels, used
    words = task.label_words
    return task, words and LabelSet.encode(words, opened.vocabulary.encode, opened.model), None
