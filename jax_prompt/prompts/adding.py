"""What adding a version to a folder of prompts takes: a whole file, of the same model, once."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from jax_prompt.files import remove_litter
from jax_prompt.prompts.file import PromptFile, load_prompt, same_model
from jax_prompt.prompts.log import Entry, create_file
from jax_prompt.prompts.versions import ENDING, version_files

#: How many numbers are tried where others are always taken first.
_TRIES = 1000


class Exists(ValueError):
    """That version is there already."""


def read_file(file: Path) -> tuple[PromptFile, bytes]:
    """Return a prompt file and its bytes, of one moment.

    Raises:
      ValueError: it is no prompt file, or is written to all the time.
    """
    for _ in range(3):
        loaded, before = load_prompt(file), file.stat()
        content, after = file.read_bytes(), file.stat()
        if (before.st_ino, before.st_size, before.st_mtime_ns) == (
                after.st_ino, after.st_size, after.st_mtime_ns):
            return loaded, content
    raise ValueError(f'{file} changes while it is read; add it once what writes it has ended')


def existing(full_name: str, file: str | os.PathLike, content: bytes, there: Mapping[str, Path],
             added: Mapping[str, Entry]) -> str | None:
    """Return the version that has a content already but no entry in the log; None for none.

    Args:
      full_name: 'name@version', or 'name@' for any version.
      file: that is to be added, for messages.
      content: of it.
      there: version -> file.
      added: version -> its entry.

    Raises:
      Exists: a version that has an entry has this content, or the version had another.
    """
    (name, _, version), found = full_name.partition('@'), None
    for one, path in there.items():
        if version in ('', one) and path.stat().st_size == len(content) and \
                path.read_bytes() == content:
            if one in added:
                raise Exists(f'{file} is {name}@{one} already; promote or tag that version, or '
                             'name another file')
            found = one
    digest = hashlib.sha256(content).hexdigest()
    if version in added and version not in there and added[version].details['sha256'] != digest:
        raise Exists(f'{full_name} was added before with another content; give another version')
    return found


def family_problem(file: PromptFile, name: str, there: Mapping[str, Path],
                   promoted: str | None) -> str | None:
    """Return in which way a prompt does not belong among the versions of one; None for in none.

    Args:
      file: the prompt.
      name: of the others.
      there: version -> file, of which the promoted one, else the highest, is looked at.
      promoted: version; None for none.
    """
    for version in dict.fromkeys([promoted, *there]):
        if version not in there:
            continue
        try:
            other = load_prompt(there[version])
        except ValueError:  # nor can it be in use
            continue
        ours, theirs = file.metadata, other.metadata
        if same_model(ours.base_model_fingerprint, theirs.base_model_fingerprint):
            return None
        return (f'was trained for {ours.base_model} (weights {ours.base_model_fingerprint}) but '
                f'{name}@{version} for {theirs.base_model} (weights '
                f'{theirs.base_model_fingerprint})')
    return None


def create_version(folder: Path, name: str, version: str | None, content: bytes,
                   added: Iterable[str]) -> str:
    """Make the file of a new version.

    Args:
      folder: the real path of the folder of prompts.
      name: of the prompt.
      version: None for the next whole number.
      content: of the file.
      added: versions that there were before; what was removed never means another content.

    Returns:
      The version.

    Raises:
      Exists: there is, or was, such a version.
    """
    remove_litter(folder)
    if version is not None:
        if create_file(folder / f'{name}@{version}{ENDING}', content):
            return version
        raise Exists(f'{name}@{version} is there with another content; give another version')
    there = {one for each, one, _ in version_files(folder) if each == name}
    highest = max((int(one) for one in {*added, *there} if one.isdigit() and len(one) <= 18),
                  default=0)
    for number in range(highest + 1, highest + _TRIES):
        if create_file(folder / f'{name}@{number}{ENDING}', content):
            return str(number)
    raise ValueError(f'others add to {name} in {folder} all the time; try again later')
