"""From lines of a file or of standard input to the texts that the model reads."""

import json
from collections.abc import Iterable, Iterator

from jax_prompt.data.tasks.text_task import TextTask

FORMATS = ('lines', 'jsonl')


def read_texts(lines: Iterable[str], task: TextTask, format: str = 'lines',
               source: str = 'standard input') -> Iterator[str]:
    """Render each line with the task's inputs template, without reading ahead.

    Args:
      lines: an open file, or anything else that gives lines.
      task: the task that the prompt was trained for, `TextTask.from_dict` of the prompt file.
      format: 'lines', where a line is the value of the template's only column, or 'jsonl', where a
        line is a JSON object whose keys are columns; blank lines of jsonl are skipped.
      source: what to call the input in messages.

    Yields:
      Texts, one a line.

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


def _render_lines(lines: Iterable[str], task: TextTask, format: str, source: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        where = f'line {number} of {source}'
        if format == 'lines':
            yield task.render({task.columns[0]: line.rstrip('\r\n')}, where)
        elif line.strip():
            yield task.render(_parse(line, where), where)


def _parse(line: str, where: str) -> dict:
    """Return the JSON object of a line."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f'{where} is not JSON ({error.msg} at character {error.pos + 1}); '
                         'expected an object a line; for plain text use the format lines'
                         ) from None
    if not isinstance(record, dict):
        raise ValueError(f'{where} is a JSON {type(record).__name__}; expected an object with the '
                         "template's columns as keys")
    return record
