"""Examples: a split of a task, tokenized and in memory."""

import dataclasses
import hashlib
import itertools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_prompt.data.ragged import Ragged
from jax_prompt.data.tasks.files import looks
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.data.vocabularies import encode_batch
from jax_prompt.files import brief, listed

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Hold tokenized examples in the order of their source.

    Attributes:
        name: task and split, for messages: 'imdb validation'.
        inputs: N inputs without end token or virtual tokens.
        targets: N targets without end token; empty ones where nothing is known (prediction).
        labels: int32[N], the index of each target among the task's label words; None for free text.
        rows: the N rows that they were made of, with whatever a metric needs; none for prediction.
    """

    name: str
    inputs: Ragged
    targets: Ragged
    labels: np.ndarray | None = None
    rows: Sequence[Row] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def digest(self) -> str:
        """Return what tells these examples, in this order, from any others: a BLAKE2 in hex."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.inputs, self.targets):
            digest.update(np.ascontiguousarray(part.lengths, '<i8').tobytes())
            digest.update(np.ascontiguousarray(part.flat, '<i4').tobytes())
        return digest.hexdigest()


def load_examples(task: TextTask | RegisteredTask, split: str, vocabulary: Any,
                  limit: int | None = None) -> Examples:
    """Read and tokenize a split.

    A `TextTask` is tokenized in one batch on all cores, without TensorFlow; the ids are those of
    its seqio task. A registered seqio task runs through its own preprocessors. What the vocabulary
    cannot write is told in the log, with a count.

    Args:
        task: where the text comes from.
        split: which split of it.
        vocabulary: the model's.
        limit: at most so many examples: spread evenly over a text task's split, which may be sorted
            by label; the first ones of a registered task, which may be endless.

    Returns:
        The examples, in the order of the source.

    Raises:
        ValueError: no such split, an empty split, a row without a column of the template, a label
            outside the verbalizer.
        FileNotFoundError: a file of the task does not exist.
    """
    if limit is not None and limit < 1:
        raise ValueError(f'limit of examples is {limit}; expected at least 1, or none')
    name = f'{task.name} {split}'
    if isinstance(task, RegisteredTask):
        return _from_seqio(task, split, vocabulary, limit)
    read = [(row, task.render(row), task.target_text(row)) for row in task.rows(split)]
    rows, texts, targets = zip(*_spread(read, limit), strict=True)
    labels = None
    if task.label_words is not None:
        index = {word: i for i, word in enumerate(task.label_words)}
        labels = np.array([index[target] for target in targets], np.int32)
    places = [row.where for row in rows]
    tokens = {'inputs': encode_batch(vocabulary, texts),
              'targets': _encode_repeated(vocabulary, targets)}
    _tell_unwritable(f'inputs of {name}', texts, tokens['inputs'], places, vocabulary)
    _tell_unwritable(f'targets of {name}', targets, tokens['targets'], places, vocabulary,
                     generated=labels is None)
    return Examples(name, *map(Ragged.from_sequences, tokens.values()), labels, rows)


def encode_labels(task: TextTask | RegisteredTask, vocabulary: Any) -> Ragged:
    """Tokenize a task's label words, in their order and without end tokens, for ranking.

    Raises:
        ValueError: the task has no labels, or the vocabulary cannot tell two of them apart.
    """
    if task.label_words is None:
        raise ValueError(f'task {task.name} has no labels to rank; it is free text')
    tokens = encode_batch(vocabulary, task.label_words)
    for (word, ids), (other, other_ids) in itertools.combinations(
            zip(task.label_words, tokens, strict=True), 2):
        if list(ids) == list(other_ids):
            shown = ascii if looks(word) == looks(other) else brief
            raise ValueError(f'labels {shown(word)} and {shown(other)} of task {task.name} have '
                             f'the same tokens {list(ids)}; choose words that the vocabulary tells '
                             'apart')
    return Ragged.from_sequences(tokens)


def _spread(rows: list, limit: int | None) -> list:
    """Take so many of the rows, evenly spread."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[i * len(rows) // limit] for i in range(limit)]


def _encode_repeated(vocabulary: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize texts of which many are the same."""
    different = list(dict.fromkeys(texts))
    tokens = dict(zip(different, encode_batch(vocabulary, different), strict=True))
    return [tokens[text] for text in texts]


