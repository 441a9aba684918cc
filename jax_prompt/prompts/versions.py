"""Names and versions of prompts: a file `NAME@VERSION.safetensors` is that version of NAME."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from jax_prompt.files import brief

ENDING = '.safetensors'
#: A name or a version: nothing that a path could make use of.
WORD = r'[A-Za-z0-9][A-Za-z0-9_.-]{0,63}'
NAME_PATTERN = rf'^{WORD}(@{WORD})?$'


class BadName(ValueError):
    """What should name a prompt does not."""


def split_name(name: str) -> tuple[str, str | None]:
    """Split 'name' or 'name@version'.

    Args:
        name: as a request, or a file without its ending, has it.

    Returns:
        The name, and the version or None.

    Raises:
        BadName: it is neither.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise BadName(f'{brief(name)} is no name of a prompt; expected letters, digits, dots, '
                      'dashes and underscores, at most 64, and perhaps @ and a version of the same')
    name, _, version = name.partition('@')
    return name, version or None


def version_order(version: str) -> list[tuple[int, int, str]]:
    """Return what sorts versions: 2 before 10, v1.9 before v1.10."""
    parts = re.findall(r'\d+|\D+', version)
    return [(1, int(part), '') if part.isdigit() else (0, 0, part) for part in parts]


def version_files(folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield name, version and path of each version in a folder; none leads out of it.

    Args:
        folder: its real path.

    Raises:
        OSError: it cannot be read.
    """
    for file in os.listdir(folder):
        stem = file.removesuffix(ENDING)
        if not file.endswith(ENDING) or not re.fullmatch(NAME_PATTERN, stem) or '@' not in stem:
            continue
        path = Path(os.path.realpath(folder / file))
        if path.is_relative_to(folder) and path.is_file():
            yield *split_name(stem), path
