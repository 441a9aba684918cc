"""How a prompt that is uploaded comes into the folder, and how large it may be."""

import contextlib
import os
import pathlib
import re
import secrets
from collections.abc import Iterable, Iterator

from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.inference.engine import Engine
from jax_prompt.prompts.file import PromptFile


class Numbers:
    """The whole numbers that uploads get as versions; one that was in use is not given out again.

    What a process has forgotten when it ends, the files that are there still tell the next one.
    """

    def __init__(self):
        self._highest: dict[str, int] = {}  # name of a prompt -> of its versions that were in use

    def note(self, base: str, version: str) -> None:
        """Remember a version that is in use.

        Args:
          base: the prompt's name.
          version: any; one that is no whole number does not count.
        """
        if re.fullmatch('[0-9]+', version):
            self._highest[base] = max(int(version), self._highest.get(base, 0))

    def next(self, base: str, versions: Iterable[str]) -> str:
        """Return a number above all that were noted.

        Args:
          base: the prompt's name.
          versions: that have a file, whether in use or not; the number is above these too.
        """
        for version in versions:
            self.note(base, version)
        return str(self._highest.get(base, 0) + 1)


@contextlib.contextmanager
def written_aside(folder: pathlib.Path, content: bytes) -> Iterator[pathlib.Path]:
    """Write a file under a name that is no prompt's, for as long as the context lasts.

    Args:
      folder: where to.
      content: all of it; it is on the disk when the context begins.

    Yields:
      The file's path.
    """
    path = folder / f'.upload.{secrets.token_hex(8)}.tmp'
    try:
        with open(path, 'xb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        path.unlink(missing_ok=True)


def place(aside: pathlib.Path, path: pathlib.Path) -> None:
    """Give a file its name, whole, and never in place of another.

    Args:
      aside: the file, in the same folder.
      path: its name to be.

    Raises:
      FileExistsError: something of that name is there.
    """
    try:
        os.link(aside, path)
    except FileExistsError:
        raise
    except OSError:  # there are file systems without links: the name is taken first
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        try:
            os.replace(aside, path)
        except BaseException:
            path.unlink()
            raise


def check_size(file: PromptFile, engine: Engine) -> None:
    """Refuse an upload that would run at larger sizes than the server was started for.

    A batch's memory grows with them, and what one prompt takes all the others lack.

    Args:
      file: the prompt.
      engine: whose `shapes` are the bounds.

    Raises:
      ValueError: names what is too large, or says why the task cannot be used.
    """
    try:
        task = TextTask.from_dict(file.metadata.task)
    except TypeError as error:
        raise ValueError(f'the task of the uploaded prompt cannot be read ({error}); save the '
                         'prompt with a task that training accepts') from None
    shapes = engine.shapes
    most_labels, longest_label = shapes.labels[-1]
    sizes = [('rows', len(file.prompt_PD), shapes.lengths[-1]),
             ('inputs_length', task.inputs_length, shapes.lengths[-1]),
             ('targets_length', task.targets_length, shapes.targets[-1]),
             ('number of labels', len(task.label_words or ()), most_labels)]
    for name, size, most in sizes:
        _check(name, size, most)
    if task.label_words is not None:
        _check('tokens of a label with its end', engine.label_set(task.label_words).shape[1],
               longest_label)


def _check(name: str, size: int, most: int) -> None:
    if not isinstance(size, int) or size > most:
        raise ValueError(f'the uploaded prompt has {name} {size}; expected at most {most}, the '
                         'largest that the server prepares for: train it with less, or put the '
                         'file into the folder of prompts by hand')
