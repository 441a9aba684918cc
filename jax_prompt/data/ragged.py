"""Sequences of unequal length as one flat array and offsets."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """Hold many integer sequences in two arrays; a list of arrays costs 100 bytes a sequence more.

    Attributes:
        flat: int32[total], all the sequences end to end.
        offsets: int64[N + 1]; sequence i is `flat[offsets[i]:offsets[i + 1]]`.

    Example:
        >>> Ragged.from_sequences([[5, 6], [7]]).padded([1, 0], 3, fill=0).tolist()
        [[7, 0, 0], [5, 6, 0]]
    """

    flat: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_sequences(cls, sequences: Iterable[Sequence[int]]) -> 'Ragged':
        """Join sequences of integers."""
        arrays = [np.asarray(sequence, np.int32) for sequence in sequences]
        lengths = np.fromiter((len(array) for array in arrays), np.int64, len(arrays))
        flat = np.concatenate(arrays) if arrays else np.zeros(0, np.int32)
        return cls(flat, np.concatenate([[0], np.cumsum(lengths)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(f'sequence {index} of {len(self)}')
        return self.flat[self.offsets[index]:self.offsets[index + 1]]

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Return int64[N], the length of each sequence."""
        return np.diff(self.offsets)

    def padded(self, rows: Sequence[int], length: int, fill: int) -> np.ndarray:
        """Gather sequences into a rectangle.

        Args:
            rows: int[B], which sequences.
            length: columns of the result, at least the longest of these sequences.
            fill: what stands behind the end of a sequence.

        Returns:
            int32[B, length].
        """
        rows = np.asarray(rows)
        lengths = self.lengths[rows]
        assert lengths.max(initial=0) <= length, (lengths.max(initial=0), length)
        columns = np.arange(length)
        inside = columns < lengths[:, None]
        out = np.full((len(rows), length), fill, np.int32)
        out[inside] = self.flat[(self.offsets[rows][:, None] + columns)[inside]]
        return out
