"""A file that is written over hours, by a process that may be killed at any moment.

Beside the output stand two files while it is written: `OUTPUT.partial`, its beginning, and
`OUTPUT.journal`, one line of JSON for each piece that is safely on the disk: how far the input is
read and how far the output is written. A start after a kill cuts both back to the last whole piece
and goes on from there, so no line is lost or doubled.

When the output has its name, the journal goes; that of one of several parts stays, marked finished,
until the parts are joined, so that a host that was done need not answer its share again.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

_log = logging.getLogger(__name__)

_HASHED_AT_ONCE = 1 << 20
#: Tells a journal from a user's own file of that name.
_KIND = {'jax_prompt_journal': 1}
_BEGINNING = json.dumps(_KIND).encode().removesuffix(b'}')


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
    the output, and of a part the journal; leaving it by an error leaves what the next start needs,
    or nothing at all where no piece was finished.

    Attributes:
      last: the last finished piece; of an earlier process, if it was killed.
      finished: whether all of the output is there.
    """

    def __init__(self, output: str | os.PathLike, header: Mapping[str, Any],
                 named: Mapping[str, str], is_part: bool = False):
        """Name an output, and all that it depends on.

        Args:
          output: the file to write.
          header: what must be the same for a later process to go on; what JSON can hold.
          named: contents by their names; a later process may have more or fewer, but none of a name
            with another content.
          is_part: keep the journal when all is written, for whoever joins the parts to remove.
        """
        self._output = pathlib.Path(os.path.realpath(output))  # a link stays one
        self._partial = self._output.with_name(self._output.name + '.partial')
        self._path = pathlib.Path(journal_path(self._output))
        self._header = json.loads(json.dumps(_KIND | dict(header)))
        self._named, self._known = dict(named), {}
        self._is_part = is_part
        self._files = contextlib.ExitStack()
        self.last, self.finished = Entry(), False

    def __enter__(self) -> 'Journal':
        """Open or make the two files.

        An output that an earlier process finished is taken as it is, if it is still there.

        Returns:
          The journal.

        Raises:
          ValueError: they belong to another run or are no such files, or another process is
            writing them.
          OSError: they cannot be written.
        """
        with contextlib.ExitStack() as files:
            self._files = files
            self._file = _open(self._path, self._output, files)
            _lock(self._file, self._output)
            has_begun = self._read_back()
            if not has_begun:
                self._check_partial()
            if self.finished and not _has_size(self._output, self.last.written):
                has_begun = self.finished = False  # taken away since, or replaced
            if not self.finished:
                self._open_partial(has_begun)
            self._files = files.pop_all()
        return self

    def _check_partial(self) -> None:
        """Refuse a partial output without a journal of it, which none of these processes leaves."""
        if self._partial.exists() and not _has_size(self._partial, 0):
            self._path.unlink(missing_ok=True)  # it was made just now, or never had a first line
            raise ValueError(f'{self._partial} is no output that an earlier run began, so it is '
                             'left alone; move it away, or name another output')

    def _open_partial(self, has_begun: bool) -> None:
        """Make ready to write behind the last piece, or at the beginning."""
        self._data = _open(self._partial, self._output, self._files)
        if not has_begun:
            self.last = Entry()
            self._known = {}
            self._file.truncate(0)
            self._append(self._header)
        new = {name: self._named[name] for name in self._named.keys() - self._known.keys()}
        if new:
            self._append({'named': new})
        self._data.truncate(self.last.written)
        self._data.seek(0, os.SEEK_END)

    def start_anew(self) -> None:
        """Forget what an earlier process finished: it answers what is no longer asked."""
        self.finished = False
        self._open_partial(has_begun=False)

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self.finished:
            if kind is None and not self._is_part:
                self._path.unlink(missing_ok=True)
                _sync_folder(self._output.parent)
        elif self.last.lines == 0:  # nothing to go on from
            self._partial.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)
        self._files.close()  # the lock goes last

    def add(self, text: bytes, entry: Entry) -> None:
        """Write a piece of the output, then that it is written.

        Args:
          text: the piece.
          entry: how far the work is with it.
        """
        self._write(self._data, text)
        self._append(dataclasses.asdict(entry))
        self.last = entry

    def finish(self) -> None:
        """Give the output its name: all of it is there."""
        self._append({'finished': True})
        os.replace(self._partial, self._output)
        _sync_folder(self._output.parent)
        self.finished = True

    def _append(self, record: Mapping[str, Any]) -> None:
        self._write(self._file, json.dumps(record).encode() + b'\n')

    def _write(self, file: BinaryIO, text: bytes) -> None:
        """Write at the end of a file, and wait until it is on the disk."""
        try:
            file.seek(0, os.SEEK_END)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise OSError(f'cannot write output {self._output}: {error.strerror}; mend that and '
                          'start the same command again to go on behind what is written') from error

    def _read_back(self) -> bool:
        """Take up what an earlier process left; say whether there was anything."""
        self._file.seek(0)
        beginning = self._file.read(len(_BEGINNING))
        if not _BEGINNING.startswith(beginning):
            raise ValueError(f'{self._path} is no journal of an output, so it is left alone; move '
                             'it away, or name another output')
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
        self._known = {name: content for record in records[1:]
                       for name, content in record.get('named', {}).items()}
        both = self._known.keys() & self._named.keys()
        differs = [*_differences(records[0], self._header), *_differences(
            {name: self._known[name] for name in both}, {name: self._named[name] for name in both})]
        if differs:
            raise ValueError(
                f'{self._path} was left by another run: {", ".join(differs)}; give what that run '
                f'was given to go on with it, or delete {self._path} and {self._partial} to start '
                'anew')
        self._file.truncate(whole)
        self.finished = records[-1] == {'finished': True} and not self._partial.exists()
        size = self._partial.stat().st_size if self._partial.exists() else 0
        for record in records[1:]:
            # The output is on the disk before its entry; only a broken disk can have lost it.
            if 'written' in record and (self.finished or record['written'] <= size):
                self.last = Entry(**record)
        return True


