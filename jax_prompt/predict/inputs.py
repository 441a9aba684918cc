"""Lines of a file or of standard input, in windows, and the JSON objects that they hold."""

import contextlib
import hashlib
import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


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


def decode(line: bytes, where: str, is_first: bool = False) -> str:
    """Return the text of a line of UTF-8.

    Args:
      line: with or without its line feed.
      where: its place, for messages.
      is_first: of the input, so that a byte order mark is none of the text.

    Raises:
      ValueError: naming the place, for bytes that are not UTF-8.
    """
    try:
        return line.decode('utf-8-sig' if is_first else 'utf-8')
    except UnicodeDecodeError as error:
        raise ValueError(f'{where} is not UTF-8 text ({error.reason} at byte {error.start + 1} of '
                         'the line); save it as UTF-8') from None


def parse_object(line: str, where: str) -> dict[str, Any]:
    """Return the JSON object of a line.

    Args:
      line: with or without its line feed.
      where: its place, for messages.

    Raises:
      ValueError: naming the place, where it is blank, no JSON, or no object; also for numbers that
        Python reads and JSON has not, since what holds them could not be answered in JSON.
    """
    if not line.strip():
        raise ValueError(f'{where} is blank; expected a JSON object; take the line out')
    try:
        record = json.loads(line, parse_constant=_finite, parse_float=_finite)
        if '\\u' in line:  # half of a surrogate pair is JSON, but no text that could be written
            json.dumps(record, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f'{where} is not JSON ({error.msg} at character {error.pos + 1}); '
                         'expected an object a line; for plain text use the format lines'
                         ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{where} cannot be used as JSON: {error}') from None
    if not isinstance(record, dict):
        raise ValueError(f'{where} is a JSON {type(record).__name__}; expected an object with the '
                         "template's columns as keys")
    return record


def _finite(number: str) -> float:
    """Return the number that is written so, of those that JSON can hold."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f'{number} is no number of JSON; write a finite one, or null')
    return value
