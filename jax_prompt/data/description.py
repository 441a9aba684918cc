"""What a task's data is like before anything is trained on it: sizes, balance, lengths, examples.
"""

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_prompt.data.examples import load_examples
from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.tasks.rows import Row
from jax_prompt.prompts.layout import Layout

#: Shares of the texts that are no longer than a length.
PERCENTILES = (50, 90, 99, 100)
#: Texts of a split that are tokenized, evenly spread: percentiles need no more.
_TOKENIZED = 20_000


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How long texts are.

    Attributes:
        percentiles: as `PERCENTILES` has them, end token included.
        limit: the task's length, None without a tokenizer.
        cut: the share of texts that are longer and so are cut.
    """

    percentiles: tuple[int, ...]
    limit: int | None = None
    cut: float = 0.0


@dataclasses.dataclass(frozen=True)
class SplitDescription:
    """What a split is like.

    Attributes:
        size: examples; of a registered task, which may be endless, as many as are tokenized.
        targets: target -> how often it occurs, the most common first.
        inputs, outputs: lengths of inputs and targets.
    """

    size: int
    targets: Mapping[str, int]
    inputs: Lengths
    outputs: Lengths


@dataclasses.dataclass(frozen=True)
class RenderedExample:
    """An example as the model reads it.

    Attributes:
        where: its place in the source.
        input, target: with end tokens and, in brackets, virtual tokens; the plain texts without a
            tokenizer.
        cut: whether the input lost its end.
    """

    where: str
    input: str
    target: str
    cut: bool = False


def describe_split(task: Any, split: str, vocabulary: Any = None) -> SplitDescription:
    """Describe a split.

    Args:
        task: a `TextTask` or `RegisteredTask`.
        split: which split of it.
        vocabulary: the model's, which counts lengths in tokens; None for words between spaces, of
            a `TextTask`.

    Raises:
        ValueError: as `load_examples` does, or a registered task without a vocabulary.
    """
    if vocabulary is None:
        rows = _plain_rows(task, split)
        lengths = [np.array([len(text.split()) for text in texts])
                   for texts in (map(task.render, rows), map(task.target_text, rows))]
        limits = (None, None)
    else:
        some = load_examples(task, split, vocabulary, _TOKENIZED)
        rows = task.rows(split) if hasattr(task, 'rows') else some.rows
        lengths = [part.lengths + 1 for part in (some.inputs, some.targets)]
        limits = (task.inputs_length, task.targets_length)
    counts = collections.Counter(map(task.target_text, rows))
    return SplitDescription(len(rows), dict(counts.most_common()),
                            *(_lengths(*pair) for pair in zip(lengths, limits, strict=True)))


def render_examples(task: Any, split: str, count: int, vocabulary: Any = None,
                    layout: Layout | None = None, num_rows: int = 0) -> list[RenderedExample]:
    """Return examples as the model reads them, evenly spread over a split.

    Args:
        task: a `TextTask` or `RegisteredTask`.
        split: which split of it.
        count: how many at most.
        vocabulary: the model's; None for the texts as they are, of a `TextTask`.
        layout: where the virtual tokens stand; None for before the text.
        num_rows: P, virtual tokens.

    Raises:
        ValueError: as `load_examples` does, or an input lacks the layout's marker.
    """
    if vocabulary is None:
        rows = _plain_rows(task, split)
        chosen = [rows[number * len(rows) // count] for number in range(min(count, len(rows)))]
        return [RenderedExample(row.where, task.render(row), task.target_text(row))
                for row in chosen]
    layout = layout or Layout()
    marker = vocabulary.token_id(layout.marker) if layout.placement == 'marker' else None
    converter = FeatureConverter(
        layout=layout, num_rows=num_rows, vocab_size=vocabulary.vocab_size,
        inputs_length=task.inputs_length, targets_length=task.targets_length,
        eos_id=vocabulary.eos_id, marker_id=marker,
        ends_inputs=getattr(vocabulary, 'ends_inputs', True))
    some, made = load_examples(task, split, vocabulary, count), []
    for number, row in enumerate(some.rows):
        try:
            ids, cut = converter.input_ids(some.inputs[number])
        except ValueError as error:
            raise ValueError(f'{row.where}: {error}') from None
        target = converter.target_ids(some.targets[number])[0]
        made.append(RenderedExample(row.where, _marked(ids, vocabulary),
                                    _marked(target, vocabulary), cut))
    return made


def _plain_rows(task: Any, split: str) -> list[Row]:
    if not hasattr(task, 'render'):
        raise ValueError(f'task {task.name} of seqio needs a tokenizer to show what it gives; name '
                         'a model with --model=SOURCE')
    return task.rows(split)


def _lengths(lengths_N: np.ndarray, limit: int | None) -> Lengths:
    """Describe lengths, int[N]."""
    # Of the texts themselves: no length between two of them.
    found = np.percentile(lengths_N, PERCENTILES, method='higher').astype(int).tolist()
    return Lengths(tuple(found), limit,
                   0.0 if limit is None else float(np.mean(lengths_N > limit)))


def _marked(ids: Sequence[int], vocabulary: Any) -> str:
    """Write ids as text, with runs of virtual tokens and the end token in brackets."""
    size, parts = vocabulary.vocab_size, []

    def kind(index: int) -> str:
        return 'virtual' if index >= size else 'end' if index == vocabulary.eos_id else 'text'

    for what, found in itertools.groupby(map(int, ids), kind):
        run = list(found)
        if what == 'text':
            parts.append(vocabulary.decode(run))
        elif what == 'end':
            parts.append('[end]')
        else:
            first, last = run[0] - size + 1, run[-1] - size + 1
            parts.append(f'[virtual {first}-{last}]' if last > first else f'[virtual {first}]')
    return ' '.join(parts)
