"""`jax-prompt predict`."""

import contextlib
import dataclasses
import logging
import os
import pathlib

import jax

from jax_prompt.commands.shared import (
    Opener,
    check_output,
    flag_named,
    is_device,
    require,
    result_file,
)
from jax_prompt.data.tasks.rows import FILE_ENDINGS
from jax_prompt.inference.answering import AnswerSettings
from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.ensemble import check_ensemble
from jax_prompt.parallel.hosts import check_together, is_first
from jax_prompt.predict.bulk import BulkSettings, LineSettings, answer_lines, predict_file
from jax_prompt.predict.inputs import open_lines
from jax_prompt.progress import ProgressBar
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.registry import Registry
from jax_prompt.prompts.versions import BadName, split_name, version_order

_log = logging.getLogger(__name__)

#: Inputs that are no lines of their own, by the ends of their names.
_OTHER_FORMATS = tuple(end for end in FILE_ENDINGS if end not in ('.txt', '.jsonl'))


def predict_command(model: Opener | None = None, prompt: str | None = None,
                    prompts: str | None = None, inputs: str = '-', output: str = '-',
                    lines: LineSettings | None = None, answers: AnswerSettings | None = None,
                    allow_other_model: bool = False) -> int:
    """Answer each text of a file or of standard input, in its order.

    Plain lines fill the only column of the prompt's template and are answered by lines of text;
    lines of JSON give all columns and are answered by the same object with `prediction`, and of
    labels `scores` and `probabilities`, put in (in place of all it may have held by these names).

    With a folder of `prompts`, each line names its own, by the file's name without its ending; the
    plain NAME means of NAME@VERSION the promoted one, as `jax-prompt serve` has it. With
    `answers.ensemble` all of them answer each line together. A file that is answered into a file
    goes on where a killed run stopped.

    Args:
      model: opens what answers.
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
    check_together(lambda: check_files(inputs, output, prompt))
    if prompts is None:
        require(prompt, 'prompt file', '--prompt=FILE (or a folder of them with --prompts=FOLDER)')
    lines, answers = lines or LineSettings(), answers or AnswerSettings()
    if answers.ensemble and (prompts is None or prompt is not None or lines.prompt_column):
        raise ValueError('an ensemble is of all prompts of a folder: give --prompts=FOLDER, and '
                         'neither --prompt nor --prompt_column')
    if prompts is not None and not (lines.prompt_column or prompt or answers.ensemble):
        raise ValueError(f'the prompts of {prompts} are chosen by a column of the inputs; name it '
                         'with --prompt_column=NAME, or one prompt for all with --prompt=FILE')
    settings = BulkSettings(
        None if prompt is None else prompt_name(prompt),
        dataclasses.replace(lines, format=format_of(inputs, lines.format)),
        answers)
    loaded = {name: load_prompt(file) for name, file in prompt_files(prompt, prompts).items()}
    as_they_come = '-' in (inputs, output) or is_device(output) or is_device(inputs)
    if as_they_come and jax.process_count() > 1:
        raise ValueError('several hosts answer a file into a file; name both with --inputs and '
                         '--output')
    if not as_they_come:
        check_together(lambda: check_output(output))
    engine = Engine(model(), Shapes.for_batches_of(lines.batch_size),
                    decodings=settings.answers.decodings)
    for name, file in loaded.items():
        with flag_named('predict'):
            engine.add(name, file, allow_other_model)
    if answers.ensemble:
        settings = dataclasses.replace(settings, members=_members(engine, answers.ensemble))
    answers.check_effects(None if lines.prompt_column is not None else
                          engine.prompt((settings.members or [settings.prompt])[0]).labels
                          is not None)
    if as_they_come:
        total, cut = _answer_stream(engine, inputs, output, settings)
    else:
        with ProgressBar(os.path.getsize(inputs), unit='lines', label='{percent:.1f} %') as bar:
            total, cut = predict_file(engine, inputs, output, settings, bar)
    if cut and is_first():
        _log.warning('%d of %d inputs were longer than their task allows and were cut; the prompt '
                     'never is', cut, total)
    for name, one in engine.prompts.items():
        if one.design is not None and (line := one.design.told()):
            _log.warning('%s: %s', name, line)
    return 0


def _members(engine: Engine, way: str) -> tuple[str, ...]:
    """Return the names of an ensemble's members, which must be of one task."""
    prompts = engine.prompts
    # NAME@2 is known as NAME too, where it is the highest version.
    names = tuple(sorted({prompt.digest: name for name, prompt in prompts.items()}.values()))
    first = prompts[names[0]]
    check_ensemble(names, way, first.labels is not None)
    for name in names:
        if prompts[name].task.to_dict() != first.task.to_dict():
            raise ValueError(f'prompts {names[0]} and {name} are of different tasks '
                             f'({first.task.name}, {prompts[name].task.name}) or word it '
                             'differently; an ensemble is of prompts of one task')
    return names


