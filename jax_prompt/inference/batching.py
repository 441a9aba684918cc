"""Which rows share a batch, and at which sizes batches run: few, so that few are compiled."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from jax_prompt.inference.decodings import SAMPLING, Decoding
from jax_prompt.inference.rank import LabelSet
from jax_prompt.inference.rows import Row


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Sizes to round up to; each combination that occurs is one compiled program.

    What is larger than the largest runs at that doubled as often as needed, except batches, which
    are split.

    Attributes:
      batch_sizes: B, ascending; the last is the most rows of a batch.
      lengths: S, encoder positions, virtual tokens included.
      labels: (C, L), number of labels and of their tokens, both ascending. Rows whose labels need
        no more than `shared_labels` of these share a batch, others wait for their like: two words
        are not scored at the price of a hundred.
      targets: L, tokens to generate. A row that asks for fewer ends there.
      shared_labels: how many of the smallest `labels` are run together.

    Example:
      >>> Shapes().length(50), Shapes().label_rung(3, 2), Shapes().batch_size(9)
      (64, 1, 32)
    """

    batch_sizes: tuple[int, ...] = (1, 8, 32)
    lengths: tuple[int, ...] = (32, 48, 64, 96, 128, 192, 256, 384, 512)
    labels: tuple[tuple[int, int], ...] = ((2, 2), (4, 4), (8, 4), (16, 8), (64, 8))
    targets: tuple[int, ...] = (8, 32, 128, 512)
    shared_labels: int = 2

    def __post_init__(self):
        for name in ('batch_sizes', 'lengths', 'targets'):
            _check_ascending(name, getattr(self, name))
        if not self.labels:
            raise ValueError('labels of an engine are empty; expected pairs of sizes')
        for number, name in enumerate(('numbers of labels', 'lengths of labels')):
            sizes = [pair[number] for pair in self.labels]
            if sizes != sorted(sizes) or sizes[0] < 1:
                raise ValueError(f'{name} of an engine are {sizes}; expected sizes of at least 1, '
                                 'none smaller than the one before it')

    @classmethod
    def for_batches_of(cls, batch_size: int, **sizes) -> 'Shapes':
        """Return shapes for batches of at most so many rows: powers of four below it, and it.

        Raises:
          ValueError: for a batch size below 1.
        """
        if batch_size < 1:
            raise ValueError(f'batch_size={batch_size}; expected at least 1 row')
        some = [4**power for power in range(1, 8) if 2 * 4**power <= batch_size]
        return cls(batch_sizes=tuple(sorted({1, *some, batch_size})), **sizes)

    @property
    def largest_batch(self) -> int:
        """Return the most rows that a batch can have."""
        return self.batch_sizes[-1]

    def batch_size(self, rows: int) -> int:
        """Return B for so many rows, at most the largest."""
        return next(size for size in self.batch_sizes if size >= rows)

    def length(self, positions: int) -> int:
        """Return S for so many encoder positions."""
        return _round_up(self.lengths, positions)

    def target_length(self, tokens: int) -> int:
        """Return L for so many tokens to generate."""
        return _round_up(self.targets, tokens)

    def label_rung(self, labels: int, length: int) -> int:
        """Return the number of the first pair in `labels` that holds so many of such a length."""
        rung = 0
        while (sizes := self.label_shape(rung))[0] < labels or sizes[1] < length:
            rung += 1
        return rung

    def label_shape(self, rung: int) -> tuple[int, int]:
        """Return (C, L) of a rung; beyond the last given one they double."""
        beyond = max(0, rung - len(self.labels) + 1)
        labels, length = self.labels[min(rung, len(self.labels) - 1)]
        return labels * 2**beyond, length * 2**beyond

    def lengths_up_to(self, positions: int) -> list[int]:
        """Return every S at which inputs of at most so many positions can run."""
        largest = self.length(positions)
        found, size = list(self.lengths), self.lengths[-1]
        while size < largest:
            size *= 2
            found.append(size)
        return [size for size in found if size <= largest]


def _round_up(sizes: Sequence[int], needed: int) -> int:
    """Return the first size that is large enough, or the last one doubled until it is."""
    for size in sizes:
        if size >= needed:
            return size
    while size < needed:
        size *= 2
    return size


def _check_ascending(name: str, sizes: Sequence[int]) -> None:
    if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
        raise ValueError(f'{name} of an engine are {sizes}; expected ascending sizes of at least 1')


@dataclasses.dataclass(frozen=True)
class How:
    """How rows are answered.

    Attributes:
      shapes: at which sizes batches run.
      decodings: names and ways to generate; a row names one of them.
    """

    shapes: Shapes = Shapes()
    decodings: tuple[tuple[str, Decoding], ...] = (('sample', SAMPLING),)

    def decoding(self, name: str) -> Decoding:
        """Return the way to generate of a name."""
        return dict(self.decodings)[name]

    def rank_group(self, labels: LabelSet) -> tuple:
        """Return the group of a row that chooses among labels; small sets of them share one."""
        shared = self.shapes.shared_labels - 1
        return 'rank', max(shared, self.shapes.label_rung(*labels.shape))

    def generation_group(self, max_tokens: int, decoding: str, options: Any = None) -> tuple:
        """Return the group of a row that generates.

        Args:
          max_tokens: to generate at most.
          decoding: its name.
          options: for that decoding; None for its own.

        Raises:
          ValueError: an unknown decoding, options of another one, or no token to generate.
        """
        known = dict(self.decodings)
        if decoding not in known:
            raise ValueError(f'no decoding {decoding!r}; choose one of {", ".join(known)}')
        expected = type(known[decoding].settings)
        if options is not None and not isinstance(options, expected):
            raise ValueError(f'options of decoding {decoding!r} are {options!r}; expected '
                             f'{expected.__name__}')
        if max_tokens < 1:
            raise ValueError(f'max_tokens is {max_tokens}; expected at least 1')
        return 'generate', decoding, self.shapes.target_length(max_tokens)


def in_batches(rows: Sequence[Row], largest: int) -> Iterator[list[int]]:
    """Yield the numbers of the rows of each batch: one group, like lengths, longest first.

    Args:
      rows: of any groups.
      largest: the most rows of a batch.
    """
    order = sorted(range(len(rows)), key=lambda i: (rows[i].group, -len(rows[i].ids), i))
    for _, same in itertools.groupby(order, key=lambda i: rows[i].group):
        numbers = list(same)
        for first in range(0, len(numbers), largest):
            yield numbers[first:first + largest]
