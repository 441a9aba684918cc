"""A task: rows of text columns, a template for the input, and what shall be answered."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jax_prompt.data.tasks.rows import Row, read_rows
from jax_prompt.files import brief, listed

#: What a split is read from: a file, or a function that yields rows or plain dicts.
SplitSource = str | Callable[[], Iterable[Row | Mapping[str, Any]]]

_SURROGATE = re.compile('[\ud800-\udfff]')  # in text that JSON's escapes have made
#: Bounds on what a prompt file may ask of everyone who shares a model with it: the template is
#: tokenized with every input, and each label is scored.
_LONGEST_TEMPLATE, _MOST_TOKENS, _MOST_LABELS, _LONGEST_LABEL = 20_000, 2**16, 1000, 500
_TEMPLATE_PART = re.compile(r'(?P<literal>[^{}]+)|(?P<brace>{{|}})|{(?P<column>[^{}]+)}')


@dataclasses.dataclass(frozen=True, eq=False)
class TextTask:
    """Say how rows become inputs and targets.

    Attributes:
        name: what the task is called in logs, cards and prompt files.
        splits: split name -> a file that `read_rows` reads, or a function that yields rows. A task
            read back from a prompt file has none: it can render and verbalize, no more.
        inputs_template: the input, with column names in braces: 'sst2 sentence: {text}'.
        target: the column of the answer; of a list of right ones the first is trained on.
        labels: raw value -> word (the verbalizer), or the words themselves where the column holds
            them; None for free text. Ranking is over the different words, in order of mention.
        inputs_length: the most tokens of an input, end token included, virtual tokens not.
        targets_length: the most tokens of a target, end token included.
        notes: sentences of caution for the card of a run; a prompt file does not hold them.
        metrics: names, such as 'accuracy' or 'macro_f1', and functions of one's own, each
            `(predictions, rows) -> name -> value`, see `evaluation.registry`; None for accuracy of
            what is ranked and exact match of what is generated. A prompt file does not hold them.
        golds: the column of all answers that metrics take for right, one or a list; None for the
            target column.

    Raises:
        ValueError: a template, labels or lengths that cannot be used.

    Example:
        >>> task = TextTask('toy', {}, 'review: {text}', 'label', {'0': 'bad', '1': 'good'})
        >>> task.render({'text': 'fine .'}), task.verbalize(1), task.label_words
        ('review: fine .', 'good', ('bad', 'good'))
    """

    name: str
    splits: Mapping[str, SplitSource]
    inputs_template: str = '{text}'
    target: str = 'label'
    labels: Mapping[str, str] | tuple[str, ...] | None = None
    inputs_length: int = 512
    targets_length: int = 8
    notes: tuple[str, ...] = ()
    metrics: tuple[str | Callable[..., dict[str, float]], ...] | None = None
    golds: str | None = None

    def __post_init__(self):
        for part, most in (('name', 500), ('inputs_template', _LONGEST_TEMPLATE),
                           ('target', 2**20)):
            text = getattr(self, part)
            if not isinstance(text, str) or len(text) > most:
                raise ValueError(f'{part} of a task is {brief(text)}; expected text of at most '
                                 f'{most:,} characters')
        if self.target in self.columns:
            raise ValueError(
                f'inputs_template {brief(self.inputs_template)} of task {self.name} shows the '
                f'target column {self.target!r}, so the answer would stand in the input; take it '
                'out')
        for part in ('inputs_length', 'targets_length'):
            length = getattr(self, part)
            if type(length) is not int or not 1 <= length <= _MOST_TOKENS:
                raise ValueError(f'{part} of task {self.name} is {brief(length)}; expected a whole '
                                 f'number from 1, to hold the end token, to {_MOST_TOKENS:,}')
        object.__setattr__(self, 'labels', _checked_labels(self.labels, self.name))

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that the template shows, in order."""
        fields = [field for _, field in parse_template(self.inputs_template) if field is not None]
        return tuple(dict.fromkeys(fields))

    @property
    def label_words(self) -> tuple[str, ...] | None:
        """Return the different words of the verbalizer, in order; None for free text."""
        return None if self.labels is None else tuple(dict.fromkeys(self.labels.values()))

    def render(self, row: Row | Mapping[str, Any], where: str = '') -> str:
        """Return the input of a row.

        Args:
            row: a `Row`, or a plain dict of columns.
            where: the place of a plain dict, for messages.

        Raises:
            ValueError: a column of the template is not there or holds no text.
        """
        row = row if isinstance(row, Row) else Row(row, where or 'the row')
        return ''.join(literal + ('' if field is None else column_text(row, field))
                       for literal, field in parse_template(self.inputs_template))

    def verbalize(self, value: Any, where: str = 'the row') -> str:
        """Return the target for a raw value of the target column.

        Raises:
            ValueError: the verbalizer does not have the value.
        """
        raw = _plain(value, self.target, where)
        if self.labels is None:
            return raw
        if raw not in self.labels:
            raise ValueError(
                f'label {brief(raw)} in column {self.target!r} at {where} is outside the '
                f'verbalizer of task {self.name}; allowed: {listed(self.labels)}; mend the row or '
                'add the label')
        return self.labels[raw]

    def raw_target(self, row: Row) -> str:
        """Return the target column of a row as it stands, before the verbalizer.

        Raises:
            ValueError: the column is not there or holds no text.
        """
        return _texts(row, self.target)[0]

    def raw_golds(self, row: Row) -> list[str]:
        """Return all right answers of a row as they stand, at least one, before the verbalizer.

        Raises:
            ValueError: their column is not there or holds no text.
        """
        return _texts(row, self.golds or self.target)

    def target_text(self, row: Row) -> str:
        """Return what shall be answered to a row: its target column, verbalized.

        Raises:
            ValueError: the column is not there, holds no text or is outside the verbalizer.
        """
        return self.verbalize(self.raw_target(row), row.where)

    def right_answers(self, row: Row) -> tuple[str, ...]:
        """Return all that metrics take for a right answer to a row, verbalized.

        Raises:
            ValueError: as `target_text` does.
        """
        return tuple(self.verbalize(text, row.where) for text in self.raw_golds(row))

    def rows(self, split: str) -> list[Row]:
        """Read a split.

        Raises:
            ValueError: no such split, an empty one, or a row that cannot be parsed.
            FileNotFoundError: its file does not exist.
        """
        if split not in self.splits:
            raise ValueError(f'task {self.name} has no split {split!r}; it has '
                             f'{", ".join(self.splits) or "none"}')
        source = self.splits[split]
        found = read_rows(source) if not callable(source) else source()
        rows = [row if isinstance(row, Row) else Row(row, f'row {number} of split {split}')
                for number, row in enumerate(found, 1)]
        if not rows:
            place = '' if callable(source) else f' ({source})'
            raise ValueError(f'split {split!r} of task {self.name}{place} is empty: no rows')
        return rows

    def texts(self, split: str) -> Iterator[tuple[str, str]]:
        """Yield (input, target) for each row of a split, in order."""
        for row in self.rows(split):
            yield self.render(row), self.target_text(row)

    def seqio_task(self, vocabulary: Any) -> Any:
        """Build a seqio.Task ("inputs" -> "targets") that is in no registry.

        Args:
            vocabulary: any that `load_vocabulary` gives, or a seqio.Vocabulary.

        Returns:
            A seqio.Task over the same splits; `seqio.TaskRegistry.add_provider(name, task)` makes
            it known by name.
        """
        from jax_prompt.data.seqio_tasks import build_task

        return build_task(self.name, self.texts, tuple(self.splits), vocabulary)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the splits, as a prompt file's metadata holds it."""
        return {name: getattr(self, name) for name in
                ('name', 'inputs_template', 'target', 'labels', 'inputs_length', 'targets_length')}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> 'TextTask':
        """Read what `to_dict` wrote, as a task without splits.

        Raises:
            ValueError: entries that no task has.
        """
        names = [field.name for field in dataclasses.fields(cls)
                 if field.name not in ('splits', 'notes', 'metrics', 'golds')]
        unknown = sorted(set(values) - set(names))
        if unknown or 'name' not in values:
            raise ValueError(f'task entries are {listed(sorted(values))}; expected name and some '
                             f'of {", ".join(names)}')
        return cls(splits={}, **values)


