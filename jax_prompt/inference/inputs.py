"""From lines of a file or of standard input to the texts that the model reads."""

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from jax_prompt.data.tasks.text_task import TextTask

FORMATS = ('lines', 'jsonl')


class Input(NamedTuple):
    """One input.

    Attributes:
      text: what the model reads.
      fields: the JSON object that the line held; nothing for a plain line.
    """

    text: str
    fields: Mapping[str, Any]


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


def read_inputs(lines: Iterable[str], task: TextTask, format: str = 'lines',
                source: str = 'standard input') -> Iterator[Input]:
    """Render each line with the task's inputs template, without reading ahead.

    Args:
      lines: from `open_lines`, or anything else that gives lines.
      task: the task that the prompt was trained for, `TextTask.from_dict` of the prompt file.
      format: 'lines', where a line is the value of the template's only column, or 'jsonl', where a
        line is a JSON object whose keys are columns, and blank lines are refused, since answers
        would no longer stand on the line of their question.
      source: what to call the input in messages.

    Yields:
      One input a line.

    Raises:
      ValueError: for an unknown format, a template that plain lines cannot fill, and, naming the
        line, for what is not a JSON object or lacks a column of the template.
    """
    if format not in FORMATS:
        raise ValueError(f'input format {format!r} is unknown; choose one of {", ".join(FORMATS)}')
    if format == 'lines' and len(task.columns) != 1:
        raise ValueError(f'inputs_template {task.inputs_template!r} of task {task.name} has '
                         f'{len(task.columns)} columns but a plain line fills only one; give the '
                         'input as jsonl, one object a line')
    return _render_lines(lines, task, format, source)


def _render_lines(lines: Iterable[str], task: TextTask, format: str,
                  source: str) -> Iterator[Input]:
    for number, line in enumerate(lines, start=1):
        where = f'line {number} of {source}'
        if format == 'lines':
            yield Input(task.render({task.columns[0]: line.rstrip('\r\n')}, where), {})
        else:
            fields = parse_object(line, where)
            yield Input(task.render(fields, where), fields)


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
