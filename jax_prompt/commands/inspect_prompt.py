"""`jax-prompt inspect`."""

import json
from typing import Any

import numpy as np

from jax_prompt.commands.shared import Opener, require
from jax_prompt.exchange.prompts_in_out import inspect_prompt
from jax_prompt.parallel.hosts import fetch


def inspect_command(model: Opener | None = None, prompt: str | None = None,
                    count: int = 5, json_only: bool = False,
                    parameter: str | None = None) -> int:
    """Tell what a prompt file holds, and with a model the words nearest to its rows."""
    require(prompt, 'prompt file', '--prompt=FILE')
    told = inspect_prompt(prompt, count=count, parameter=parameter)
    if model is not None:
        opened = model()
        words = {'table_VD': fetch(opened.model.embedding_table(opened.frozen)).astype(np.float32),
                 'word': opened.vocabulary.word,
                 'num_words': opened.vocabulary.vocab_size}
        told = inspect_prompt(prompt, count=count, parameter=parameter, **words)
    print(json.dumps(told, indent=1, ensure_ascii=False) if json_only else _describe(told))
    return 0


def _describe(told: dict[str, Any]) -> str:
    """Write what is known of a prompt as lines of text."""
    lines = [f'{told["path"]}: {told["rows"]} rows of {told["width"]} numbers ({told["form"]})']
    if 'added_rows' in told:
        lines.append(f'  adds rows to the first {told["added_rows"]} tokens of the text')
    for name, value in told.get('metadata', {'origin': told.get('origin')}).items():
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
