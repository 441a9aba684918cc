"""`jax-prompt import`."""

import pathlib

from jax_prompt.commands.shared import Opener, require
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.exchange.prompts_in_out import import_prompt
from jax_prompt.files import refuse_to_replace
from jax_prompt.prompts.file import save_prompt
from jax_prompt.prompts.layout import Layout


def import_command(model: Opener | None = None, source: str | None = None,
                   task: TextTask | RegisteredTask | None = None, output: str | None = None,
                   layout: Layout | None = None, form: str | None = None,
                   parameter: str | None = None, overwrite: bool = False) -> int:
    """Make a prompt file of another tool's prompt; see `prompts_in_out.import_prompt`."""
    require(model, 'model', '--model=SOURCE')
    require(source, 'prompt to import', '--source=PATH')
    require(task, 'task', '--task=NAME or --task=FILE.csv')
    require(output, 'output file', '--output=FILE.safetensors')
    refuse_to_replace(pathlib.Path(output), overwrite, 'file')
    opened = model()
    prompt_file = import_prompt(source, opened, task.to_dict(), layout, form, parameter)
    save_prompt(output, prompt_file, overwrite)
    rows, width = prompt_file.prompt.rows.shape
    print(f'{output}: {rows} rows of {width} numbers for {opened.name}, '
          f'{prompt_file.metadata.method}')
    return 0
