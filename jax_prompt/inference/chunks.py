"""What a CPU encodes together of a batch: chunks of a few packed rows, with few pads.

An encoder's time is that of its positions, so pads are what can be saved. Several short inputs in a
packed row, blind to each other, leave fewer of them than one input a row does. Packed rows are no
longer than the longest input, or a few sentences, asks for: beyond that attention would grow, and
inputs are sorted by length instead. All chunks have as many rows, so that only their length makes a
program of its own.
"""

import dataclasses
from collections.abc import Sequence

from jax_prompt.data.packing import spread, with_attention
from jax_prompt.inference.shapes import Shapes

#: Packed rows of a chunk. More would be no quicker: with texts of a sentence these are positions
#: enough for full speed, and two chunks are encoded side by side.
CHUNK_ROWS = 8
#: Packed rows up to this length (or that of the longest input) are worth their attention.
_PACKED_LENGTH, _STEP = 128, 16


@dataclasses.dataclass(frozen=True)
class Chunk:
    """What one call of the encoder encodes.

    Attributes:
      rows: of each packed row the numbers of the batch's rows in it, at most `CHUNK_ROWS`.
      length: S, positions of a packed row.
    """

    rows: tuple[tuple[int, ...], ...]
    length: int

    @property
    def cost(self) -> float:
        """Estimate the work, in positions of a model without attention."""
        return CHUNK_ROWS * with_attention(self.length)


def divide(lengths: Sequence[int], shapes: Shapes) -> list[Chunk]:
    """Divide the inputs of a batch into chunks, in the cheapest of some ways.

    Args:
      lengths: of the inputs, virtual tokens included.
      shapes: of what is longer than packed rows usually are.

    Returns:
      Chunks, each input in one of them; the longest first.
    """
    numbers = range(len(lengths))
    largest = packed_lengths(max(lengths), shapes)[-1]
    ways = [_in_chunks([[number] for number in numbers], lengths, shapes)]
    for count in range(1, len(ways[0])):
        way = _in_chunks(spread(lengths, count * CHUNK_ROWS, len(lengths)), lengths, shapes)
        if way[0].length <= largest:
            ways.append(way)
    return min(ways, key=lambda way: sum(chunk.cost for chunk in way))


def packed_lengths(longest: int, shapes: Shapes) -> list[int]:
    """Return the lengths that a chunk can have which holds an input of such a length.

    Args:
      longest: positions of the longest input.
      shapes: of what is longer than packed rows usually are.
    """
    own = _length(longest, shapes)
    return [own, *range(own + _STEP, _PACKED_LENGTH + 1, _STEP)]


def _in_chunks(rows: Sequence[Sequence[int]], lengths: Sequence[int],
               shapes: Shapes) -> list[Chunk]:
    """Put packed rows of like lengths into the same chunks."""
    filled = sorted(((sum(lengths[number] for number in row), tuple(row)) for row in rows if row),
                    key=lambda one: -one[0])
    return [Chunk(tuple(row for _, row in some), _length(some[0][0], shapes))
            for some in (filled[first:first + CHUNK_ROWS]
                         for first in range(0, len(filled), CHUNK_ROWS))]


def _length(positions: int, shapes: Shapes) -> int:
    """Return S for so many positions of a packed row; what `shapes` begin with at least."""
    positions = max(positions, shapes.lengths[0])
    if positions > _PACKED_LENGTH:
        return shapes.length(positions)
    return max(2 * _STEP, -(-positions // _STEP) * _STEP)
