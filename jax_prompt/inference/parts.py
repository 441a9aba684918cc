"""Batches that a CPU answers in two parts side by side, encoded in chunks of packed rows.

A decoding step is a chain of small products and of reads of the caches. XLA runs them one after the
other, most of them on one core. Two programs with half of the rows each, on threads of their own,
keep two cores busy; and since the longer inputs are in one of them, the other has fewer pads.

The parts share what they encode. An encoder's time is that of its positions, so pads are what can
be saved: several short inputs in a packed row, blind to each other, leave fewer of them than one
input a row does. Packed rows are no longer than the longest input, or a few sentences, asks for:
beyond that attention would grow, and inputs are sorted by length instead. All chunks have as many
rows, so that only their length makes a program of its own.

Elsewhere a batch is one `Part`, which encodes its own rows.
"""

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jax_prompt.data.packing import spread, with_attention
from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.rows import Row
from jax_prompt.models.base import Model
from jax_prompt.parallel.hosts import fetch
from jax_prompt.types import Array

#: (encode() -> inputs of the second, decode(inputs) -> results), each calling programs.
Work = tuple[Callable[[], Any], Callable[[Any], tuple[Array, ...]]]
#: dtype[..., S, D], the encoder's outputs, and bool[..., S], where there is a token.
Encoded = tuple[np.ndarray, np.ndarray]

#: Batches with room for fewer rows stay whole: each part reads all weights at every step.
_SMALLEST = 16
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


@dataclasses.dataclass(frozen=True)
class Part:
    """What one program runs of a batch.

    Attributes:
      numbers: of its rows.
      batch: B, the rows that there is room for.
      length: S, the positions that there is room for.
      chunks: what its thread encodes, rows of other parts among them; None for its own rows as
        they are.
    """

    numbers: tuple[int, ...]
    batch: int
    length: int
    chunks: tuple[Chunk, ...] | None = None


#: Both parts of a batch have a thread; those of several batches take their turns.
_THREADS, _IN_TURN = ThreadPoolExecutor(2, 'parts of a batch'), threading.Lock()


