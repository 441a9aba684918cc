"""Prompt design: the words around an input, examples in front of it, and the words for its labels.

A design says what a person would write by hand: a template with the answer's place, an instruction,
solved examples (demonstrations), and which words stand for each label (the verbalizer). It needs
no training. A prompt file holds it beside its rows, of which there may be none.

    cloze  'a film to remember . It was <extra_id_0> .'  ->  '<extra_id_0> great'
    plain  'Review: a film to remember . Sentiment:'     ->  'great'

Sources: Schick and Schuetze 2021 (arXiv:2001.07676), clozes and verbalizers; Brown et al. 2020
(arXiv:2005.14165), demonstrations.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_prompt.data.demonstrations import (
    MOST_DEMONSTRATIONS,
    Demonstration,
    Nearest,
    check_demonstration,
    read_demonstrations,
)
from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.text_task import TextTask, column_text, parse_template
from jax_prompt.data.verbalizer import COMBINATIONS, checked_calibration, checked_words
from jax_prompt.files import brief, listed
from jax_prompt.prompts.file import PromptFile
from jax_prompt.prompts.layout import DEFAULT_MARKER

CLOZE, PLAIN_FORM = 'cloze', 'plain'
FORMS = (CLOZE, PLAIN_FORM)
#: Demonstrations as they were chosen (nearest first), the other way round, or label by label.
ORDERS = ('chosen', 'reversed', 'by_label')

#: What stands in a template for the answer's place, and T5's sentinels there and behind it.
ANSWER, BLANK, BLANK_END = 'answer', '<extra_id_0>', '<extra_id_1>'

_TEMPLATE = 'template of a design'
#: Bounds on what a design may ask of everyone who shares a model with it, as a task's are.
_LONGEST_TEXT, _LONGEST_MARKER, _LONGEST_SEPARATOR = 20_000, 100, 20


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """Say how an input and its label words are put to a frozen model.

    Attributes:
        template: the input, with column names in braces and `{answer}` where the answer stands:
            '{text} It was {answer}.'.
        words: label word of the task -> the words that are scored for it; None for the label words
            themselves, and for free text.
        combine: 'sum', 'mean' or 'best', see `COMBINATIONS`.
        form: 'cloze' puts T5's sentinel into the answer's place, and scores what the decoder says
            behind that sentinel; 'plain' leaves the place out, which must then be the end, and
            scores the word with the end token, as a task without a design does.
        closed: of a cloze: score the next sentinel behind the word too, so that words of several
            tokens can be told from what they begin with; without it each word is one token.
        instruction: stands in front of all else.
        demonstrations: in front of each input, as many as its length leaves room for; the first
            chosen go last.
        nearest: chosen for each input, in place of those.
        order: in which they stand, see `ORDERS`.
        separator: between instruction, demonstrations and input.
        calibration: float[C], in the order of the task's label words: logarithms that are taken
            away from the labels' scores.
        marker: where the rows of a soft prompt stand in the template, for a layout that places
            them so; demonstrations are shown without.

    Raises:
        ValueError: parts that cannot be used; in a file of unknown origin, any that is too large.

    Example:
        >>> design = Design('{text} It was {answer} .', {'bad': ('awful',), 'good': ('great',)})
        >>> design.query({'text': 'A fine film .'})
        'A fine film . It was <extra_id_0> .'
        >>> design.shown(Demonstration({'text': 'A fine film .'}, 'good'))
        'A fine film . It was great .'
    """

    template: str
    words: Mapping[str, tuple[str, ...]] | None = None
    combine: str = 'sum'
    form: str = CLOZE
    closed: bool = False
    instruction: str = ''
    demonstrations: tuple[Demonstration, ...] = ()
    nearest: Nearest | None = None
    order: str = ORDERS[0]
    separator: str = ' '
    calibration: tuple[float, ...] | None = None
    marker: str = DEFAULT_MARKER

    def __post_init__(self):
        for part, most in (('template', _LONGEST_TEXT), ('instruction', _LONGEST_TEXT),
                           ('separator', _LONGEST_SEPARATOR), ('marker', _LONGEST_MARKER)):
            text = getattr(self, part)
            if not isinstance(text, str) or len(text) > most or part == 'marker' and not text:
                raise ValueError(f'{part} of a design is {brief(text)}; expected text of at most '
                                 f'{most:,} characters')
        for part, choices in (('combine', COMBINATIONS), ('form', FORMS), ('order', ORDERS)):
            if getattr(self, part) not in choices:
                raise ValueError(f'{part} of a design is {brief(getattr(self, part))}; expected '
                                 f'one of {", ".join(choices)}')
        if not isinstance(self.closed, bool):
            raise ValueError(f'closed of a design is {brief(self.closed)}; expected true or false')
        self._check_place()
        object.__setattr__(self, 'words', checked_words(self.words))
        object.__setattr__(self, 'calibration', checked_calibration(self.calibration))
        object.__setattr__(self, 'demonstrations', tuple(self.demonstrations))
        if len(self.demonstrations) > MOST_DEMONSTRATIONS or self.demonstrations and self.nearest:
            raise ValueError(f'a design has {len(self.demonstrations):,} demonstrations'
                             f'{" and a pool of others" if self.nearest else ""}; expected at most '
                             f'{MOST_DEMONSTRATIONS}, or a pool to choose the nearest from')
        for one in self.examples:
            check_demonstration(one, self.columns)

    def _check_place(self) -> None:
        """Check that the template has the answer's place where its form needs it."""
        fields = [field for _, field in parse_template(self.template, _TEMPLATE)]
        if not self.columns:
            raise ValueError(f'template {brief(self.template)} of a design names no column of the '
                             "input; name one in braces, such as '{text}'")
        count = fields.count(ANSWER)
        if self.form == CLOZE and count != 1:
            raise ValueError(f'template {brief(self.template)} of a design has {{answer}}, the '
                             f"answer's place, {count} times; put it once where the word shall "
                             "stand, as in '{text} It was {answer}.', or set form='plain'")
        if self.form == PLAIN_FORM and count and (count > 1 or fields[-1] != ANSWER):
            raise ValueError(f'template {brief(self.template)} of a plain design has {{answer}} '
                             'before its end; put it last, leave it out (it is understood), or set '
                             "form='cloze'")

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that the template shows, in order."""
        fields = [field for _, field in parse_template(self.template, _TEMPLATE)]
        return tuple(dict.fromkeys(field for field in fields if field not in (None, ANSWER)))

    @property
    def examples(self) -> tuple[Demonstration, ...]:
        """Return all that can be shown: the demonstrations, or the pool."""
        return self.demonstrations if self.nearest is None else self.nearest.pool

    @property
    def shots(self) -> int:
        """Return how many demonstrations an input has, where all of them fit."""
        return len(self.demonstrations) if self.nearest is None else self.nearest.shots

    @functools.cached_property
    def query_template(self) -> str:
        """Return the template of an input alone, as a task has it: the answer's place left open."""
        blank = BLANK if self.form == CLOZE else ''
        return ''.join(_escaped(literal) + (_escaped(blank) if field == ANSWER else
                                            f'{{{field}}}' if field else '')
                       for literal, field in parse_template(self.template, _TEMPLATE)).rstrip()

    def task(self, task: TextTask) -> TextTask:
        """Return a task whose inputs are worded so, without instruction and demonstrations."""
        return dataclasses.replace(task, inputs_template=self.query_template)

    def query(self, row: Row | Mapping[str, Any], where: str = 'the row') -> str:
        """Return the template filled with an input, the answer's place left open.

        Args:
            row: a `Row`, or a plain dict of columns.
            where: the place of a plain dict, for messages.

        Raises:
            ValueError: a column of the template is not there or holds no text.
        """
        return _filled(self.query_template, row if isinstance(row, Row) else Row(row, where))

    def compared(self, row: Row) -> str:
        """Return the text by whose states the nearest are found: `query` without a marker."""
        return _filled(self._without_marker(self.query_template), row)

    def shown(self, one: Demonstration) -> str:
        """Return the template filled with a solved example."""
        template = self._without_marker(self.template)
        if self.form == PLAIN_FORM and all(
                field != ANSWER for _, field in parse_template(template, _TEMPLATE)):
            template = f'{template} {{{ANSWER}}}'
        return _filled(template, Row(one.columns, 'a demonstration'), self.word(one.answer))

    def _without_marker(self, template: str) -> str:
        return template.replace(f'{self.marker} ', '').replace(self.marker, '')

    def word(self, label: str) -> str:
        """Return the first word that stands for a label, or the text itself."""
        return label if self.words is None else self.words[label][0]

    def render(self, row: Row | Mapping[str, Any], demonstrations: Sequence[Demonstration] = (),
               where: str = 'the row') -> str:
        """Return the text that the model reads.

        Args:
            row: the input.
            demonstrations: to show in front of it, in the order in which they were chosen.
            where: the place of a plain dict, for messages.

        Raises:
            ValueError: as `query` does.
        """
        parts = [self.instruction, *map(self.shown, self.ordered(demonstrations)),
                 self.query(row, where)]
        return self.separator.join(part for part in parts if part)

    def ordered(self, demonstrations: Sequence[Demonstration]) -> list[Demonstration]:
        """Return demonstrations in the order in which they stand."""
        if self.order == 'reversed':
            return list(reversed(demonstrations))
        if self.order == 'by_label':  # sorting keeps the order within a label
            labels = list(self.words or dict.fromkeys(one.answer for one in demonstrations))
            return sorted(demonstrations, key=lambda one: labels.index(one.answer))
        return list(demonstrations)

    def targets(self, label_words: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return label word -> the words that are scored for it.

        Args:
            label_words: of the task, in order.
        """
        return {label: (label,) if self.words is None else self.words[label]
                for label in label_words}

    def check(self, task: TextTask) -> None:
        """Check that a design is one for a task.

        Raises:
            ValueError: it has words for other labels, shows the task's answer in the input, or
                wants labels that the task has not.
        """
        if task.target in self.columns:
            raise ValueError(f'template {brief(self.template)} of the design shows the target '
                             f'column {task.target!r} of task {task.name}; write {{answer}} for '
                             'its place')
        labels = task.label_words
        if labels is None and (self.words or self.form == CLOZE or self.calibration):
            raise ValueError(f'task {task.name} is free text, which has no label words to score; '
                             "set form='plain' and leave words and calibration out")
        if labels is None:
            return
        if self.words is not None and set(self.words) != set(labels):
            raise ValueError(f'the design has words for {listed(self.words)} but the labels of '
                             f'task {task.name} are {listed(labels)}; give words for each of them')
        if self.calibration is not None and len(self.calibration) != len(labels):
            raise ValueError(f'the design is calibrated for {len(self.calibration)} labels but '
                             f'task {task.name} has {len(labels)}; calibrate it anew')
        for one in self.examples:
            if one.answer not in labels:
                raise ValueError(f'a demonstration of the design is answered {brief(one.answer)}; '
                                 f'the labels of task {task.name} are {listed(labels)}')

    def to_dict(self) -> dict[str, Any]:
        """Return the design for a prompt file's metadata, without the states of its pool."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values['demonstrations'] = [[dict(one.columns), one.answer] for one in self.demonstrations]
        if self.nearest is not None:
            values['nearest'] = {'shots': self.nearest.shots, 'pool': [
                [dict(one.columns), one.answer] for one in self.nearest.pool]}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], states_ND: np.ndarray | None = None) -> 'Design':
        """Read what `to_dict` wrote, which may come from anywhere.

        Args:
            values: of the design.
            states_ND: float32[N, D], of its pool; None where it has none.

        Raises:
            ValueError: entries that no design has, or values that none can have.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown or 'template' not in values:
            raise ValueError(f'a design has the entries {listed(unknown or values)}; expected '
                             f'template and some of {", ".join(names)}')
        values = dict(values)
        values['demonstrations'] = read_demonstrations(values.get('demonstrations', []))
        nearest = values.get('nearest')
        if nearest is not None:
            if not isinstance(nearest, Mapping) or set(nearest) != {'shots', 'pool'} or (
                    states_ND is None):
                raise ValueError(f'nearest of a design is {brief(nearest)}; expected shots and '
                                 'pool, and a tensor of their states')
            values['nearest'] = Nearest(nearest['shots'], read_demonstrations(nearest['pool']),
                                        states_ND)
        return cls(**values)

    @classmethod
    def of(cls, file: PromptFile) -> 'Design | None':
        """Return the design that a prompt file holds; None where it has none.

        Raises:
            ValueError: it cannot be used, or is for another task than the file's.
        """
        if file.metadata.design is None:
            return None
        design = cls.from_dict(file.metadata.design, file.states_ND)
        design.check(TextTask.from_dict(file.metadata.task))
        return design


def _escaped(literal: str) -> str:
    """Write text so that a template says it."""
    return literal.replace('{', '{{').replace('}', '}}')


def _filled(template: str, row: Row, answer: str | None = None) -> str:
    """Fill a template with a row's columns, and the answer's place where one is given."""
    return ''.join(literal + ('' if field is None else
                              answer if field == ANSWER and answer is not None else
                              column_text(row, field))
                   for literal, field in parse_template(template, _TEMPLATE))
