"""`jax-prompt predict`."""

import dataclasses
import os
import pathlib

import jax

from jax_prompt.commands.lines import LineSettings
from jax_prompt.commands.shared import (
    check_types,
    is_device,
    open_prompt,
    require,
    result_file,
)
from jax_prompt.inference.answering import AnswerSettings
from jax_prompt.inference.bulk import (
    BulkSettings,
    ProgressLine,
    answer_lines,
    predict_file,
    say_cut,
)
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.inputs import open_lines
from jax_prompt.inference.shapes import Shapes
from jax_prompt.inference.shares import merge_parts
from jax_prompt.parallel.hosts import from_first, wait_for_all
from jax_prompt.parallel.rules import replicated
from jax_prompt.training.frozen_model import FrozenModel


def predict_command(model: FrozenModel | None = None, prompt: str | None = None,
                    prompts: str | None = None, inputs: str = '-', output: str = '-',
                    lines: LineSettings | None = None, answers: AnswerSettings | None = None,
                    allow_other_model: bool = False) -> int:
    """Answer each text of a file or of standard input, in its order.

    Plain lines fill the only column of the prompt's template and are answered by lines of text;
    lines of JSON give all columns and are answered by the same object with `prediction`, `scores`
    and `probabilities` put in (in place of what it may have held by these names).

    With a folder of `prompts`, each line names its own, by the file's name without its ending. A
    file that is answered into a file goes on where a killed run stopped.
    """
    check_types('predict', predict_command, locals())
    require(model, 'model', '--model=SOURCE')
    if prompts is None:
        require(prompt, 'prompt file', '--prompt=FILE (or a folder of them with --prompts=FOLDER)')
    lines = lines or LineSettings()
    settings = dataclasses.replace(_bulk_settings(lines, inputs, prompt, prompts),
                                   answers=answers or AnswerSettings())
    engine = Engine(model, Shapes.for_batches_of(lines.batch_size),
                    decodings=settings.answers.decodings,
                    sharding=replicated(model.mesh) if model.mesh.size > 1 else None)
    for name, file in _prompt_files(prompt, prompts).items():
        engine.add(name, open_prompt('predict', file, model, allow_other_model), allow_other_model)
    source = 'standard input' if inputs == '-' else inputs
    if inputs == '-' or output == '-' or is_device(output) or is_device(inputs):
        if jax.process_count() > 1:
            raise ValueError('several hosts answer a file into a file; name both with --inputs and '
                             '--output')
        _answer_stream(engine, inputs, output, settings, source)
    else:
        _answer_file(engine, inputs, output, settings)
    return 0


def _bulk_settings(lines: LineSettings, inputs: str, prompt: str | None,
                   prompts: str | None) -> BulkSettings:
    """Complete the settings by the names of the files."""
    form = lines.format or ('jsonl' if inputs.lower().endswith('.jsonl') else 'lines')
    if prompts is not None and lines.prompt_column is None and prompt is None:
        raise ValueError(f'the prompts of {prompts} are chosen by a column of the inputs; name it '
                         'with --prompt_column=NAME, or one prompt for all with --prompt=FILE')
    return BulkSettings(None if prompt is None else _name(prompt), lines.prompt_column, form,
                        lines.window)


def _prompt_files(prompt: str | None, prompts: str | None) -> dict[str, str]:
    """Return the prompt files by the names that lines know them by."""
    found = {}
    if prompts is not None:
        folder = pathlib.Path(prompts)
        if not folder.is_dir():
            raise FileNotFoundError(f'no folder of prompts at {prompts}')
        found = {path.stem: str(path) for path in sorted(folder.glob('*.safetensors'))}
        if not found:
            raise ValueError(f'the folder {prompts} holds no prompt files (*.safetensors)')
    if prompt is not None:
        found[_name(prompt)] = prompt
    return found


def _name(prompt: str) -> str:
    return pathlib.Path(prompt).stem


def _answer_stream(engine: Engine, inputs: str, output: str, settings: BulkSettings,
                   source: str) -> None:
    """Answer lines as they come, a window at a time."""
    total = cut = 0
    with open_lines(inputs) as lines, result_file(output) as out:
        for answered in answer_lines(engine, lines, settings, source):
            out.write(answered.text)
            total, cut = total + answered.lines, cut + answered.cut
    say_cut(cut, total)


def _answer_file(engine: Engine, inputs: str, output: str, settings: BulkSettings) -> None:
    """Answer a file, or this host's share of it, and join the shares where hosts share a disk."""
    if os.path.isdir(output):
        raise ValueError(f'output {output} is a folder; expected the name of a file')
    if not os.path.isdir(os.path.dirname(os.path.realpath(output))):
        raise FileNotFoundError(f'the folder of output {output} does not exist; make it first')
    hosts = jax.process_count()
    predict_file(engine, inputs, output, settings, (jax.process_index(), hosts), ProgressLine())
    if hosts > 1:
        wait_for_all('the answers are written')
        from_first(lambda: merge_parts(output, hosts))
