"""Dynamic batching: requests that come at about the same time share a batch.

A batch starts when there are rows enough to fill it, or when its oldest row has waited as long as
it may; while the device is busy rows gather by themselves, so that batches grow with the load. A
batch that needs a program nobody has compiled yet does not hold up the others.
"""

import collections
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import jax

from jax_prompt.inference.engine import Engine
from jax_prompt.inference.prediction import Prediction
from jax_prompt.inference.rows import Row

_log = logging.getLogger(__name__)

#: Batches that may be on the device or on their way: it works on one while the other is prepared.
#: Where the device is the host's own processor nothing is won by that, and each batch would be
#: chosen from fewer rows.
_UNDER_WAY, _UNDER_WAY_ON_CPU = 2, 1
#: What reading the weights once costs, in positions: so many take as long to compute with them, on
#: two cores of a CPU as well as on a TPU, whose operations a byte are about as many.
_WEIGHTS_COST = 256


class Busy(Exception):
    """The queue is full."""


class Stopped(Exception):
    """No more requests are taken."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Waiting:
    """A row in the queue."""

    row: Row
    answer: Future
    since: float


class Batcher:
    """Answer rows from any threads by batches of an engine.

    Example:
      >>> with Batcher(engine) as batcher:  # doctest: +SKIP
      ...     batcher.submit(engine.row('sst2', 'a film to remember')).result()
    """

    def __init__(self, engine: Engine, max_wait: float = 0.005, max_queue: int = 1024,
                 watch: Callable[[Sequence[Row], float, float], None] | None = None,
                 clock: Callable[[], float] = time.monotonic, under_way: int | None = None):
        """Take an engine; `__enter__` starts the work.

        Args:
          engine: what answers.
          max_wait: seconds that a row may wait for others.
          max_queue: rows that may wait.
          watch: is told of each batch: its rows, the longest wait and the seconds it took.
          clock: seconds that only grow.
          under_way: batches on the device or on their way; None for what suits the device.
        """
        self._engine, self._max_wait, self._max_queue = engine, max_wait, max_queue
        self._watch, self._clock = watch, clock
        self._changed = threading.Condition()
        self._groups: dict[tuple, collections.deque[_Waiting]] = {}
        self._count = self._unanswered = 0
        self._stopping = False
        if under_way is None:
            under_way = _UNDER_WAY_ON_CPU if jax.default_backend() == 'cpu' else _UNDER_WAY
        self._free = threading.Semaphore(under_way)
        self._running: queue.SimpleQueue = queue.SimpleQueue()
        self._cold: queue.SimpleQueue = queue.SimpleQueue()
        self._threads = [threading.Thread(target=work, name=f'batcher {work.__name__}', daemon=True)
                         for work in (self._start_all, self._compile_all, self._finish_all)]

    def __enter__(self) -> 'Batcher':
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def waiting(self) -> int:
        """Return how many rows wait for a batch."""
        return self._count

    @property
    def unanswered(self) -> int:
        """Return how many rows wait or are being worked on."""
        return self._unanswered

    def submit(self, row: Row) -> 'Future[Prediction]':
        """Put a row into the queue; the future can be cancelled until its batch starts.

        Raises:
          Busy: the queue is full.
          Stopped: `stop` was called.
        """
        answer: Future = Future()
        with self._changed:
            if self._stopping:
                raise Stopped('the server is shutting down')
            if self._count >= self._max_queue:
                raise Busy(f'{self._count} requests are waiting; try again later')
            self._groups.setdefault(row.group, collections.deque()).append(
                _Waiting(row, answer, self._clock()))
            self._count += 1
            self._unanswered += 1
            self._changed.notify()
        answer.add_done_callback(self._note_answered)
        return answer

    def stop(self) -> None:
        """Answer what is in the queue, take nothing more, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _note_answered(self, answer: Future) -> None:
        del answer
        with self._changed:
            self._unanswered -= 1

    def _start_all(self) -> None:
        """Start batch after batch, until there is nothing left and `stop` was called."""
        while True:
            self._free.acquire()
            batch = self._next_batch()
            if batch is None:
                self._cold.put(None)
                return
            if self._engine.is_warm([one.row for one in batch]):
                self._start(batch, self._free.release)
            else:  # compiled aside, so that others need not wait
                self._cold.put(batch)
                self._free.release()

    def _compile_all(self) -> None:
        """Start the batches that need a program that is not compiled yet."""
        while (batch := self._cold.get()) is not None:
            self._start(batch, _nothing)
        self._running.put(None)

    def _start(self, batch: list[_Waiting], release: Callable[[], None]) -> None:
        """Start a batch; `release` is called once it is over."""
        began = self._clock()
        try:
            running = self._engine.start([one.row for one in batch])
        except Exception as error:
            _fail(batch, error)
            release()
        else:
            self._running.put((batch, running, began, release))

    def _finish_all(self) -> None:
        """Hand out the answers of batch after batch."""
        while (started := self._running.get()) is not None:
            batch, running, began, release = started
            try:
                answers = running.answers()
            except Exception as error:
                _fail(batch, error)
            else:
                for one, answer in zip(batch, answers, strict=True):
                    one.answer.set_result(answer)
                if self._watch is not None:
                    self._watch([one.row for one in batch], began - batch[0].since,
                                self._clock() - began)
            finally:
                release()

    def _next_batch(self) -> list[_Waiting] | None:
        """Wait for a batch that is due; None at the end."""
        with self._changed:
            while True:
                due, seconds = self._due_group()
                if due is not None:
                    batch = [one for one in self._take(self._groups[due])
                             if one.answer.set_running_or_notify_cancel()]
                    if not self._groups[due]:
                        del self._groups[due]
                    if batch:
                        return batch
                elif self._stopping and not self._groups:
                    return None
                else:
                    self._changed.wait(seconds)

    def _due_group(self) -> tuple[tuple | None, float | None]:
        """Return the group to run now, or how long to wait for one."""
        now, first, wait = self._clock(), None, None
        for group, waiting in self._groups.items():
            left = self._max_wait - (now - waiting[0].since)
            if left <= 0 or len(waiting) >= self._engine.shapes.largest_batch or self._stopping:
                if first is None or waiting[0].since < self._groups[first][0].since:
                    first = group
            else:
                wait = left if wait is None else min(wait, left)
        return first, wait

    def _take(self, waiting: collections.deque[_Waiting]) -> list[_Waiting]:
        """Take a batch out of a group: its oldest row, and those that go best with it.

        A batch costs the positions of its rows, fillers included, and the weights once for each
        pass over them. A row is worth what it would cost in a full batch of its like. Of the
        batches that hold the oldest row the one is taken that is worth the most for its cost.
        """
        shapes, weights = self._engine.shapes, _WEIGHTS_COST * waiting[0].row.passes
        lengths = [shapes.length(len(one.row.ids)) for one in waiting]
        worth = [length + weights / shapes.largest_batch for length in lengths]
        best, chosen = 0.0, set()
        for length in sorted({length for length in lengths if length >= lengths[0]}):
            # The longest that fit waste least; of equals, those that have waited longer.
            others = sorted((number for number in range(1, len(lengths))
                             if lengths[number] <= length), key=lambda number: -lengths[number])
            for size in shapes.batch_sizes:
                rows = [0, *others][:size]
                rate = sum(worth[number] for number in rows) / (weights + size * length)
                if rate > best:
                    best, chosen = rate, set(rows)
        batch, rest = [], []
        for number, one in enumerate(waiting):
            (batch if number in chosen else rest).append(one)
        waiting.clear()
        waiting.extend(rest)
        self._count -= len(batch)
        return batch


def _nothing() -> None:
    """Hold nothing, release nothing."""


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    """Hand an error out instead of answers."""
    _log.error('a batch of %d rows failed', len(batch), exc_info=error)
    for one in batch:
        one.answer.set_exception(error)
