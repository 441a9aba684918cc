"""Batches that a CPU generates in two parts side by side.

A decoding step is a chain of small products and of reads of the caches. XLA runs them one after the
other, most of them on one core. Two programs with half of the rows each, on threads of their own,
keep two cores busy; and since the longer inputs are in one of them, the other has fewer pads. What
is encoded together can be fewer rows still, of like lengths.

Ranking gains nothing: an encoder's products are large enough for all cores.
"""

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jax_prompt.inference.rows import Row
from jax_prompt.inference.shapes import Shapes
from jax_prompt.types import Array

#: (encode() -> inputs of the second, decode(inputs) -> result), each calling a program.
Work = tuple[Callable[[], Any], Callable[[Any], Array]]

#: Batches with room for fewer rows stay whole: each part reads all weights at every step.
_SMALLEST = 16
#: Rows that are encoded together, with as many pads as the longest of them asks for. More would be
#: no quicker: with texts of a sentence these are positions enough for full speed.
_CHUNK = 8


@dataclasses.dataclass(frozen=True)
class Part:
    """What one program runs of a batch.

    Attributes:
      numbers: of its rows.
      batch: B, the rows that there is room for.
      length: S, the positions that there is room for.
      chunks: what is encoded together, where that is not the whole: (how many of the rows, in their
        order, room for positions).
      chunk_batch: the rows that there is room for in a chunk.
    """

    numbers: tuple[int, ...]
    batch: int
    length: int
    chunks: tuple[tuple[int, int], ...] = ()
    chunk_batch: int = 0


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
        half, parts = -(-len(rows) // 2), []
        for some in filter(None, (longest_first[:half], longest_first[half:])):
            chunks = [some[first:first + _CHUNK] for first in range(0, len(some), _CHUNK)]
            sizes = tuple((len(chunk), shapes.length(lengths[chunk[0]])) for chunk in chunks)
            parts.append(Part(tuple(some), -(-room // 2), sizes[0][1], sizes, _CHUNK))
        return parts

    def start(self, works: Sequence[Work], aside: bool) -> list[Callable[[], np.ndarray]]:
        """Start the parts of a batch.

        They encode first, all of them: a part that decoded meanwhile would be done long before the
        others, and cores idle.

        Args:
          works: of each part.
          aside: on threads, where there are several parts; else all is called now, which compiles
            what is not compiled, and waits for nothing.

        Returns:
          What waits for the result of each part.
        """
        if len(works) > 1 and aside:
            encoded = [threading.Event() for _ in works]
            with self._lock:  # parts of several batches in turn could wait for each other for ever
                return [self._threads.submit(_work, work, own, encoded).result
                        for work, own in zip(works, encoded, strict=True)]
        results = [decode(encode()) for encode, decode in works]
        return [functools.partial(np.asarray, result) for result in results]


def _work(work: Work, own: threading.Event, encoded: Sequence[threading.Event]) -> np.ndarray:
    """Encode, wait for the other parts to have encoded, and decode."""
    encode, decode = work
    try:
        inputs = jax.block_until_ready(encode())
    finally:
        own.set()
    for event in encoded:
        event.wait()
    return np.asarray(decode(inputs))
