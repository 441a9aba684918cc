"""What several commands do alike: check their arguments, open a prompt, write results."""

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from jax_prompt import gin_setup
from jax_prompt.commands.names import CONFIGURABLES
from jax_prompt.prompts.file import PromptFile, check_prompt, load_prompt
from jax_prompt.training.frozen_model import FrozenModel


def require(value: Any, what: str, how: str) -> None:
    """Raise ValueError where nothing names a thing that the command cannot do without."""
    if value is None:
        raise ValueError(f'no {what} given; name one with {how} or in a gin file')


def check_types(command: str, function: Callable, values: Mapping[str, Any]) -> None:
    """Check what gin has evaluated for a command, as its signature says."""
    gin_setup.check_arguments(command, function, values, CONFIGURABLES)


def open_prompt(command: str, path: str, model: FrozenModel,
                 allow_other_model: bool) -> PromptFile:
    """Load a prompt file and check that it belongs to the model."""
    loaded = load_prompt(path)
    try:
        check_prompt(loaded, d_model=model.model.config.d_model, model_name=model.name,
                     model_fingerprint=model.fingerprint,
                     vocabulary_fingerprint=model.vocabulary_fingerprint,
                     allow_other_model=allow_other_model)
    except ValueError as error:
        # The library speaks of its argument; here that has another spelling.
        flag = f'give --gin.{command}.allow_other_model=True'
        raise ValueError(str(error).replace('set allow_other_model=True', flag)) from error
    return loaded


@contextlib.contextmanager
def result_file(output: str) -> Iterator[TextIO]:
    """Open the output; a file appears under its name only when all of it is written."""
    if output in ('-', '/dev/stdout'):
        if hasattr(sys.stdout, 'reconfigure'):
            sys.stdout.reconfigure(encoding='utf-8')
        yield sys.stdout
        sys.stdout.flush()
        return
    if os.path.isdir(output):
        raise ValueError(f'output {output} is a folder; expected the name of a file')
    if is_device(output):
        with open(output, 'a', encoding='utf-8') as file:
            yield file
        return
    target = os.path.realpath(output)  # where a link leads, so that the link stays
    if not os.path.isdir(os.path.dirname(target)):
        raise FileNotFoundError(f'the folder of output {output} does not exist; make it first')
    temporary = f'{os.path.dirname(target)}/.jax_prompt.{secrets.token_hex(8)}.tmp'
    try:
        file = open(temporary, 'x', encoding='utf-8')
    except OSError as error:
        raise OSError(f'cannot write output {output}: {error.strerror}') from error
    try:
        with file:
            yield file
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def is_device(path: str) -> bool:
    """Say whether a path leads to what must be written in place: a pipe, a device, a descriptor."""
    where = os.path.abspath(path)
    return where.startswith(('/dev/fd/', '/dev/std', '/proc/')) or (
        os.path.exists(path) and not os.path.isfile(path))


def print_table(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print metrics in percent, a row a heading."""
    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics))
    width = max(map(len, [*rows, title]))
    print(f'\n{title:<{width}}  ' + '  '.join(f'{name:>12}' for name in names))
    for heading, metrics in rows.items():
        print(f'{heading:<{width}}  '
              + '  '.join(f'{100 * metrics[name]:>11.2f}%' for name in names))
