"""What a benchmark's table says of each of its tasks, and how any source's record becomes rows.

TFDS, the Hugging Face hub and the official files tell the same example in different columns. A
definition brings them into one form, TFDS's, so that where an example comes from does not change
what the model reads.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jax_prompt.data.tasks.rows import Row, read_rows
from jax_prompt.files import brief, listed

Columns = Mapping[str, Any]

#: The split of tests whose labels only a leaderboard has.
LEADERBOARD = 'leaderboard'
#: The usual splits: of TFDS and the hub, by the names that they have here.
HIDDEN_TEST = {'train': 'train', 'validation': 'validation', LEADERBOARD: 'test'}
OPEN_TEST = {'train': 'train', 'validation': 'validation', 'test': 'test'}


def as_it_is(record: Columns) -> Iterable[Columns]:
    """Take a record for an example that needs nothing done to it."""
    return (record,)


def same(columns: Columns, split: str) -> Iterable[Columns]:
    """Take an example's columns for what the template shows."""
    del split
    return (columns,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskDefinition:
    """Define a task of a benchmark.

    Attributes:
        name: by which the command, gin and seqio know it.
        template: the input in T5's format, without the task's name.
        prefix: the task's name as T5 puts it in front, space included.
        labels: the words that may be answered; None for free text.
        classes: what the numbers in the column 'label' stand for; the labels unless given.
        values: other spellings in some source -> class.
        target: the column of the answer.
        golds: the column of all right answers; None for the target.
        splits: split -> its name in TFDS and on the hub.
        files: split's name there -> the official files, of which the first that is there is read.
        folders: where, below the data's folder, the official files or those of the hub may stand.
        tfds: of TensorFlow Datasets, 'super_glue/boolq'.
        hub_splits: split -> its name on the hub, where it is not that of TFDS.
        read: reads an official file.
        records: a source's record -> examples in TFDS's columns; of a record that is told so
            already, itself.
        arrange: (example, split) -> rows with T5's texts.
        cuts_validation: there is none; one training text in ten is cut for it.
        metrics: names, the one to choose prompts by first.
        inputs_length, targets_length: the most tokens, end token included.
    """

    name: str
    template: str
    prefix: str = ''
    labels: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)
    target: str = 'label'
    golds: str | None = None
    splits: Mapping[str, str]
    files: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    folders: tuple[str, ...] = ()
    tfds: str | None = None
    hub_splits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    read: Callable[[str], Iterable[Row]] = read_rows
    records: Callable[[Columns], Iterable[Columns]] = as_it_is
    arrange: Callable[[Columns, str], Iterable[Columns]] = same
    cuts_validation: bool = False
    metrics: tuple[str, ...] = ('accuracy',)
    inputs_length: int = 512
    targets_length: int = 8

    def part(self, split: str) -> tuple['TaskDefinition', str]:
        """Return the task that a split's data belongs to, and the split's name there."""
        return self, split

    def rows(self, source: Iterable[Row], split: str) -> Iterator[Row]:
        """Make rows of what a source holds.

        Args:
            source: of any kind, official or not.
            split: one of `splits`.

        Yields:
            Rows with the columns of the template and the target, and whatever else there was.

        Raises:
            ValueError: naming the place, where a record is not one of this task.
        """
        for record in source:
            try:
                examples = [dict(one) for one in self.records(record.columns)]
                for columns in examples:
                    self._name_label(columns)
                arranged = [one for columns in examples for one in self.arrange(columns, split)]
            except (KeyError, TypeError, IndexError, AttributeError) as error:
                raise ValueError(f'{record.where} is no record of {self.name}: {_lacks(error)}; '
                                 f'its columns are {listed(record.columns)}; is it a file of '
                                 'another task?') from error
            except ValueError as error:
                raise ValueError(f'{record.where}: {error}') from error
            yield from (Row(columns, record.where) for columns in arranged)

    def _name_label(self, columns: dict[str, Any]) -> None:
        """Put the class's name in place of its number; take out what says that there is none."""
        classes = self.labels if self.classes is None else self.classes
        value = columns.get('label')
        if value is None or value == '' or value == -1:
            columns.pop('label', None)
        elif classes:
            columns['label'] = self._class(value, classes)

    def _class(self, value: Any, classes: tuple[str, ...]) -> str:
        if value in classes or value in self.values:
            return self.values.get(value, value)
        if isinstance(value, int) or str(value).isdigit():
            if int(value) < len(classes):
                return classes[int(value)]
        raise ValueError(f'label {brief(value)} is none of {self.name}; expected one of '
                         f'{listed(classes)}, or its number from 0; is it a file of another task?')


def _lacks(error: Exception) -> str:
    """Say what a record lacks."""
    if isinstance(error, KeyError):
        return f'it has no {error.args[0]!r}'
    return f'it is built otherwise ({error})'
