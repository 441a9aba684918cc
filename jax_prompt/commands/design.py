"""`jax-prompt design`."""

import pathlib

from jax_prompt.commands.shared import Opener, check_model, require
from jax_prompt.data.design import Design
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.files import refuse_to_replace
from jax_prompt.inference.make_design import DesignSettings, design_file, make_design
from jax_prompt.prompts.file import load_prompt, save_prompt


def design_command(model: Opener | None = None, task: TextTask | RegisteredTask | None = None,
                   output: str | None = None, prompt: str | None = None,
                   settings: DesignSettings | None = None, overwrite: bool = False) -> int:
    """Make a design file: a template, words for the labels, demonstrations and calibration.

    Examples come from the task's train split alone. The file is a prompt file without rows, and
    works wherever one does; with `prompt`, one with that prompt's rows around the words.
    """
    require(model, 'model', '--model=SOURCE')
    require(task, 'task', '--task=NAME or --task=FILE.csv')
    require(output, 'output file', '--output=FILE.safetensors')
    refuse_to_replace(pathlib.Path(output), overwrite, 'file')
    settings = settings or DesignSettings()
    loaded = None if prompt is None else load_prompt(prompt)
    opened = model()
    if loaded is not None:
        check_model('make_design', loaded, opened, allow_other_model=False)
    design = make_design(opened, task, settings, loaded)
    save_prompt(output, design_file(opened, task, design, loaded, settings.seed), overwrite)
    print(_described(output, task, design))
    return 0


def _described(output: str, task: TextTask, design: Design) -> str:
    """Tell what was made, and how it looks."""
    lines = [f'{output}: {design.form} design for {task.name}']
    for label, words in design.targets(task.label_words or ()).items():
        lines.append(f'  {label}: {", ".join(words)}')
    if design.nearest is not None:
        lines.append(f'  the {design.shots} nearest of {len(design.examples):,} examples in front '
                     'of each input')
    if design.calibration is not None:
        lines.append('  taken away from the scores: ' + ', '.join(
            f'{one:.3f}' for one in design.calibration))
    columns = {name: f'[{name}]' for name in design.columns}
    lines.append(f'  {design.render(columns, design.demonstrations)}')
    return '\n'.join(lines)