@functools.lru_cache(maxsize=64)
def parse_template(template: str,
                   what: str = 'inputs_template') -> tuple[tuple[str, str | None], ...]:
    """Split a template into (literal, column or None) pairs; a column's name may hold anything.

    Raises:
        ValueError: it cannot be read, or names no column; `what` says which template it is.
    """
    if not isinstance(template, str):
        raise ValueError(f'{what} is {brief(template)}; expected text')
    parts, end = [], 0
    while part := _TEMPLATE_PART.match(template, end):
        parts.append((part['literal'] or (part['brace'] or '')[:1], part['column']))
        end = part.end()
    if end < len(template):
        raise ValueError(f'{what} {brief(template)} cannot be read from '
                         f'{brief(template[end:])} on; name columns as {{column}}, and write '
                         '{{ and }} for braces in the text')
    if all(column is None for _, column in parts):
        raise ValueError(f'{what} {brief(template)} names no column, so all inputs would '
                         "be the same; name one in braces, such as '{text}'")
    return tuple(parts)


def _checked_labels(labels: Any, name: str) -> dict[str, str] | None:
    """Return labels as raw value -> word, or None."""
    if labels is None:
        return None
    if isinstance(labels, str) or not isinstance(labels, Mapping | tuple | list):
        raise ValueError(f'labels of task {name} are {brief(labels)}; expected a mapping from the '
                         'raw value to a word, or the words')
    pairs = labels.items() if isinstance(labels, Mapping) else ((word, word) for word in labels)
    checked = {_plain(raw, 'labels', f'task {name}'): word for raw, word in pairs}
    for raw, word in checked.items():
        if not isinstance(word, str) or not word.strip() or len(word) > _LONGEST_LABEL:
            raise ValueError(f'label {brief(raw)} of task {name} has the word {brief(word)}; '
                             f'expected text of at most {_LONGEST_LABEL} characters')
    if len(set(checked.values())) < 2:
        raise ValueError(f'labels of task {name} are {brief(checked)}; expected at least two '
                         'different words to choose from')
    if len(checked) > _MOST_LABELS:
        raise ValueError(f'task {name} has {len(checked):,} labels; expected at most '
                         f'{_MOST_LABELS:,}, each of which is scored for every row')
    return checked


