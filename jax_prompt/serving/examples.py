"""Examples of a task to click on the page: rows that whoever runs the server puts beside a prompt.

A prompt file holds no data, and training puts none into it: it is passed on, to the hub too, by
people who may not know what was in somebody's table. So examples are a file of their own,
`NAME.examples.csv`, or .tsv, .json or .jsonl, in the folder of prompts. It serves all versions of
NAME, works with a prompt that was trained elsewhere, and goes nowhere but to the page.
"""

import itertools
import os
import pathlib
from typing import Any

from jax_prompt.data.tasks.rows import read_rows
from jax_prompt.data.tasks.text_task import TextTask

ENDINGS = ('.csv', '.tsv', '.json', '.jsonl')
#: Rows that are shown, and the bytes of a file that is read for them.
MOST_EXAMPLES, _MOST_BYTES = 8, 2**20


def read_examples(folder: pathlib.Path, name: str, task: TextTask) -> list[dict[str, Any]]:
    """Return what the columns of a task hold in the first rows of a prompt's file of examples.

    Args:
      folder: the folder of prompts, without links in its path.
      name: of the prompt, without a version.
      task: whose columns are wanted; others, the answer's among them, are left out.

    Returns:
      Column -> text, a number or true/false, for each row; nothing where there is no such file.

    Raises:
      ValueError: the file leads out of the folder, is larger than 1 MiB or cannot be read, or a row
        lacks a column.
    """
    names = [f'{name}.examples{ending}' for ending in ENDINGS]
    found = next((one for one in names if (folder / one).exists()), None)
    if found is None:
        return []
    path = pathlib.Path(os.path.realpath(folder / found))
    if not path.is_relative_to(folder):
        raise ValueError(f'{found} leads out of the folder of prompts; put a copy there')
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise ValueError(f'{found} has {size:,} bytes; expected at most {_MOST_BYTES:,}: keep '
                             f'the {MOST_EXAMPLES} rows that are shown')
        rows = list(itertools.islice(read_rows(str(path)), MOST_EXAMPLES))
    except OSError as error:
        raise ValueError(f'{found} cannot be read: {error.strerror or error}') from error
    for row in rows:
        task.render(row)  # which refuses what could not be asked
    return [{column: row.columns[column] for column in task.columns} for row in rows]
