"""Shares of a large file: which lines a host answers, where, and how the answers are joined."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import BinaryIO

from jax_prompt.predict.inputs import decode
from jax_prompt.predict.journal import Entry, hash_start, journal_path


def part_path(output: str | os.PathLike, share: tuple[int, int]) -> str:
    """Name what one of several hosts writes.

    Args:
      output: the file that all of them make together.
      share: (i, n): the i-th of n.

    Returns:
      A file beside the output (where that is a link, beside what it leads to); the output itself
      for one host alone.

    Raises:
      ValueError: for a share that is none.
    """
    index, count = share
    if not 0 <= index < count:
        raise ValueError(f'share {index} of {count}; expected a number from 0 to {count - 1}')
    if count == 1:
        return f'{output}'
    return f'{os.path.realpath(output)}.part-{index:05d}-of-{count:05d}'


def merge_parts(output: str | os.PathLike, count: int) -> None:
    """Join what all hosts have written, in the order of the input; by one host, when all are done.

    A kill at any moment leaves each host with a part that is whole, or without one: started again,
    those without one answer their shares again, and the join is the same.

    Args:
      output: the file to make.
      count: how many parts there are, at least 2.

    Raises:
      FileNotFoundError: a part is not there.
    """
    parts = [part_path(output, (index, count)) for index in range(count)]
    missing = [part for part in parts if not os.path.exists(part)]
    if missing:
        raise FileNotFoundError(f'{missing[0]} is not there, though its host has written it; '
                                'start all hosts again')
    target = os.path.realpath(output)  # a link stays one
    whole = f'{target}.merging'
    with open(whole, 'wb') as out:
        for part in parts:
            with open(part, 'rb') as file:
                while chunk := file.read(1 << 20):
                    out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    os.replace(whole, target)
    for part in parts:
        os.unlink(part)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(journal_path(part))


def leave_mark(output: str | os.PathLike) -> str:
    """Leave a file beside an output by which other hosts see that they share its disk.

    Returns:
      What it says; for `check_mark`.
    """
    mark = secrets.token_hex(8)
    with open(_mark_path(output), 'w', encoding='ascii') as file:
        file.write(mark)
    return mark


def check_mark(output: str | os.PathLike, mark: str) -> None:
    """Look for the file that the first host has left.

    Raises:
      ValueError: it is not there, so this host and the first one write to different disks.
    """
    found = ''
    with contextlib.suppress(FileNotFoundError), open(_mark_path(output), encoding='ascii') as file:
        found = file.read()
    if found != mark:
        raise ValueError(f'output {output} of this host is not the one that the first host joins '
                         'of all answers; give all hosts one output, in a folder that they share')


def take_mark_away(output: str | os.PathLike) -> None:
    """Remove the file that `leave_mark` left."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_mark_path(output))


def _mark_path(output: str | os.PathLike) -> str:
    return f'{os.path.realpath(output)}.hosts'


def share_of(file: BinaryIO, share: tuple[int, int]) -> tuple[int, int]:
    """Find the lines of a share: those that begin inside its bytes.

    Args:
      file: of lines, open for reading.
      share: (i, n): the i-th of n parts of about as many bytes each.

    Returns:
      Where in the file they begin and end.
    """
    index, count = share
    size = os.fstat(file.fileno()).st_size
    bounds = []
    for number in (index, index + 1):
        at = size * number // count
        if 0 < at < size:
            file.seek(at - 1)  # a line that begins right at the bound is no part of the one before
            file.readline()
            at = file.tell()
        bounds.append(at)
    return bounds[0], bounds[1]


class Reader:
    """Read the lines of a share behind those that are answered.

    Args:
      file: open for reading.
      path: what to call it in messages.
      start: where in the file the share begins.
      end: and ends.
      done: how far it is answered.

    Attributes:
      source: what to call the share in messages.
      start: where in the file it begins.
      size: its bytes.
      read: how many of them are read.

    Raises:
      ValueError: what is answered is not what stands in the file now.
    """

    def __init__(self, file: BinaryIO, path: str, start: int, end: int, done: Entry):
        self._file, self.start, self.size = file, start, end - start
        self.source = path if start == 0 else f'the share of {path} from byte {start} on'
        self._hash = hash_start(file, start, done.read)
        self._line = done.lines
        self.read = done.read
        if self.digest != done.digest:
            raise ValueError(f'the first {done.lines} lines of {self.source} have changed since an '
                             'earlier run answered them; give the file as it was to go on, or '
                             'delete the journal and the partial output to start anew')

    @property
    def digest(self) -> str:
        """Return the hash of what is read so far."""
        return self._hash.hexdigest()

    def windows(self, size: int) -> Iterator[list[str]]:
        """Yield the lines, so many at a time.

        Raises:
          ValueError: naming the line, for bytes that are not UTF-8.
        """
        while self.read < self.size:
            lines = []
            while len(lines) < size and self.read < self.size:
                line = self._file.readline()
                if not line:
                    break
                self._line += 1
                self._hash.update(line)
                self.read += len(line)
                lines.append(decode(line, self._line, self.source))
            if not lines:
                return
            yield lines