def _answer_stream(engine: Engine, inputs: str, output: str,
                   settings: BulkSettings) -> tuple[int, int]:
    """Answer lines as they come, a window at a time; return how many, and how many were cut."""
    total = cut = 0
    source = 'standard input' if inputs == '-' else inputs
    with open_lines(inputs) as lines, result_file(output) as out:
        for answered in answer_lines(engine, lines, settings, source):
            out.write(answered.text)
            total, cut = total + answered.lines, cut + answered.cut
    return total, cut


def check_files(inputs: str, output: str, prompt: str | None = None) -> None:
    """Check that there are inputs, and that the answers take no place of theirs or the prompt's.

    Args:
      inputs: a file, or '-' for standard input.
      output: a file, or '-' for standard output.
      prompt: the prompt's file.

    Raises:
      ValueError, FileNotFoundError: saying which name to mend.
    """
    for flag, name, stream in (('inputs', inputs, 'input'), ('output', output, 'output')):
        if not name:  # as of a variable that a shell does not know
            raise ValueError(f'--{flag}= is empty; name a file, or - for standard {stream}')
    if inputs != '-' and not os.path.exists(inputs):
        raise FileNotFoundError(f'no inputs at {inputs}; name a file with --inputs=FILE, or - for '
                                'standard input')
    if os.path.isdir(inputs):
        raise ValueError(f'inputs {inputs} are a folder; name a file of it')
    if output == '-' or is_device(output):
        return
    sources = {'inputs': '/dev/stdin' if inputs == '-' else inputs, 'prompt': prompt or ''}
    for what, source in sources.items():
        with contextlib.suppress(FileNotFoundError):
            if os.path.samefile(source, output):
                raise ValueError(f'output {output} is the file of the {what}, which the answers '
                                 'would overwrite; name another output')


def format_of(inputs: str, given: str | None) -> str:
    """Return the format of inputs: the one that is given, or by their name.

    Raises:
      ValueError: they look compressed, or like what is no lines of texts.
    """
    name = inputs.lower()
    if name.endswith('.gz'):
        raise ValueError(f'inputs {inputs} are compressed; expected text: zcat {inputs} | '
                         'jax-prompt predict --inputs=- (and --format=jsonl for JSON lines)')
    if given is None and name.endswith(_OTHER_FORMATS):
        raise ValueError(f'inputs {inputs} are neither plain lines nor JSON lines by their name; '
                         'make JSON lines of them (.jsonl), or say with --format=lines or '
                         '--format=jsonl that they are')
    return given or ('jsonl' if name.endswith('.jsonl') else 'lines')


def prompt_files(prompt: str | None, prompts: str | None) -> dict[str, str]:
    """Return the prompt files by the names that lines know them by.

    As `jax-prompt serve` has it, a file NAME@VERSION.safetensors of the folder is NAME as well
    where it is promoted; where none is, if there is no NAME.safetensors and no higher version. It
    is NAME@TAG for each of its tags.

    Args:
      prompt: a file.
      prompts: a folder.

    Raises:
      ValueError, FileNotFoundError: there is no such folder, nothing in it, or two files are known
        by one name.
    """
    found = {}
    if prompts is not None:
        folder = pathlib.Path(prompts)
        if not prompts or not folder.is_dir():
            raise FileNotFoundError(f'no folder of prompts at {prompts!r}; name one with '
                                    '--prompts=FOLDER')
        files = {path.stem: str(path) for path in sorted(folder.glob('*.safetensors'))}
        if not files:
            raise ValueError(f'the folder {prompts} holds no prompt files (*.safetensors)')
        found = _highest_versions(files) | files
        found |= _promoted_and_tagged(Registry(folder), found)
    if prompt is not None:
        name = prompt_name(prompt)
        if name in found and not (os.path.exists(prompt)
                                  and os.path.samefile(prompt, found[name])):
            raise ValueError(f'{prompt} and {found[name]} are both known as {name!r}; rename one '
                             'of them, or leave --prompt out')
        found[name] = prompt
    return found


def prompt_name(prompt: str) -> str:
    """Return the name that lines know a prompt file by."""
    return pathlib.Path(prompt).stem


def _promoted_and_tagged(registry: Registry, files: dict[str, str]) -> dict[str, str]:
    """Return the files of promoted versions by their bare names, and those of tags."""
    found = {}
    for name in registry.names():
        standing = registry.standing(name)
        for problem in registry.log(name).problems()[:1]:
            _log.warning('the log of prompt %s is not whole: %s', name, problem)
        there = {version: files[f'{name}@{version}'] for version in
                 (*standing.promotions, *standing.tags.values()) if f'{name}@{version}' in files}
        if (meant := standing.meant(there)) is not None:
            found[name] = there[meant]
        found |= {f'{name}@{tag}': there[version] for tag, version in standing.tags.items()
                  if version in there and f'{name}@{tag}' not in files}
    return found


def _highest_versions(files: dict[str, str]) -> dict[str, str]:
    """Return the files of the highest versions by their names without one."""
    highest = {}
    for full_name in sorted(files, key=lambda one: version_order(one.partition('@')[2])):
        with contextlib.suppress(BadName):  # such names are known as they are
            name, version = split_name(full_name)
            if version is not None:
                highest[name] = files[full_name]
    return highest
