"""Dynamic batching: requests that come at about the same time share a batch.

A batch starts when there are rows enough to fill it, or when its oldest row has waited as long as
it may; while the device is busy rows gather by themselves, so that batches grow with the load. Rows
that need a program nobody has compiled yet wait aside and do not hold up the others; while a
server starts they are padded to a larger program that is there.
"""

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import jax

from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.parts import Part
from jax_prompt.inference.rows import Prediction, Row

_log = logging.getLogger(__name__)

#: Batches that may be on the device or on their way: it works on one while the other is prepared.
#: Where the device is the host's own processor nothing is won by that, and each batch would be
#: chosen from fewer rows.
_UNDER_WAY, _UNDER_WAY_ON_CPU = 2, 1
#: Seconds that every row counts as having waited, so that those of this moment compare too.
_AT_LEAST = 0.001
#: What reading the weights once costs, in positions: so many take as long to compute with them, on
#: two cores of a CPU as well as on a TPU, whose operations a byte are about as many.
_WEIGHTS_COST = 256


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
_Groups = dict[tuple, list[_Waiting]]


class Batcher:
    """Answer rows from any threads by batches of an engine.

    Example:
      >>> with Batcher(engine) as batcher:  # doctest: +SKIP
      ...     batcher.submit(engine.row('sst2', 'a film to remember')).result()
    """

    def __init__(self, engine: Engine, max_wait: float = 0.005, max_queue: int = 1024,
                 watch: Callable[[Sequence[Row], float, float], None] = lambda *_: None,
                 clock: Callable[[], float] = time.monotonic):
        """Take an engine; `__enter__` starts the work.

        Args:
          engine: what answers.
          max_wait: seconds that a row may wait for others.
          max_queue: rows that may wait.
          watch: is told of each batch: its rows, the longest wait and the seconds it took.
          clock: seconds that only grow.
        """
        self._engine, self._max_wait, self._max_queue = engine, max_wait, max_queue
        self._watch, self._clock = watch, clock
        self._changed = threading.Condition(threading.RLock())
        self._groups: _Groups = {}
        # Rows found to need a program that is not compiled. They wait like the others: they count,
        # and can be cancelled.
        self._cold: _Groups = {}
        self._unanswered = 0
        self._stopping = self._compiling = False
        under_way = _UNDER_WAY_ON_CPU if jax.default_backend() == 'cpu' else _UNDER_WAY
        self._threads = [threading.Thread(target=work, name='batching', daemon=True)
                         for work in (self._compile_all, *[self._run_all] * under_way)]

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
    def compiles(self) -> bool:
        """Return whether rows wait for a program, which goes before any that nobody waits for."""
        return self._compiling or bool(self._cold)

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
            self._groups.setdefault(row.group, []).append(one)
            self._unanswered += 1
            self._changed.notify_all()
        one.answer.add_done_callback(lambda _: self._note_answered(one))
        return one.answer

    def stop(self) -> None:
        """Answer what is in the queue, take nothing more, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
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
                        _take(groups, [one])
                self._changed.notify_all()

    def _run_all(self) -> None:
        """Run batch after batch, until there is nothing left and `stop` was called."""
        while (found := self._next_batch()) is not None:
            self._run(*found)

    def _compile_all(self) -> None:
        """Run the batches that need a program that is not compiled yet."""
        while (batch := self._next_cold_batch()) is not None:
            self._run(batch)
            with self._changed:
                # What else waits aside may need no further program: let the batches be made anew.
                for rows in self._cold.values():
                    _put(self._groups, rows)
                self._cold.clear()
                self._compiling = False
                self._changed.notify_all()

    def _run(self, batch: Sequence[_Waiting], parts: Sequence[Part] | None = None) -> None:
        """Run a batch and hand out its answers."""
        rows, began = [one.row for one in batch], self._clock()
        try:
            outcomes = self._engine.start(rows, parts).outcomes()
            for one, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    _log.warning('a row has no answer: %s', outcome)
                    one.answer.set_exception(outcome)
                else:
                    one.answer.set_result(outcome)
            self._watch(rows, began - batch[0].since, self._clock() - began)
        except Exception as error:
            _log.exception('a batch of %d rows failed', len(batch))
            for one in batch:
                if not one.answer.done():
                    failure = BatchFailed('the server failed on a batch; its log says how')
                    failure.__cause__ = error
                    one.answer.set_exception(failure)

    def _next_batch(self) -> tuple[list[_Waiting], list[Part] | None] | None:
        """Wait for a batch that is due and can start, with its parts; None at the end."""
        with self._changed:
            while True:
                batch, seconds = self._due_batch()
                rows = [one.row for one in batch]
                parts = self._engine.divide(rows) if rows else None
                if batch and self._engine.is_warm(rows, parts):
                    if batch := _begin(self._groups, batch):  # some may be cancelled just now
                        return batch, parts if len(batch) == len(rows) else None
                elif batch and (parts := self._engine.padded(rows)):
                    if batch := _begin(self._groups, batch[:len(parts[0].numbers)]):
                        return batch, [dataclasses.replace(
                            parts[0], numbers=tuple(range(len(batch))))]
                elif batch:  # compiled aside, so that others need not wait
                    _take(self._groups, batch)
                    _put(self._cold, batch)
                    self._changed.notify_all()
                elif self._stopping and not (self._groups or self._cold or self._compiling):
                    self._changed.notify_all()
                    return None
                else:
                    self._changed.wait(seconds)

    def _next_cold_batch(self) -> list[_Waiting] | None:
        """Wait for rows that need a program, and take a batch of the oldest; None at the end."""
        with self._changed:
            while True:
                if self._cold:
                    oldest = min(self._cold.values(), key=lambda rows: rows[0].since)
                    if batch := _begin(self._cold, self._choose(oldest)[0]):
                        self._compiling = True
                        return batch
                elif self._stopping and not self._groups:
                    return None
                else:
                    self._changed.wait()

    def _due_batch(self) -> tuple[list[_Waiting], float | None]:
        """Return the batch to run now, or how long to wait for one.

        Of several the one that has waited long and is worth its cost: a batch of few rows lets one
        of many go first, but not for ever.
        """
        now, wait = self._clock(), None
        batch, most = [], 0.0
        for waiting in self._groups.values():
            waited = now - waiting[0].since
            is_full = len(waiting) >= self._engine.shapes.largest_batch
            if waited < self._max_wait and not is_full and not self._stopping:
                left = self._max_wait - waited
                wait = left if wait is None else min(wait, left)
                continue
            rows, rate = self._choose(waiting)
            merit = (waited + _AT_LEAST) * rate
            if merit > most:
                batch, most = rows, merit
        return batch, wait

    def _choose(self, waiting: Sequence[_Waiting]) -> tuple[list[_Waiting], float]:
        """Choose a batch of a group; what it is worth for its cost comes with it."""
        numbers, rate = choose_rows([one.row for one in waiting], self._engine.shapes)
        return [waiting[number] for number in numbers], rate


def choose_rows(waiting: Sequence[Row], shapes: Shapes) -> tuple[list[int], float]:
    """Choose a batch: the first row, and those that go best with it.

    A batch costs the positions of its rows, fillers included, and the weights once for each pass
    over them. A row is worth what it would cost in a full batch of its like. Of the batches that
    hold the first row the one is taken that is worth the most for its cost.

    Args:
      waiting: rows of one group, those that have waited longest first.
      shapes: at which batches run.

    Returns:
      The numbers of its rows among those that wait, ascending, at most `shapes.largest_batch`; and
      what they are worth for the batch's cost, up to 1.
    """
    weights = _WEIGHTS_COST * waiting[0].passes
    lengths = [shapes.length(len(row.ids)) for row in waiting]
    worth = [length + weights / shapes.largest_batch for length in lengths]
    best, chosen = 0.0, [0]
    for length in sorted({length for length in lengths if length >= lengths[0]}):
        # The longest that fit waste least; of equals, those that have waited longer.
        others = sorted((number for number in range(1, len(lengths)) if lengths[number] <= length),
                        key=lambda number: -lengths[number])
        for size in shapes.batch_sizes:
            rows = [0, *others][:size]
            rate = sum(worth[number] for number in rows) / (weights + size * length)
            if rate > best:
                best, chosen = rate, rows
    return sorted(chosen), best


def _put(groups: _Groups, rows: Sequence[_Waiting]) -> None:
    """Put rows of one group where they belong by their age."""
    group = rows[0].row.group
    groups[group] = sorted([*groups.get(group, ()), *rows], key=lambda one: one.since)


def _take(groups: _Groups, batch: Sequence[_Waiting]) -> None:
    """Take rows out of their group, and the group away with its last one."""
    group, gone = batch[0].row.group, set(batch)
    groups[group] = [one for one in groups[group] if one not in gone]
    if not groups[group]:
        del groups[group]


def _begin(groups: _Groups, batch: Sequence[_Waiting]) -> list[_Waiting]:
    """Take rows out of their group to work on them; those cancelled just now are left out."""
    _take(groups, batch)
    return [one for one in batch if one.answer.set_running_or_notify_cancel()]