def _tell_unwritable(what: str, texts: Sequence[str], tokens: Sequence[Sequence[int]],
                     places: Sequence[str], vocabulary: Any, generated: bool = False) -> None:
    """Say in the log how many texts lose something on their way through the vocabulary.

    Of texts that are read, that is what becomes the unknown token, and line feeds that vanish; that
    the rest is brought into one form, spaces say, is meant. A generated text must be the same.
    """
    def written(ids: Sequence[int]) -> str:
        return vocabulary.decode([int(index) for index in ids]).strip()

    if generated:
        lost = [row for row, (text, ids) in enumerate(zip(texts, tokens, strict=True))
                if written(ids) != text.strip()]
    else:
        keeps_lines = '\n' in written(vocabulary.encode('a\na'))
        lost = [row for row, (text, ids) in enumerate(zip(texts, tokens, strict=True))
                if vocabulary.unk_id in ids or not keeps_lines and '\n' in text.strip()]
    if lost:
        text, found = texts[lost[0]].strip(), written(tokens[lost[0]])
        first = max(0, len(os.path.commonprefix([text, found])) - 10)
        shown = slice(first, first + 30)
        _log.warning(
            '%d of %d %s cannot be written by the vocabulary: %r at %s becomes %r. %s', len(lost),
            len(texts), what, text[shown], places[lost[0]], found[shown],
            'No generated text can equal them' if generated else 'The model sees no more of them')


def _from_seqio(task: RegisteredTask, split: str, vocabulary: Any, limit: int | None) -> Examples:
    """Run a registered task's preprocessors, untrimmed and in order."""
    seqio_task = task.seqio_task(vocabulary)
    if split not in seqio_task.splits:
        raise ValueError(f'seqio task {task.name} has no split {split!r}; it has '
                         f'{", ".join(seqio_task.splits)}')
    dataset = seqio_task.get_dataset(None, split=split, shuffle=False, try_in_mem_cache=False)
    found = list(dataset.take(-1 if limit is None else limit).as_numpy_iterator())
    if not found:
        raise ValueError(f'split {split!r} of seqio task {task.name} is empty: no examples')
    inputs, targets = (_without_end((example[key] for example in found), vocabulary.eos_id)
                       for key in ('inputs', 'targets'))
    labels = _label_indices(task, targets, vocabulary)
    rows = []
    for number, example in enumerate(found):
        columns = _plain(example)
        columns['targets'] = (task.labels[labels[number]] if labels is not None else
                              _raw_target(columns, targets[number], vocabulary))
        rows.append(Row(columns, f'example {number + 1} of seqio task {task.name}'))
    places = [row.where for row in rows]
    for key, tokens in (('inputs', inputs), ('targets', targets)):
        texts = [str(row.columns.get(f'{key}_pretokenized', '')) for row in rows]
        _tell_unwritable(f'{key} of {task.name} {split}', texts, tokens, places, vocabulary)
    return Examples(f'{task.name} {split}', inputs, targets, labels, rows)


def _raw_target(columns: Mapping[str, Any], tokens: np.ndarray, vocabulary: Any) -> str:
    """Return a target as it was before it was tokenized, where that can be known.

    What tokenizing took from it, prediction cannot write either: compared with the text that is
    left, a wrong answer would be right.
    """
    raw = columns.get('targets_pretokenized')
    if isinstance(raw, str) and list(vocabulary.encode(raw)) == tokens.tolist():
        return raw
    return vocabulary.decode(tokens.tolist())


def _plain(example: Mapping[str, Any]) -> dict[str, Any]:
    """Return a seqio example's columns as Python's own text, numbers and lists."""
    columns = {name: np.asarray(value).tolist() for name, value in example.items()}
    return {name: value.decode(errors='replace') if isinstance(value, bytes) else value
            for name, value in columns.items()}


def _without_end(sequences: Iterable[np.ndarray], eos_id: int) -> Ragged:
    """Take off the end token that the task may have added."""
    return Ragged.from_sequences(
        ids[:-1] if len(ids) and ids[-1] == eos_id else ids for ids in sequences)


def _label_indices(task: RegisteredTask, targets: Ragged, vocabulary: Any) -> np.ndarray | None:
    """Find the label whose tokens each target is."""
    if task.labels is None:
        return None
    labels = encode_labels(task, vocabulary)
    index = {labels[i].tobytes(): i for i in range(len(labels))}
    for row in range(len(targets)):
        if targets[row].tobytes() not in index:
            raise ValueError(
                f'target {vocabulary.decode(targets[row].tolist())!r} of example {row + 1} of '
                f'seqio task {task.name} is not one of its labels: '
                f'{listed(task.labels)}; mend labels or leave them out')
    return np.array([index[targets[row].tobytes()] for row in range(len(targets))], np.int32)
