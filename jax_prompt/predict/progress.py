"""How far a long run is: counted, and shown to whoever waits for it."""

import sys
import time
from typing import NamedTuple, TextIO

from jax_prompt.predict.journal import Entry


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
      lines: answered, by earlier processes too.
      fraction: of the input's bytes, from 0 to 1.
      lines_per_second: of this process.
      seconds_left: by its pace so far; None before it has one.
    """

    lines: int
    fraction: float
    lines_per_second: float
    seconds_left: float | None

    def __str__(self) -> str:
        left = '' if self.seconds_left is None else f', {_clock(self.seconds_left)} left'
        return (f'{self.lines:,} lines, {100 * self.fraction:.1f} %, '
                f'{self.lines_per_second:,.1f} lines/s{left}')


class ProgressLine:
    """Show how far a run is: in place on a terminal, else as a plain line now and then.

    It writes to standard error, so that standard output carries answers alone.

    Args:
      stream: where to write; standard error by default.
      seconds_between_lines: where the stream is no terminal.
    """

    def __init__(self, stream: TextIO | None = None, seconds_between_lines: float = 10.0):
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._interval = 0.2 if self._terminal else seconds_between_lines
        self._last = -self._interval
        self._width = 0

    def __call__(self, progress: Progress) -> None:
        """Show it, unless something was shown just before; the end is always shown."""
        now, ended = time.monotonic(), progress.fraction >= 1
        if now - self._last < self._interval and not ended:
            return
        self._last, text = now, str(progress)
        if self._terminal:
            text, self._width = '\r' + text.ljust(self._width), len(text)
        print(text, end='' if self._terminal and not ended else '\n', file=self._stream, flush=True)


class Clock:
    """Measure the pace of this process.

    Args:
      size: bytes of the input to answer in all.
      done: what earlier processes answered.
    """

    def __init__(self, size: int, done: Entry):
        self._size, self._first, self._began = size, done, time.monotonic()

    def now(self, done: Entry) -> Progress:
        """Return how far a run is that has done this."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        pace = (done.read - self._first.read) / seconds
        return Progress(done.lines, done.read / max(self._size, 1),
                        (done.lines - self._first.lines) / seconds,
                        (self._size - done.read) / pace if pace else None)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02d}:{seconds:02d}'