def divide(rows: Sequence[Row], shapes: Shapes, whole: bool = False) -> list[Part]:
    """Divide a batch, where the device is this host's processor and has cores for it.

    Args:
      rows: of one group.
      shapes: what to round its sizes up to.
      whole: leave it whole anyway.

    Returns:
      Its parts; each row is in one of them.
    """
    numbers, room = range(len(rows)), shapes.batch_size(len(rows))
    lengths = [len(row.ids) for row in rows]
    # Packed rows of a chunk would share a prefix.
    whole = whole or any(row.prefix for row in rows)
    if whole or room < _SMALLEST or not _has_cores():
        return [Part(tuple(numbers), room, shapes.length(max(lengths)))]
    longest_first = sorted(numbers, key=lambda number: -lengths[number])
    half, chunks = -(-len(rows) // 2), chunks_of(lengths, shapes)
    halves = list(filter(None, (longest_first[:half], longest_first[half:])))
    return [Part(tuple(some), -(-room // 2), shapes.length(lengths[some[0]]),
                 tuple(chunks[number::len(halves)])) for number, some in enumerate(halves)]


def every_division(rows: Sequence[Row], shapes: Shapes,
                   whole: bool = False) -> Iterator[list[Part]]:
    """Yield a batch divided for each length that a chunk with such rows may have.

    To compile for all of them: which it is follows from the other rows too.

    Args:
      rows: of one group and of one length.
      shapes: what to round its sizes up to.
      whole: leave it whole anyway.
    """
    parts = divide(rows, shapes, whole)
    if parts[0].chunks is None:
        yield parts
        return
    for length in packed_lengths(len(rows[0].ids), shapes):
        yield [dataclasses.replace(part, chunks=tuple(
            Chunk(chunk.rows, length) for chunk in part.chunks)) for part in parts]


def start(works: Sequence[Work], aside: bool) -> list[Callable[[], tuple[np.ndarray, ...]]]:
    """Start the parts of a batch.

    They encode first, all of them: a part needs what others encode, and one that decoded
    meanwhile would be done long before the others, and cores idle. If one of them cannot
    encode, that is the failure of all.

    Args:
      works: of each part.
      aside: on threads, where there are several parts; else all is called now, which compiles
        what is not compiled, and waits for nothing.

    Returns:
      What waits for the results of each part.
    """
    if len(works) > 1 and aside:
        encoded: list[Future] = [Future() for _ in works]
        with _IN_TURN:  # parts of several batches mixed could wait for each other for ever
            return [_THREADS.submit(_work, work, own, encoded).result
                    for work, own in zip(works, encoded, strict=True)]
    inputs = [encode() for encode, _ in works]
    results = [decode(one) for (_, decode), one in zip(works, inputs, strict=True)]
    return [functools.partial(_fetched, one) for one in results]


def encode_chunks(encode: Callable[..., tuple[Array, Array]], batch: Sequence[Row],
                  chunks: Sequence[Chunk], pad_id: int) -> dict[int, Encoded]:
    """Encode chunks and take them apart, on the host: it is the device.

    What is not finite spreads over a packed row, masked or not; then each of its inputs is
    encoded in a row of its own.

    Args:
      encode: (ids_CS, segment_ids_BS=...) -> the encoder's outputs and mask.
      batch: rows, whose numbers the chunks have.
      chunks: of these rows.
      pad_id: fills what has no token.

    Returns:
      The number of a row -> its outputs.
    """
    encoded: dict[int, Encoded] = {}
    for chunk in chunks:
        ids_CS, segment_ids_CS = _packed(batch, chunk, pad_id)
        outputs, alone = encode(ids_CS, segment_ids_BS=segment_ids_CS), []
        for numbers, row_SD, mask_S in zip(chunk.rows, *map(np.asarray, outputs), strict=False):
            if len(numbers) > 1 and not np.isfinite(row_SD).all():
                alone += numbers
            first = 0
            for number in numbers:
                last = first + len(batch[number].ids)
                encoded[number] = row_SD[first:last], mask_S[first:last]
                first = last
        again = [Chunk(tuple((number,) for number in alone[some:some + CHUNK_ROWS]), chunk.length)
                 for some in range(0, len(alone), CHUNK_ROWS)]
        encoded |= encode_chunks(encode, batch, again, pad_id)
    return encoded


def taken(part: Part, encoded: Mapping[int, Encoded], model: Model) -> Encoded:
    """Return what a part decodes from, dtype[B, S, D] and bool[B, S].

    Args:
      part: whose rows are wanted.
      encoded: from `encode_chunks`, of all parts.
      model: whose outputs they are.
    """
    encoded_BSD = np.zeros((part.batch, part.length, model.d_model), model.dtype)
    mask_BS = np.zeros((part.batch, part.length), bool)
    for row, number in enumerate(part.numbers):
        row_SD, mask_S = encoded[number]
        encoded_BSD[row, :len(mask_S)], mask_BS[row, :len(mask_S)] = row_SD, mask_S
    return encoded_BSD, mask_BS


def chunks_of(lengths: Sequence[int], shapes: Shapes) -> list[Chunk]:
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


def _has_cores() -> bool:
    """Say whether the device is this host's processor and two programs can run side by side."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return jax.default_backend() == 'cpu' and (cores or 1) > 1


def _fetched(results: tuple[Array, ...]) -> tuple[np.ndarray, ...]:
    return tuple(fetch(result) for result in results)


def _work(work: Work, own: Future, encoded: Sequence[Future]) -> tuple[np.ndarray, ...]:
    """Encode, wait for the other parts to have encoded, and decode."""
    encode, decode = work
    try:
        own.set_result(jax.block_until_ready(encode()))
    except BaseException as error:
        own.set_exception(error)
    for one in encoded:
        one.result()
    return _fetched(decode(own.result()))


def _packed(batch: Sequence[Row], chunk: Chunk, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids int32[C, S] of packed rows, and which segment each position belongs to."""
    shape = CHUNK_ROWS, chunk.length
    ids_CS, segment_ids_CS = np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32)
    for row, numbers in enumerate(chunk.rows):
        first = 0
        for segment, number in enumerate(numbers, 1):
            last = first + len(batch[number].ids)
            ids_CS[row, first:last] = batch[number].ids
            segment_ids_CS[row, first:last] = segment
            first = last
    return ids_CS, segment_ids_CS
