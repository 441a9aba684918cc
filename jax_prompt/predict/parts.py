"""An output that is written over hours, by processes that may be killed at any moment.

While it is made, a folder stands beside it, `OUTPUT.parts`. Its `run.json` says what the answers
depend on, and each window of lines is answered by a file of its own, which appears whole. Started
again after a kill, a run answers the windows that have none. When all have, the files are joined in
their order, and the folder goes. Windows follow from the lines alone, so hosts share them freely.
"""

import contextlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from jax_prompt.files import (
    GO_ON,
    locked,
    new_file,
    sealed,
    sync_folder,
    write_file,
    write_folder,
    writing,
)
from jax_prompt.parallel.hosts import check_together, from_first
from jax_prompt.predict.inputs import Window

#: Describes the run; its kind tells the folder from a user's own of that name.
_RUN, _KIND = 'run.json', 'jax_prompt_parts'
_LOCK = 'lock'


class Answered(NamedTuple):
    """The answers to a window of lines.

    Attributes:
      asked: digest of the lines, and of where they stand.
      named: digests of the prompts that gave the answers, by names.
      lines: how many.
      cut: how many inputs were cut to fit the model.
      text: the lines to write.
    """

    asked: str
    named: dict[str, str]
    lines: int
    cut: int
    text: str


