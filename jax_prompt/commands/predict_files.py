"""Which files `jax-prompt predict` reads and writes; what cannot be is told before the work."""

import contextlib
import os
import pathlib

from jax_prompt.commands.shared import is_device
from jax_prompt.prompts.versions import BadName, split_name, version_order

#: Inputs that are no lines of their own, by the ends of their names.
_OTHER_FORMATS = ('.csv', '.tsv', '.json')


def check_files(inputs: str, output: str) -> None:
    """Check that there are inputs, and that the answers do not take their place.

    Args:
      inputs: a file, or '-' for standard input.
      output: a file, or '-' for standard output.

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
    source = '/dev/stdin' if inputs == '-' else inputs
    if output == '-' or is_device(output):
        return
    with contextlib.suppress(FileNotFoundError):
        if os.path.samefile(source, output):
            raise ValueError(f'output {output} is the file of the inputs, which the answers would '
                             'overwrite; name another output')


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

    As `jax-prompt serve` has it, a file NAME@VERSION.safetensors of the folder is NAME as well,
    where there is no NAME.safetensors and no higher version.

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


def _highest_versions(files: dict[str, str]) -> dict[str, str]:
    """Return the files of the highest versions by their names without one."""
    highest: dict[str, str] = {}
    for full_name in files:
        with contextlib.suppress(BadName):  # such names are known as they are
            name, version = split_name(full_name)
            if version is not None:
                highest[name] = max(highest.get(name, full_name), full_name,
                                    key=lambda one: version_order(one.partition('@')[2]))
    return {name: files[full_name] for name, full_name in highest.items()}
