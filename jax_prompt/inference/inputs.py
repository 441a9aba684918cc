"""Lines of a file or of standard input, and the JSON objects that they hold."""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

FORMATS = ('lines', 'jsonl')


@contextlib.contextmanager
def open_lines(inputs: str) -> Iterator[Iterable[str]]:
    """Open a file, or '-' for standard input, as lines of UTF-8 text.

    Only a line feed ends a line, and a byte order mark at the start is no part of the first one.

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
        try:
            yield line.decode('utf-8-sig' if number == 1 else 'utf-8')
        except UnicodeDecodeError as error:
            raise ValueError(f'line {number} of {source} is not UTF-8 text ({error.reason} at byte '
                             f'{error.start + 1} of the line); save it as UTF-8') from None


def parse_object(line: str, where: str) -> dict[str, Any]:
    """Return the JSON object of a line.

    Raises:
      ValueError: naming the place, where it is blank, no JSON, or no object.
    """
    if not line.strip():
        raise ValueError(f'{where} is blank; expected a JSON object; take the line out')
    try:
        record = json.loads(line)
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
