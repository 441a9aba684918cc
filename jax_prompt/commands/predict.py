"""`jax-prompt predict`."""

import dataclasses
import logging
import os

import jax

from jax_prompt.commands.lines import LineSettings
from jax_prompt.commands.predict_files import (
    check_files,
    format_of,
    prompt_files,
    prompt_name,
)
from jax_prompt.commands.shared import (
    check_output,
    flag_named,
    is_device,
    require,
    result_file,
)
from jax_prompt.inference.answering import AnswerSettings
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.shapes import Shapes
from jax_prompt.models.open import FrozenModel
from jax_prompt.parallel.hosts import check_together, from_first, is_first, wait_for_all
from jax_prompt.predict.bulk import (
    BulkSettings,
    answer_lines,
    predict_file,
    say_cut,
)
from jax_prompt.predict.inputs import open_lines
from jax_prompt.predict.progress import ProgressLine
from jax_prompt.predict.shares import check_mark, leave_mark, merge_parts, take_mark_away
from jax_prompt.prompts.file import load_prompt

_log = logging.getLogger(__name__)


def predict_command(model: FrozenModel | None = None, prompt: str | None = None,
                    prompts: str | None = None, inputs: str = '-', output: str = '-',
                    lines: LineSettings | None = None, answers: AnswerSettings | None = None,
                    allow_other_model: bool = False) -> int:
    """Answer each text of a file or of standard input, in its order.

    Plain lines fill the only column of the prompt's template and are answered by lines of text;
    lines of JSON give all columns and are answered by the same object with `prediction`, and of
    labels `scores` and `probabilities`, put in (in place of all it may have held by these names).

    With a folder of `prompts`, each line names its own, by the file's name without its ending; of
    NAME@VERSION the plain NAME means the highest, as `jax-prompt serve` has it. A file that is
    answered into a file goes on where a killed run stopped.

    Args:
      model: answers.
      prompt: a prompt file, for all lines that name no other.
      prompts: a folder of prompt files.
      inputs: a file, or '-' for standard input.
      output: a file, or '-' for standard output.
      lines: how they are read.
      answers: how they are answered.
      allow_other_model: accept prompts that were trained for other weights of the same width.

    Returns:
      The exit code.

    Raises:
      ValueError, OSError: for what the user can mend.
    """
    require(model, 'model', '--model=SOURCE')
    check_together(lambda: check_files(inputs, output))
    if prompts is None:
        require(prompt, 'prompt file', '--prompt=FILE (or a folder of them with --prompts=FOLDER)')
    lines = lines or LineSettings()
    settings = dataclasses.replace(_bulk_settings(lines, inputs, prompt, prompts),
                                   answers=answers or AnswerSettings())
    engine = Engine(model, Shapes.for_batches_of(lines.batch_size),
                    decodings=settings.answers.decodings)
    for name, file in prompt_files(prompt, prompts).items():
        with flag_named('predict'):
            engine.add(name, load_prompt(file), allow_other_model)
    settings.answers.check_effects(None if settings.prompt_column is not None
                                   else engine.prompt(settings.prompt).labels is not None)
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
    form = format_of(inputs, lines.format)
    if prompts is not None and lines.prompt_column is None and prompt is None:
        raise ValueError(f'the prompts of {prompts} are chosen by a column of the inputs; name it '
                         'with --prompt_column=NAME, or one prompt for all with --prompt=FILE')
    return BulkSettings(None if prompt is None else prompt_name(prompt), lines.prompt_column,
                        form, lines.window)


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
    """Answer a file, or this host's share of it, and join the shares."""
    hosts = jax.process_count()
    if hosts > 1:
        _check_same_files(inputs, output)
    else:
        check_output(output)
    predict_file(engine, inputs, output, settings, (jax.process_index(), hosts), ProgressLine())
    if hosts > 1:
        _log.info('host %d of %d has answered its share and waits for the others',
                  jax.process_index(), hosts)
        wait_for_all('the answers are written')
        from_first(lambda: merge_parts(output, hosts))


def _check_same_files(inputs: str, output: str) -> None:
    """Check before the work that all hosts see one input, and one folder of the output."""
    def begin() -> tuple[int, str]:
        check_output(output)
        return os.path.getsize(inputs), leave_mark(output)

    size, mark = from_first(begin)

    def check() -> None:
        found = os.path.getsize(inputs)
        if found != size:
            raise ValueError(f'inputs {inputs} have {found} bytes here and {size} on the first '
                             'host; give all hosts the same file')
        check_mark(output, mark)

    try:
        check_together(check)
    finally:
        if is_first():
            take_mark_away(output)
