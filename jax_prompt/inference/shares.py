"""Shares of a large file: which lines a host answers, where, and how the answers are joined."""

import os
from collections.abc import Iterator
from typing import BinaryIO

from jax_prompt.inference.journal import Entry, hash_start


def part_path(output: str | os.PathLike, share: tuple[int, int]) -> str:
    """Return the file that one of several hosts writes; the output itself for one alone."""
    index, count = share
    if not 0 <= index < count:
        raise ValueError(f'share {index} of {count}; expected a number from 0 to {count - 1}')
    return f'{output}' if count == 1 else f'{output}.part-{index:05d}-of-{count:05d}'


def merge_parts(output: str | os.PathLike, count: int) -> None:
    """Join what all hosts have written, in the order of the input; by one host, when all are done.

    Raises:
      FileNotFoundError: a part is not there.
    """
    if count == 1:
        return
    parts = [part_path(output, (index, count)) for index in range(count)]
    missing = [part for part in parts if not os.path.exists(part)]
    if missing and len(missing) == count and os.path.exists(output):
        return  # joined already, by a process that was killed after it
    if missing:
        raise FileNotFoundError(f'{missing[0]} is not there; start the host that writes it again')
    whole = f'{output}.merging'
    with open(whole, 'wb') as out:
        for part in parts:
            with open(part, 'rb') as file:
                while chunk := file.read(1 << 20):
                    out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    os.replace(whole, output)
    for part in parts:
        os.unlink(part)


def share_of(file: BinaryIO, share: tuple[int, int]) -> tuple[int, int]:
    """Return where the lines of a share begin and end: those that begin inside its bytes."""
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
    """Read the lines of a share behind those that are answered."""

    def __init__(self, file: BinaryIO, path: str, start: int, end: int, done: Entry):
        self._file, self._start, self._end = file, start, end
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
        """Yield the lines, so many at a time."""
        while self._start + self.read < self._end:
            lines = []
            while len(lines) < size and self._start + self.read < self._end:
                line = self._file.readline()
                if not line:
                    break
                self._line += 1
                self._hash.update(line)
                self.read += len(line)
                lines.append(self._decode(line))
            if not lines:
                return
            yield lines

    def _decode(self, line: bytes) -> str:
        at_start = self._start == 0 and self._line == 1
        try:
            return line.decode('utf-8-sig' if at_start else 'utf-8')
        except UnicodeDecodeError as error:
            raise ValueError(
                f'line {self._line} of {self.source} is not UTF-8 text ({error.reason} at byte '
                f'{error.start + 1} of the line); save it as UTF-8') from None
