"""Seconds that a contender takes by itself: compiling, which whoever comes first pays, apart."""

import time
from typing import Any

import jax

#: Of tracing, lowering and compiling.
_COMPILING = '/jax/core/compile/'


class Clock:
    """Tells seconds since it was entered, those of compiling left out.

    Example:
        with Clock() as clock:
            before = clock.seconds
            ...
            took = clock.seconds - before
    """

    def __init__(self) -> None:
        self._began, self._compiled = 0.0, 0.0
        self._spans: list[tuple[float, float]] = []  # the last ones, in which others may have been

    def __enter__(self) -> 'Clock':
        self._began = time.perf_counter()
        jax.monitoring.register_event_duration_secs_listener(self._note)
        return self

    def __exit__(self, *_: Any) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note)

    def _note(self, event: str, seconds: float, **_: Any) -> None:
        """Add a span of compiling, of which those that it holds are told before it."""
        if not event.startswith(_COMPILING):
            return
        end = time.perf_counter()
        start = end - seconds
        while self._spans and self._spans[-1][1] > start:
            inner = self._spans.pop()
            self._compiled -= inner[1] - inner[0]
            start = min(start, inner[0])
        self._spans.append((start, end))
        self._compiled += end - start

    @property
    def seconds(self) -> float:
        """Seconds of all but compiling."""
        return time.perf_counter() - self._began - self._compiled

    @property
    def wall(self) -> float:
        """Seconds of all."""
        return time.perf_counter() - self._began
