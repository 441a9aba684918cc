"""Lines of a file or of standard input, and the JSON objects that they hold."""

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any

FORMATS = ('lines', 'jsonl')


@contextlib.contextmanager
def open_lines(inputs: str) -> Iterator[Iterable[str]]:
    """Open a file, or '-' for standard input, as lines of UTF-8 text.

    Only a line feed ends a line. A byte order mark is left at the start of the first one, so that
    the lines' lengths tell where in the file each begins.

    Yields:
      The lines, to be read once.

    Raises:
      ValueError: on reading, for bytes that are not UTF-8, naming the line.
    """
    if inputs == '-':
        # A replaced sys.stdin may hold text alone.
        binary = getattr(sys.stdin, 'buffer', None)
        yield sys.stdin if binary is None else _decoded(binary, 'standard input')
        return
    with open(inputs, 'rb') as file:
        yield _decoded(file, inputs)


def _decoded(lines: Iterable[bytes], source: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        yield decode(line, number, source)


def decode(line: bytes, number: int, source: str) -> str:
    """Return the text of a line of UTF-8; `number` and `source` are its place, for messages.

    Raises:
      ValueError: naming the place, for bytes that are not UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f'line {number} of {source} is not UTF-8 text ({error.reason} at byte '
                         f'{error.start + 1} of the line); save it as UTF-8') from None


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
