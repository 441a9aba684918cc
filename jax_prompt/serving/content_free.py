"""What labels score without an input, measured once however many requests ask for it."""

import asyncio
import dataclasses
import functools
from collections.abc import Awaitable, Callable

import numpy as np

from jax_prompt.inference.rows import Row

#: A prompt's content and its labels.
_Key = tuple[str, tuple[str, ...]]


@dataclasses.dataclass(eq=False)
class _Measuring:
    """A measurement under way, and how many requests wait for it."""

    work: asyncio.Task
    waiting: int = 0


class ContentFree:
    """Measure and remember; all of it on one event loop, so nothing is locked."""

    def __init__(self, measure: Callable[[Row], Awaitable[np.ndarray]], most: int = 1024):
        """Take what measures.

        Args:
          measure: gives float64[C] of the labels of a row and its prompt, whatever its text.
          most: results to remember; requests may bring labels of their own.
        """
        self._measure, self._most = measure, most
        self._known: dict[_Key, np.ndarray] = {}
        self._under_way: dict[_Key, _Measuring] = {}

    async def of(self, row: Row) -> np.ndarray:
        """Return float64[C] for the prompt and the labels of a row.

        Requests that ask for the same while it is measured wait for one measurement; once none of
        them waits any more it is given up.

        Raises:
          Exception: what measuring raises.
        """
        key = row.prompt.digest, row.labels.words
        if key in self._known:
            return self._known[key]
        one = self._under_way.get(key)
        if one is None:
            one = self._under_way[key] = _Measuring(asyncio.ensure_future(self._measure(row)))
            one.work.add_done_callback(functools.partial(self._note, key, one))
        one.waiting += 1
        try:
            return await asyncio.shield(one.work)
        finally:
            one.waiting -= 1
            if not one.waiting and not one.work.done():
                self._let_go(key, one)
                one.work.cancel()

    def _note(self, key: _Key, one: _Measuring, work: asyncio.Task) -> None:
        """Remember a result."""
        self._let_go(key, one)
        if not work.cancelled() and work.exception() is None:
            while len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[key] = work.result()

    def _let_go(self, key: _Key, one: _Measuring) -> None:
        """Let the next request begin anew."""
        if self._under_way.get(key) is one:
            del self._under_way[key]