class Parts:
    """The answers to an input, window by window, on their way to an output.

    Used as a context, by all hosts of a job together. Leaving it leaves what the next start needs,
    or nothing at all where no window is answered.

    Attributes:
      output: the file to make; where a link leads, so that the link stays.
      folder: where the parts stand meanwhile.
    """

    def __init__(self, output: str | os.PathLike, run: Mapping[str, Any],
                 named: Mapping[str, str]):
        """Name an output, and all that it depends on besides its input.

        Args:
          output: the file to make.
          run: what must be the same for a later process to go on; what JSON can hold.
          named: digests by names; some may come and go between two processes, but none that has
            answered a window may change.
        """
        self.output = pathlib.Path(os.path.realpath(output))
        self.folder = self.output.with_name(f'{self.output.name}.parts')
        self._run, self._named = json.loads(json.dumps(run)), dict(named)
        self._asked: list[str] = []  # digests of the windows, as far as the input is read
        self._lock = contextlib.ExitStack()  # of the first host, for all of them
        self._is_held = False

    def __enter__(self) -> 'Parts':
        """Make the folder, or take it up.

        Returns:
          The parts.

        Raises:
          ValueError: it belongs to another run, or is no such folder, or another process is at
            work in it, or this host sees another one than the first.
          OSError: it cannot be made.
        """
        try:
            mark = from_first(self._begin)
            check_together(lambda: self._check(mark))
        except (ValueError, OSError):
            self._leave()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        # Of several hosts none knows whether another one is about to write the first part.
        self._leave(may_remove=jax.process_count() == 1)

    def _leave(self, may_remove: bool = True) -> None:
        if self._is_held and may_remove and self.count() == 0:
            self._remove()
        self._lock.close()

    def _begin(self) -> str:
        """Make the folder ready for all hosts; return what tells it from one on another disk."""
        described = json.dumps({_KIND: secrets.token_hex(8), 'run': self._run}).encode()
        with self._writing():
            with contextlib.suppress(FileExistsError):
                write_folder(self.folder, {_RUN: described}, _RUN)
            if _KIND not in _read_object(self.folder / _RUN):
                raise ValueError(f'{self.folder} is no folder that an earlier run began, so it is '
                                 'left alone; move it away, or name another output')
            self._lock.enter_context(locked(self.folder / _LOCK, f'writing output {self.output}'))
            self._is_held = True
            if self.count():
                self._refuse_other(_read_object(self.folder / _RUN).get('run'), self._run)
            else:  # an earlier run came to nothing
                write_file(self.folder / _RUN, described, overwrite=True)
        return _read_object(self.folder / _RUN)[_KIND]

    def _check(self, mark: str) -> None:
        if _read_object(self.folder / _RUN).get(_KIND) != mark:
            raise ValueError(f'output {self.output} of this host is not the one that the first '
                             'host joins of all answers; give all hosts one output, in a folder '
                             'that they share')

    def count(self) -> int:
        """Return how many windows are answered."""
        return len(list(self.folder.glob('*.part')))

    def missing(self, windows: Iterable[Window],
                share: tuple[int, int] | None = None) -> Iterator[Window]:
        """Yield the windows that are this host's to answer and that no process has answered.

        Args:
          windows: of the whole input.
          share: (i, n) for every n-th window from the i-th on; None for what is this host's.

        Raises:
          ValueError: the lines, or a prompt that answered some, have changed since.
        """
        host, hosts = share or (jax.process_index(), jax.process_count())
        for window in windows:
            self._asked.append(window.digest)
            if window.number % hosts != host:
                continue
            answered = self._read(window.number)
            if answered is None:
                yield window
                continue
            if answered.asked != self._asked[-1]:
                raise ValueError(f'{window.places[0]} or one of the {len(window.lines) - 1} behind '
                                 'it has changed since an earlier run answered them; give the file '
                                 f'as it was to go on, or delete {self.folder} to start anew')
            self._refuse_other(answered.named, {name: self._named.get(name, digest)
                                                for name, digest in answered.named.items()})

    def add(self, number: int, answered: Answered) -> None:
        """Keep the answers to a window; when this returns, all of them are on the disk."""
        record = json.dumps(sealed(answered._asdict() | {'run': sealed(self._run)['digest']}),
                            ensure_ascii=False)
        with self._writing():
            write_file(self._path(number), record.encode(), overwrite=True)

    def join(self) -> tuple[int, int]:
        """Write the output, which appears whole, and take the folder away.

        The first host does so, when all hosts have answered what was missing.

        Returns:
          The lines, and how many of them were cut.

        Raises:
          ValueError: a window has no answers, or there are answers to what the input has not.
        """
        if self.count() > len(self._asked):
            raise ValueError(f'the input ends before lines that an earlier run answered; give the '
                             f'file as it was to go on, or delete {self.folder} to start anew')
        lines = cut = 0
        whole = self.folder / 'whole.tmp'
        with self._writing():
            with new_file(whole, overwrite=True) as file:
                for number, asked in enumerate(self._asked):
                    answered = self._read(number)
                    if answered is None or answered.asked != asked:  # another host's input differs
                        raise ValueError(f'{self._path(number)} is not there as it was written; '
                                         'start the same command again, on all hosts')
                    file.write(answered.text.encode())
                    lines, cut = lines + answered.lines, cut + answered.cut
            os.replace(whole, self.output)
            sync_folder(self.output.parent)
        self._remove()
        return lines, cut

    def _path(self, number: int) -> pathlib.Path:
        return self.folder / f'{number:08d}.part'

    def _read(self, number: int) -> Answered | None:
        """Return the answers to a window; none where they are not what was written.

        Raises:
          ValueError: they are whole and another run's.
        """
        record = _read_object(self._path(number))
        if not record or sealed(record) != record:
            return None
        if record.get('run') != sealed(self._run)['digest']:
            raise ValueError(f'{self._path(number)} is of another run than {self.folder / _RUN}; '
                             'delete it to have its lines answered again')
        return Answered(*(record[name] for name in Answered._fields))

    def _remove(self) -> None:
        """Take the folder away, and last what it is known by, for a kill may come in between."""
        for path in [*self.folder.glob('*.part'), *self.folder.glob('*.tmp')]:
            path.unlink(missing_ok=True)
        self._lock.close()  # some network file systems keep a file that is open
        self._is_held = False
        (self.folder / _RUN).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # where something of the user's stands in it
            self.folder.rmdir()

    def _refuse_other(self, then: Any, now: Any) -> None:
        differs = ', '.join(_differences(then, now))
        if differs:
            raise ValueError(f'{self.folder} was left by another run: {differs}; give what that '
                             f'run was given to go on with it, or delete {self.folder} to start '
                             'anew')

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing(f'output {self.output}', GO_ON)


def _read_object(path: pathlib.Path) -> dict[str, Any]:
    """Return the JSON object of a file; an empty one where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _differences(then: Any, now: Any, name: str = '') -> Iterator[str]:
    """Say where two JSON values differ."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in then | now:
            yield from _differences(then.get(key), now.get(key), f'{name}.{key}' if name else key)
    elif then != now:
        yield f'{name} was {then!r} and is now {now!r}'
