"""The files of a folder of prompts: which there are, and whether an upload may become one."""

import os
import pathlib

from jax_prompt.data.design import Design
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.inference.designs import task_of
from jax_prompt.inference.engine import Engine
from jax_prompt.prompts.file import PromptFile
from jax_prompt.prompts.versions import ENDING


def scan(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, tuple]]:
    """Return the real path and the stamp of each prompt file, by name and in order.

    Names that no request can give (`A B.safetensors`, `A.SAFETENSORS`) are told of, so are there.

    Raises:
      OSError: the folder cannot be read, or is gone since it was listed.
    """
    found = {}
    for name in sorted(os.listdir(folder)):
        if not name.startswith('.') and name.lower().endswith(ENDING):
            path = pathlib.Path(os.path.realpath(folder / name))
            try:
                found[name] = path, stamp_of(path) if path.is_relative_to(folder) else ()
            except FileNotFoundError:
                folder.stat()  # the file is gone since; where the folder is, nothing is known of it
    return found


def stamp_of(path: pathlib.Path) -> tuple:
    """Return what tells a change of a file."""
    stat = path.stat()
    return path, stat.st_ino, stat.st_size, stat.st_mtime_ns


def check_size(file: PromptFile, engine: Engine) -> None:
    """Refuse an upload that would run at larger sizes than the server was started for.

    A batch's memory grows with them, and what one prompt takes all the others lack.
    """
    task = TextTask.from_dict(file.metadata.task)
    shapes, words, design = engine.shapes, task.label_words or (), Design.of(file)
    what, scored = 'number of labels', len(words)
    if design is not None:
        what, scored = 'words of labels', sum(map(len, design.targets(words).values()))
    most_labels, longest_label = shapes.labels[-1]
    sizes = [('rows', file.prompt.num_virtual, shapes.lengths[-1]),
             ('rows added to the text', file.prompt.added, shapes.lengths[-1]),
             ('prefix positions', file.prefix_length, shapes.lengths[-1]),
             ('inputs_length', task.inputs_length, shapes.lengths[-1]),
             ('targets_length', task.targets_length, shapes.targets[-1]),
             (what, scored, most_labels)]
    if 0 < scored <= most_labels:
        _, labels, _ = task_of(engine.opened, file)
        sizes.append(('tokens of a label with its end', labels.shape[1], longest_label))
    for name, size, most in sizes:
        if size > most:
            raise ValueError(f'the uploaded prompt has {name} {size}; expected at most {most}, the '
                             'largest that the server prepares for: train it with less, or put '
                             'the file into the folder of prompts by hand')