def column_text(row: Row, column: str) -> str:
    """Return a column of a row as text.

    Raises:
        ValueError: it is not there or holds no text.
    """
    if column not in row.columns:
        raise ValueError(f'column {brief(column)} is not there at {row.where}; the columns there '
                         f'are {listed(row.columns)}')
    return _plain(row.columns[column], column, row.where)


def _texts(row: Row, column: str) -> list[str]:
    """Return a column of a row that may hold several texts in a list."""
    found = row.columns.get(column)
    if not isinstance(found, list):
        return [column_text(row, column)]
    if not found:
        raise ValueError(f'column {brief(column)} at {row.where} is an empty list; expected at '
                         'least one right answer')
    return [_plain(one, column, row.where) for one in found]


def _plain(value: Any, column: str, where: str) -> str:
    """Return text, a number or true/false as text; true and false as JSON writes them."""
    if isinstance(value, bool):
        return 'true' if value else 'false'
    if isinstance(value, str) and (value.isascii() or not _SURROGATE.search(value)):
        return value
    if isinstance(value, int | float) and abs(value) < math.inf:  # neither is NaN
        return str(value)
    if isinstance(value, str):
        what = f'half of a surrogate pair ({_SURROGATE.search(value)[0]!r})'
    elif isinstance(value, tuple):
        what = f'{len(value)} values, since the first line names {len(value)} columns so'
    elif isinstance(value, float):
        what = str(value)
    else:
        what = 'nothing' if value is None else f'a {type(value).__name__}'
    raise ValueError(f'column {brief(column)} at {where} holds {what}; expected text or a number')
