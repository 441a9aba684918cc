"""What several commands do alike: check their arguments, open a prompt, write results."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.metrics import LOSS
from jax_prompt.files import new_file, writing
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.file import PromptFile, check_prompt

#: Opens the model. Commands call it when all else is known good: it may read gigabytes.
Opener = Callable[[], OpenedModel]


def require(value: Any, what: str, how: str) -> None:
    """Raise ValueError where nothing names a thing that the command cannot do without."""
    if value is None:
        raise ValueError(f'no {what} given; name one with {how} or in a gin file')


def check_model(command: str, loaded: PromptFile, model: OpenedModel,
                allow_other_model: bool) -> None:
    """Check that a prompt file belongs to the model.

    Args:
      command: whose flag accepts one of another model; for the message.
      loaded: the prompt file.
      model: that it is for.
      allow_other_model: accept one that was trained for other weights of the same width.

    Raises:
      ValueError: it is another model's.
    """
    with flag_named(command):
        check_prompt(loaded, d_model=model.model.d_model, model_name=model.name,
                     model_fingerprint=model.fingerprint,
                     vocabulary_fingerprint=model.vocabulary_fingerprint,
                     allow_other_model=allow_other_model)


def check_task(command: str, loaded: PromptFile, task: TextTask | RegisteredTask) -> None:
    """Check that a prompt is measured on inputs and answers such as it was trained on.

    Args:
      command: whose setting accepts others; for the message.
      loaded: the prompt file.
      task: to measure it on.

    Raises:
      ValueError: they are others.
    """
    theirs = TextTask.from_dict(loaded.metadata.task)
    ours = TextTask.from_dict(task.to_dict())
    for name in ('inputs_template', 'label_words', 'inputs_length'):
        if getattr(theirs, name) != getattr(ours, name):
            raise ValueError(
                f'prompt file {loaded.path} was trained on task {theirs.name} with {name} '
                f'{getattr(theirs, name)!r} but task {ours.name} in use has '
                f'{getattr(ours, name)!r}; set the task as it was, or give '
                f'--gin.{command}.allow_other_task=True')


@contextlib.contextmanager
def flag_named(command: str) -> Iterator[None]:
    """Let errors that speak of the library's `allow_other_model` name the command's flag."""
    try:
        yield
    except ValueError as error:
        flag = f'give --gin.{command}.allow_other_model=True'
        raise ValueError(str(error).replace('set allow_other_model=True', flag)) from error


def check_output(output: str) -> str:
    """Check, before there is anything to write, that a file can be made under a name.

    Returns:
      Where it will be: where a link leads, so that the link stays.

    Raises:
      ValueError, FileNotFoundError: it is a folder, or in a folder that is not there.
    """
    if os.path.isdir(output):
        raise ValueError(f'output {output} is a folder; expected the name of a file')
    target = os.path.realpath(output)
    if not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(f'the folder of output {output} does not exist; make it first')
    return target


@contextlib.contextmanager
def result_file(output: str) -> Iterator[TextIO]:
    """Open the output; a file appears under its name only when all of it is written.

    Args:
      output: a file, a device, or '-' for standard output.

    Yields:
      What to write to.

    Raises:
      ValueError, OSError: it cannot be written.
    """
    if output in ('-', '/dev/stdout'):
        if hasattr(sys.stdout, 'reconfigure'):
            sys.stdout.reconfigure(encoding='utf-8')
        with writing('standard output'):
            yield sys.stdout
            sys.stdout.flush()
        return
    if is_device(output) and not os.path.isdir(output):
        with writing(f'output {output}'), open(output, 'a', encoding='utf-8') as file:
            yield file
        return
    with writing(f'output {output}'):
        with new_file(check_output(output), overwrite=True, mode='w') as file:
            yield file


def is_device(path: str) -> bool:
    """Say whether a path leads to what must be written in place: a pipe, a device, a descriptor."""
    where = os.path.abspath(path)
    return where.startswith(('/dev/fd/', '/dev/std', '/proc/')) or (
        os.path.exists(path) and not os.path.isfile(path))


def print_table(title: str, rows: Mapping[str, Mapping[str, float]],
                intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None) -> None:
    """Print metrics in percent, but for the loss, a row a heading, and 95 % intervals below it."""
    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics))
    width = max(map(len, [*rows, title]))
    print(f'\n{title:<{width}}  ' + '  '.join(f'{name:>12}' for name in names))
    for heading, metrics in rows.items():
        cells = [' ' * 12 if name not in metrics else f'{metrics[name]:>12.4f}' if name == LOSS
                 else f'{100 * metrics[name]:>11.2f}%' for name in names]
        print('  '.join([f'{heading:<{width}}', *cells]).rstrip())
        ends = (intervals or {}).get(heading, {})
        cells = ['' if name not in ends else
                 f'{100 * ends[name][0]:.1f}..{100 * ends[name][1]:.1f}%' for name in names]
        if ends:
            print('  '.join([f'{"  95 % interval":<{width}}',
                             *(f'{cell:>12}' for cell in cells)]).rstrip())
