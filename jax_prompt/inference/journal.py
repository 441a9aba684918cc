"""A file that is written over hours, by a process that may be killed at any moment.

Beside the output stand two files while it is written: `OUTPUT.partial`, its beginning, and
`OUTPUT.journal`, one line of JSON for each piece that is safely on the disk: how far the input is
read and how far the output is written. A start after a kill cuts both back to the last whole piece
and goes on from there, so no line is lost or doubled.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

_HASHED_AT_ONCE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Entry:
    """How far the work is.

    Attributes:
      read: bytes of the input that are answered, counted from the start of this process's share.
      written: bytes of the output that answer them.
      lines: their number.
      cut: how many of them were cut to fit the model.
      digest: SHA-256 of the bytes read, so that it shows if they have changed since.
    """

    read: int = 0
    written: int = 0
    lines: int = 0
    cut: int = 0
    digest: str = hashlib.sha256().hexdigest()


class Journal:
    """Write an output piece by piece so that a kill loses at most the piece in work.

    Used as a context: `with Journal(output, header) as journal`. Leaving it after `finish` leaves
    the output alone; leaving it by an error leaves what the next start needs, or nothing at all
    where no piece was finished.

    Attributes:
      last: the last finished piece; of an earlier process, if it was killed.
      finished: whether all of the output is there.
    """

    def __init__(self, output: str | os.PathLike, header: Mapping[str, Any]):
        """Name an output, and all that it depends on.

        Args:
          output: the file to write.
          header: what must be the same for a later process to go on; what JSON can hold.
        """
        self._output = pathlib.Path(os.path.realpath(output))  # a link stays one
        self._partial = self._beside('.partial')
        self._path = self._beside('.journal')
        self._header = json.loads(json.dumps(dict(header)))
        self._files = contextlib.ExitStack()
        self.last, self.finished = Entry(), False

    def _beside(self, ending: str) -> pathlib.Path:
        return self._output.with_name(self._output.name + ending)

    def __enter__(self) -> 'Journal':
        """Open or make the two files.

        Raises:
          ValueError: they belong to another run, or another process is writing them.
          OSError: they cannot be written.
        """
        with contextlib.ExitStack() as files:
            self._file = files.enter_context(_open(self._path, self._output))
            _lock(self._file, self._output)
            has_begun = self._read_back()
            if self.finished and not self._partial.exists():
                self._files = files.pop_all()
                return self
            self.finished = False
            self._data = files.enter_context(_open(self._partial, self._output))
            if not has_begun:
                self._file.truncate(0)
                self._append(self._header)
            self._data.truncate(self.last.written)
            self._data.seek(0, os.SEEK_END)
            self._files = files.pop_all()
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None and self.finished:
            self._path.unlink(missing_ok=True)
            _sync_folder(self._output.parent)
        elif self.last.lines == 0:  # nothing to go on from
            self._partial.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)
        self._files.close()  # the lock goes last

    def add(self, text: bytes, entry: Entry) -> None:
        """Write a piece of the output, then that it is written."""
        self._data.write(text)
        _sync(self._data)
        self._append(dataclasses.asdict(entry))
        self.last = entry

    def finish(self) -> None:
        """Give the output its name: all of it is there."""
        if self.finished:
            return
        _sync(self._data)
        self._append({'finished': True})
        os.replace(self._partial, self._output)
        _sync_folder(self._output.parent)
        self.finished = True

    def _append(self, record: Mapping[str, Any]) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(record).encode() + b'\n')
        _sync(self._file)

    def _read_back(self) -> bool:
        """Take up what an earlier process left; say whether there was anything."""
        self._file.seek(0)
        whole, records = 0, []
        for line in self._file:
            record = _parse(line)
            if record is None:  # torn by the kill
                break
            whole += len(line)
            records.append(record)
        if not records:
            return False
        if records[0] != self._header:
            differs = [name for name in self._header | records[0]
                       if self._header.get(name) != records[0].get(name)]
            raise ValueError(
                f'{self._path} was left by a run with another {", another ".join(differs)}; '
                f'give what that run was given to go on with it, or delete {self._path} and '
                f'{self._partial} to start anew')
        self._file.truncate(whole)
        self.finished = records[-1] == {'finished': True}
        size = self._partial.stat().st_size if self._partial.exists() else 0
        for record in records[1:]:
            # The output is on the disk before its entry; only a broken disk can have lost it.
            if 'written' in record and (self.finished or record['written'] <= size):
                self.last = Entry(**record)
        return True


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the record of a whole line."""
    try:
        record = json.loads(line) if line.endswith(b'\n') else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _open(path: pathlib.Path, output: pathlib.Path) -> BinaryIO:
    """Open for reading and writing, made if it is not there, nothing cut off."""
    try:
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), 'r+b')
    except OSError as error:
        raise OSError(f'cannot write output {output}: {error.strerror} ({path})') from error


def _lock(file: BinaryIO, output: pathlib.Path) -> None:
    """Keep a second process from writing the same output; a kill gives the lock back."""
    try:
        import fcntl  # not on Windows, where two processes are the user's business
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ValueError(f'another process is writing output {output}; wait for it, or name '
                         'another output') from error


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: pathlib.Path) -> None:
    """Make a rename last through a power failure, where folders can be synchronised."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def hash_start(file: BinaryIO, start: int, size: int) -> Any:
    """Return the SHA-256 of so many bytes of a file, to be gone on with; ends behind them."""
    file.seek(start)
    found = hashlib.sha256()
    for chunk in _chunks(file, size):
        found.update(chunk)
    return found


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (chunk := file.read(min(size, _HASHED_AT_ONCE))):
        size -= len(chunk)
        yield chunk
