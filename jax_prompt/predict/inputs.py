"""Lines of a file or of standard input, in windows."""

import contextlib
import hashlib
import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Window(NamedTuple):
    """Lines that are answered together.

    Attributes:
      number: of the window, from 0.
      places: where each line stands, for messages.
      starts: byte of the input where each line begins, and behind them where the last one ends.
      lines: with their line feeds.
    """

    number: int
    places: list[str]
    starts: list[int]
    lines: list[bytes]

    @property
    def digest(self) -> str:
        """Return what tells these lines, standing there, from any others."""
        return hashlib.sha256(b'%d\n' % self.starts[0] + b''.join(self.lines)).hexdigest()


def windows(lines: Iterable[bytes], size: int, source: str) -> Iterator[Window]:
    """Yield windows of lines, reading no further ahead; they follow from the lines alone.

    Args:
      lines: any number of them, with their line feeds.
      size: lines of a window.
      source: what to call the input in messages.
    """
    lines, end = iter(lines), 0
    for number in itertools.count():
        taken = list(itertools.islice(lines, size))
        if not taken:
            return
        starts = list(itertools.accumulate(map(len, taken), initial=end))
        end = starts[-1]
        places = [f'line {number * size + 1 + i} of {source}' for i in range(len(taken))]
        yield Window(number, places, starts, taken)


@contextlib.contextmanager
def open_lines(inputs: str) -> Iterator[Iterable[bytes]]:
    """Open a file, or '-' for standard input, as lines; only a line feed ends one.

    Yields:
      The lines, to be read once.
    """
    if inputs != '-':
        with open(inputs, 'rb') as file:
            yield file
    elif hasattr(sys.stdin, 'buffer'):
        yield sys.stdin.buffer
    else:  # what stands in for it may hold text alone
        yield (line.encode() for line in sys.stdin)