def _differences(then: Any, now: Any, name: str = '') -> Iterator[str]:
    """Say where two JSON values differ."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in then | now:
            yield from _differences(then.get(key), now.get(key), f'{name}.{key}' if name else key)
    elif then != now:
        yield f'{name} was {then!r} and is now {now!r}'


def journal_path(output: str | os.PathLike) -> str:
    """Return where the journal of an output stands."""
    return f'{output}.journal'


def _has_size(path: pathlib.Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the record of a whole line."""
    try:
        record = json.loads(line) if line.endswith(b'\n') else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _open(path: pathlib.Path, output: pathlib.Path, files: contextlib.ExitStack) -> BinaryIO:
    """Open for reading and writing, made if it is not there, nothing cut off."""
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), 'r+b')
    except OSError as error:
        raise OSError(f'cannot write output {output}: {error.strerror} ({path})') from error
    files.callback(_close, file)
    return file


def _close(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # what a failed write left in the buffer has been told
        file.close()


def _lock(file: BinaryIO, output: pathlib.Path) -> None:
    """Keep a second process from writing the same output; a kill gives the lock back."""
    try:
        import fcntl  # not on Windows, where two processes are the user's business
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f'another process is writing output {output}; wait for it, or name '
                         'another output') from error
    except OSError as error:  # some network file systems cannot
        _log.warning('output %s cannot be locked (%s); see to it that no second process writes it',
                     output, error.strerror)


def _sync_folder(folder: pathlib.Path) -> None:
    """Make a rename last through a power failure, where folders can be synchronised."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def hash_start(file: BinaryIO, start: int, size: int) -> Any:
    """Hash some bytes of a file, which is left behind them.

    Args:
      file: open for reading.
      start: where they begin.
      size: how many; fewer where the file ends.

    Returns:
      hashlib's SHA-256, to be updated with what follows.
    """
    file.seek(start)
    found = hashlib.sha256()
    for chunk in _chunks(file, size):
        found.update(chunk)
    return found


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (chunk := file.read(min(size, _HASHED_AT_ONCE))):
        size -= len(chunk)
        yield chunk
