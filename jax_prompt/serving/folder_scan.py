"""Which files of a folder are prompts, and when to look into one of them."""

import os
import pathlib

ENDING = '.safetensors'

#: The most refreshes that a file is left alone for: at one a second, about a minute.
_LONGEST_REST = 64


class Seen:
    """What was last seen of a file."""

    def __init__(self):
        self._stamp: tuple | None = None
        self._left: int | None = None  # refreshes until it is tried again; None for never
        self._rest = 0

    def is_due(self, stamp: tuple) -> bool:
        """Tell, once a refresh, whether to look into the file.

        Args:
          stamp: from `scan`.

        Returns:
          Whether it has changed, or has rested for long enough.
        """
        if stamp != self._stamp:
            self._stamp, self._left, self._rest = stamp, None, 0
            return True
        if self._left is None:
            return False
        self._left -= 1
        return self._left == 0

    def rest(self) -> None:
        """Try the file again although it does not change: at the next refresh, later each time."""
        self._rest = min(max(1, 2 * self._rest), _LONGEST_REST)
        self._left = self._rest


def scan(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path, tuple]]:
    """Look for prompt files.

    Args:
      folder: its real path.

    Returns:
      By name, in order: the real path, which may lead out of the folder, and a stamp that tells a
      change. A file that cannot be looked at now is there, with a stamp that says so. Names
      that no request can give are there too, such as `A B.safetensors` or `A.SAFETENSORS`, so that
      somebody tells of them; hidden files are not.

    Raises:
      OSError: the folder cannot be read.
    """
    found = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith('.') or not entry.name.lower().endswith(ENDING):
            continue
        path = pathlib.Path(os.path.realpath(entry.path))
        try:
            stamp = _stamp(path) if path.is_relative_to(folder) else ()
        except FileNotFoundError:  # gone since
            continue
        except OSError as error:
            stamp = (error.errno,)
        found[entry.name] = path, (str(path), *stamp)
    return found


def _stamp(path: pathlib.Path) -> tuple:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
