"""Batches that a CPU generates in two parts side by side.

A decoding step is a chain of small products and of reads of the caches. XLA runs them one after the
other, most of them on one core. Two programs with half of the rows each, on threads of their own,
keep two cores busy; and since the longer inputs are in one of them, the other has fewer pads. They
are encoded in chunks of their own kind (`chunks`), which the parts share between them.

Ranking gains nothing: an encoder's products are large enough for all cores.
"""

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jax_prompt.inference.chunks import Chunk, divide, packed_lengths
from jax_prompt.inference.rows import Row
from jax_prompt.inference.shapes import Shapes
from jax_prompt.types import Array

#: (encode() -> inputs of the second, decode(inputs) -> result), each calling a program.
Work = tuple[Callable[[], Any], Callable[[Any], Array]]

#: Batches with room for fewer rows stay whole: each part reads all weights at every step.
_SMALLEST = 16


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


class Parts:
    """Divide batches among threads, where the device is this host's processor."""

    def __init__(self, enabled: bool = True):
        """Find out whether batches are divided here.

        Args:
          enabled: False to leave all batches whole.
        """
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
        divide = enabled and jax.default_backend() == 'cpu' and (cores or 1) > 1
        self._threads = ThreadPoolExecutor(2, 'parts of a batch') if divide else None
        self._lock = threading.Lock()

    def of(self, rows: Sequence[Row], shapes: Shapes) -> list[Part]:
        """Divide a batch, or leave it whole.

        Args:
          rows: of one group.
          shapes: what to round its sizes up to.

        Returns:
          Its parts; each row is in one of them.
        """
        numbers, room = range(len(rows)), shapes.batch_size(len(rows))
        lengths = [len(row.ids) for row in rows]
        if self._threads is None or rows[0].labels is not None or room < _SMALLEST:
            return [Part(tuple(numbers), room, shapes.length(max(lengths)))]
        longest_first = sorted(numbers, key=lambda number: -lengths[number])
        half, chunks = -(-len(rows) // 2), divide(lengths, shapes)
        halves = list(filter(None, (longest_first[:half], longest_first[half:])))
        return [Part(tuple(some), -(-room // 2), shapes.length(lengths[some[0]]),
                     tuple(chunks[number::len(halves)])) for number, some in enumerate(halves)]

    def every(self, rows: Sequence[Row], shapes: Shapes) -> Iterator[list[Part]]:
        """Yield a batch divided for each length that a chunk with such rows may have.

        To compile for all of them: which it is follows from the other rows too.

        Args:
          rows: of one group and of one length.
          shapes: what to round its sizes up to.
        """
        parts = self.of(rows, shapes)
        if parts[0].chunks is None:
            yield parts
            return
        for length in packed_lengths(len(rows[0].ids), shapes):
            yield [dataclasses.replace(part, chunks=tuple(
                Chunk(chunk.rows, length) for chunk in part.chunks)) for part in parts]

    def start(self, works: Sequence[Work], aside: bool) -> list[Callable[[], np.ndarray]]:
        """Start the parts of a batch.

        They encode first, all of them: a part needs what others encode, and one that decoded
        meanwhile would be done long before the others, and cores idle. If one of them cannot
        encode, that is the failure of all.

        Args:
          works: of each part.
          aside: on threads, where there are several parts; else all is called now, which compiles
            what is not compiled, and waits for nothing.

        Returns:
          What waits for the result of each part.
        """
        if len(works) > 1 and aside:
            encoded: list[Future] = [Future() for _ in works]
            with self._lock:  # parts of several batches in turn could wait for each other for ever
                return [self._threads.submit(_work, work, own, encoded).result
                        for work, own in zip(works, encoded, strict=True)]
        inputs = [encode() for encode, _ in works]
        results = [decode(one) for (_, decode), one in zip(works, inputs, strict=True)]
        return [functools.partial(np.asarray, result) for result in results]


def _work(work: Work, own: Future, encoded: Sequence[Future]) -> np.ndarray:
    """Encode, wait for the other parts to have encoded, and decode."""
    encode, decode = work
    try:
        own.set_result(jax.block_until_ready(encode()))
    except BaseException as error:
        own.set_exception(error)
    for one in encoded:
        one.result()
    return np.asarray(decode(own.result()))
