"""`jax-prompt inspect`."""

import json
import logging
from typing import Any

from jax_prompt.commands.shared import Opener, check_model, check_task, require
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.exchange.prompts_in_out import find_prompt, inspect_prompt
from jax_prompt.reading.read import read_prompt, words_of
from jax_prompt.reading.report import check_folder, write_report
from jax_prompt.reading.settings import ReadingSettings

_log = logging.getLogger(__name__)


def inspect_command(model: Opener | None = None, prompt: str | None = None,
                    count: int = 5, json_only: bool = False,
                    parameter: str | None = None, output: str | None = None,
                    task: TextTask | RegisteredTask | None = None,
                    reading: ReadingSettings | None = None) -> int:
    """Tell what a prompt file holds, and with a model the words nearest to its rows.

    With `output` it writes a report into that folder: `report.html`, a page that stands alone, and
    `report.json`. With a model these have nearest words by several measures, the labels that were
    kept, and a map; with a task besides, what each row is worth, what is attended to, and what it
    costs to say the prompt in words, which are written as `discrete.safetensors`.
    """
    require(prompt, 'prompt file', '--prompt=FILE')
    reading = reading or ReadingSettings()
    if output is None and reading != ReadingSettings():
        raise ValueError('what is compared, measured or watched is for a report, but none is asked '
                         'for; name its folder with --output=FOLDER, or leave reading.* out')
    if output is not None:
        check_folder(output, reading.overwrite)
    found = find_prompt(prompt, parameter)
    in_use = output is not None and found.file is not None and model is not None
    if in_use and task is not None and not reading.allow_other_task:
        check_task('reading', found.file, task)
    opened = None if model is None else model()
    if in_use:
        check_model('reading', found.file, opened, reading.allow_other_model)
    if output is not None:
        page = write_report(output, read_prompt(prompt, opened, task, reading, count, parameter))
        _log.info('the report is %s', page)
    told = inspect_prompt(prompt, count=count, parameter=parameter)
    if opened is not None:
        words = words_of(opened)
        told = inspect_prompt(prompt, words.table_VD, words.word, count, words.num_words,
                              parameter)
    print(json.dumps(told, indent=1, ensure_ascii=False) if json_only else _describe(told))
    return 0


def _describe(told: dict[str, Any]) -> str:
    """Write what is known of a prompt as lines of text."""
    lines = [f'{told["path"]}: {told["rows"]} rows of {told["width"]} numbers ({told["form"]})']
    if 'added_rows' in told:
        lines.append(f'  adds rows to the first {told["added_rows"]} tokens of the text')
    for name, value in told.get('metadata', {'origin': told.get('origin')}).items():
        if name == 'design':  # a pool may have thousands of examples
            value = {key: f'{len(one)} of them' if key == 'demonstrations' else
                     f'{one["shots"]} of {len(one["pool"])}' if key == 'nearest' else one
                     for key, one in value.items() if one}
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        # What a file says may hold what moves a terminal's cursor.
        lines.append(f'  {name:24} {shown if shown.isprintable() else json.dumps(value)}')
    for name, shape in told.get('prefix', {}).items():
        lines.append('  prefix {:17} {} layers, {} heads, {} positions of {} numbers'.format(
            name, *shape))
    nearest = told.get('nearest')
    for row, norm in enumerate(told['row_norms']):
        near = '' if not nearest else '  ' + ', '.join(
            f'{one["word"]!r} {one["cosine"]:.2f}' for one in nearest[row])
        lines.append(f'  row {row:4}  norm {norm:9.3f}{near}')
    return '\n'.join(lines)
