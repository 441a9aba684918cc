"""Dynamic batching: requests that come at about the same time share a batch.

A batch starts when there are rows enough to fill it, or when its oldest row has waited as long as
it may; while the device is busy rows gather by themselves, so that batches grow with the load. Rows
that need a program nobody has compiled yet wait aside and do not hold up the others.
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
from jax_prompt.serving.choosing import choose_rows

_log = logging.getLogger(__name__)

#: Batches that may be on the device or on their way: it works on one while the other is prepared.
#: Where the device is the host's own processor nothing is won by that, and each batch would be
#: chosen from fewer rows.
_UNDER_WAY, _UNDER_WAY_ON_CPU = 2, 1
#: Seconds that every row counts as having waited, so that those of this moment compare too.
_AT_LEAST = 0.001


class Busy(Exception):
    """The queue is full."""


class Stopped(Exception):
    """No more requests are taken."""


class BatchFailed(RuntimeError):
    """The engine failed on a batch; `__cause__` says how, and so does the log."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Waiting:
    """A row in the queue."""

    row: Row
    answer: Future
    since: float


#: Rows that wait, by group, the oldest first; no group is empty.
_Groups = dict[tuple, collections.deque[_Waiting]]


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
        lock = threading.RLock()
        self._changed, self._cold_changed = threading.Condition(lock), threading.Condition(lock)
        self._groups: _Groups = {}
        # Rows found to need a program that is not compiled. They wait like the others: they count,
        # and can be cancelled.
        self._cold: _Groups = {}
        self._unanswered = 0
        self._stopping = self._compiling = self._ended = False
        if under_way is None:
            under_way = _UNDER_WAY_ON_CPU if jax.default_backend() == 'cpu' else _UNDER_WAY
        self._free = threading.Semaphore(under_way)
        self._running: queue.SimpleQueue = queue.SimpleQueue()
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
        """Return how many rows wait for a batch, or for a program."""
        with self._changed:
            return sum(len(some) for groups in (self._groups, self._cold)
                       for some in groups.values())

    @property
    def unanswered(self) -> int:
        """Return how many rows wait or are being worked on."""
        return self._unanswered

    def submit(self, row: Row) -> 'Future[Prediction]':
        """Put a row into the queue.

        Args:
          row: of the engine.

        Returns:
          Its answer to be, which can be cancelled until its batch starts. It raises ValueError
          where the row has none, see `Running.outcomes`, and BatchFailed where the engine failed.

        Raises:
          Busy: the queue is full.
          Stopped: `stop` was called.
        """
        one = _Waiting(row, Future(), self._clock())
        with self._changed:
            if self._stopping:
                raise Stopped('the server is shutting down')
            if (waiting := self.waiting) >= self._max_queue:
                raise Busy(f'{waiting} requests are waiting; try again later')
            self._groups.setdefault(row.group, collections.deque()).append(one)
            self._unanswered += 1
            self._changed.notify()
        one.answer.add_done_callback(lambda _: self._note_answered(one))
        return one.answer

    def stop(self) -> None:
        """Answer what is in the queue, take nothing more, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _note_answered(self, one: _Waiting) -> None:
        """Forget a row that was answered, or cancelled: then it waits no longer."""
        with self._changed:
            self._unanswered -= 1
            if one.answer.cancelled():
                for groups in (self._groups, self._cold):
                    if one in groups.get(one.row.group, ()):
                        _take(groups, one.row.group, [one])
                self._changed.notify()

    def _start_all(self) -> None:
        """Start batch after batch, until there is nothing left and `stop` was called."""
        while True:
            self._free.acquire()
            batch = self._next_batch()
            if batch is None:
                return
            self._start(batch, self._free.release)

    def _compile_all(self) -> None:
        """Start the batches that need a program that is not compiled yet."""
        while (batch := self._next_cold_batch()) is not None:
            self._start(batch, _nothing)
            with self._changed:
                # What else waits aside may need no further program: let the batches be made anew.
                for group, rows in self._cold.items():
                    _put(self._groups, group, rows)
                self._cold.clear()
                self._compiling = False
                self._changed.notify()
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
                for one, outcome in zip(batch, running.outcomes(), strict=True):
                    _answer(one, outcome)
            except Exception as error:
                _fail(batch, error)
            else:
                self._tell(batch, began)
            finally:
                release()

    def _tell(self, batch: Sequence[_Waiting], began: float) -> None:
        """Tell whoever watches of a batch; their failures are theirs."""
        if self._watch is None:
            return
        try:
            self._watch([one.row for one in batch], began - batch[0].since, self._clock() - began)
        except Exception:
            _log.exception('a batch of %d rows could not be noted', len(batch))

    def _next_batch(self) -> list[_Waiting] | None:
        """Wait for a batch that is due and can start; None at the end."""
        with self._changed:
            while True:
                due, batch, seconds = self._due_batch()
                if due is not None:
                    if self._is_warm(batch):
                        if batch := _begin(self._groups, due, batch):
                            return batch
                    else:  # compiled aside, so that others need not wait
                        _take(self._groups, due, batch)
                        _put(self._cold, due, batch)
                        self._cold_changed.notify()
                elif self._stopping and not (self._groups or self._cold or self._compiling):
                    self._ended = True
                    self._cold_changed.notify()
                    return None
                else:
                    self._changed.wait(seconds)

    def _next_cold_batch(self) -> list[_Waiting] | None:
        """Wait for rows that need a program, and take a batch of the oldest; None at the end."""
        with self._changed:
            while True:
                if self._cold:
                    group = min(self._cold, key=lambda group: self._cold[group][0].since)
                    batch = _begin(self._cold, group, self._choose(self._cold[group])[0])
                    if batch:
                        self._compiling = True
                        return batch
                elif self._ended:
                    return None
                else:
                    self._cold_changed.wait()

    def _is_warm(self, batch: Sequence[_Waiting]) -> bool:
        """Tell whether a batch can start without compiling."""
        try:
            return self._engine.is_warm([one.row for one in batch])
        except Exception:
            return True  # it cannot start either; whoever starts it says why

    def _due_batch(self) -> tuple[tuple | None, list[_Waiting], float | None]:
        """Return the group to run now and a batch of it, or how long to wait for one.

        Of several the one that has waited long and is worth its cost: a batch of few rows lets one
        of many go first, but not for ever.
        """
        now, wait = self._clock(), None
        due, batch, most = None, [], 0.0
        for group, waiting in self._groups.items():
            waited = now - waiting[0].since
            is_full = len(waiting) >= self._engine.shapes.largest_batch
            if waited < self._max_wait and not is_full and not self._stopping:
                left = self._max_wait - waited
                wait = left if wait is None else min(wait, left)
                continue
            rows, rate = self._choose(waiting)
            merit = (waited + _AT_LEAST) * rate
            if merit > most:
                due, batch, most = group, rows, merit
        return due, batch, wait

    def _choose(self, waiting: Sequence[_Waiting]) -> tuple[list[_Waiting], float]:
        """Choose a batch of a group; what it is worth for its cost comes with it."""
        numbers, rate = choose_rows([one.row for one in waiting], self._engine.shapes)
        return [waiting[number] for number in numbers], rate


def _put(groups: _Groups, group: tuple, rows: Sequence[_Waiting]) -> None:
    """Put rows where they belong by their age."""
    rows = [*groups.get(group, ()), *rows]
    groups[group] = collections.deque(sorted(rows, key=lambda one: one.since))


def _take(groups: _Groups, group: tuple, batch: Sequence[_Waiting]) -> None:
    """Take rows out of their group, and the group away with its last one."""
    gone = set(batch)
    left = collections.deque(one for one in groups[group] if one not in gone)
    if left:
        groups[group] = left
    else:
        del groups[group]


def _begin(groups: _Groups, group: tuple, batch: Sequence[_Waiting]) -> list[_Waiting]:
    """Take rows out of their group to work on them; those cancelled just now are left out."""
    _take(groups, group, batch)
    return [one for one in batch if one.answer.set_running_or_notify_cancel()]


def _answer(one: _Waiting, outcome: Prediction | Exception) -> None:
    """Hand out what came of a row."""
    if isinstance(outcome, Exception):
        _log.warning('a row has no answer: %s', outcome)
        one.answer.set_exception(outcome)
    else:
        one.answer.set_result(outcome)


def _nothing() -> None:
    """Hold nothing, release nothing."""


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    """Hand an error out to those that have no answer."""
    _log.error('a batch of %d rows failed', len(batch), exc_info=error)
    for one in batch:
        if not one.answer.done():
            failure = BatchFailed('the server failed on a batch; its log says how')
            failure.__cause__ = error
            one.answer.set_exception(failure)
