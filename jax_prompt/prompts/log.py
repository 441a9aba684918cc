"""An append-only log that several machines may write to: a file an entry, numbered.

An entry comes into being whole and once (`create_file`), so of two writers who both saw entry
41 as the last one, one makes number 42 and the other is told to look again. That makes the log its
own lock: what holds now follows from its entries alone, and a kill leaves nothing half done. A
shared file that is appended to would not do, since NFS may lose or mix up what two machines append.

Each entry has a digest of its own and that of the one before it, so that an entry that was edited,
lost or put in later is found.
"""

import dataclasses
import datetime
import errno
import getpass
import json
import os
import re
import secrets
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_prompt.files import brief, first_line, remove_litter, sealed, shown, sync_folder
from jax_prompt.prompts.versions import WORD

FORMAT = 1
#: Bytes of an entry, entries of a log, and characters of a text in one: more than any needs.
MOST_BYTES, MOST_ENTRIES, LONGEST_TEXT = 2**16, 100_000, 500
ADD, TAG, PROMOTE, ROLLBACK, CANARY = 'add', 'tag', 'promote', 'rollback', 'canary'
_ACTIONS = (ADD, TAG, PROMOTE, ROLLBACK, CANARY)
_FILE = re.compile(r'([0-9]{8})\.json')


@dataclasses.dataclass(frozen=True)
class Entry:
    """What was done to a prompt, by whom and when.

    Attributes:
      number: its place in the log, from 1.
      action: 'add', 'tag', 'promote', 'rollback' or 'canary'.
      version: that it was done to, or that was gone back to; None where a tag or a canary ends.
      who, why: as the caller said.
      when: UTC, as ISO 8601 writes it.
      details: of 'add' sha256, parent and run; of 'tag' tag; of 'canary' share.
      before: digest of the entry before it; '' for the first.
      digest: of all the above.
    """

    number: int
    action: str
    version: str | None
    who: str
    when: str
    why: str
    details: Mapping[str, Any]
    before: str
    digest: str


class PromptLog:
    """The log of one prompt: a folder of files 00000001.json, 00000002.json, ..."""

    def __init__(self, folder: Path):
        """Name its folder, two below that of the prompts; the first entry makes it."""
        self.folder = folder
        # Entries never change, so each is read once.
        self._known: dict[int, Entry | str] = {}

    def entries(self) -> list[Entry]:
        """Return the entries that can be read, in order; `problems` tells of the others.

        Raises:
          ValueError: there are too many.
          OSError: the folder or an entry cannot be read now.
        """
        self._look()
        return [one for _, one in sorted(self._known.items()) if isinstance(one, Entry)]

    def problems(self) -> list[str]:
        """Return what is wrong with the log, a line each; none where it is whole.

        Raises:
          ValueError, OSError: as for `entries`.
        """
        self._look()
        found, expected, before = [], 1, ''
        for number, one in sorted(self._known.items()):
            if number != expected:
                gone = f'entry {expected:,} is' if number == expected + 1 else \
                    f'entries {expected:,} to {number - 1:,} are'
                found.append(f'{gone} missing in {self.folder}')
            if isinstance(one, str):
                found.append(f'{self.folder / _name(number)} {one}')
            elif number == expected and before not in (None, one.before):
                found.append(f'{self.folder / _name(number)} does not follow on the entry before '
                             'it, which was replaced')
            expected, before = number + 1, one.digest if isinstance(one, Entry) else None
        return found

    def append(self, action: str, version: str | None, who: str, why: str,
               details: Mapping[str, Any]) -> Entry | None:
        """Write an entry behind the last one that `entries` or `problems` saw.

        Args:
          action, version, who, why, details: see `Entry`.

        Returns:
          It; None if another writer was there first, so that what it rests on may no longer hold.

        Raises:
          ValueError: a text is too long or has more than one line, or the log is full.
          OSError: it cannot be written.
        """
        last = max(self._known, default=0)
        if last >= MOST_ENTRIES:
            raise ValueError(f'the log {self.folder} has {last:,} entries, the most that there may '
                             'be; go on under another name')
        one = self._known.get(last)
        record = sealed({
            'format': FORMAT, 'number': last + 1, 'action': action, 'version': version, 'who': who,
            'when': datetime.datetime.now(datetime.UTC).isoformat(timespec='milliseconds'),
            'why': why, 'details': dict(details),
            'before': one.digest if isinstance(one, Entry) else ''})
        entry = _checked(record, last + 1)
        content = (json.dumps(record, indent=1, ensure_ascii=False) + '\n').encode()
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_litter(self.folder)
        if not create_file(self.folder / _name(last + 1), content):
            return None
        self._known[last + 1] = entry
        return entry

    def _look(self) -> None:
        """Read what is new."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            self.folder.parents[1].stat()  # where the folder of prompts is lost nothing is known
            names = []
        except NotADirectoryError:
            names = []
        numbers = {int(match[1]) for match in map(_FILE.fullmatch, names) if match}
        if len(numbers) > MOST_ENTRIES:
            raise ValueError(f'the log {self.folder} has {len(numbers):,} entries; expected at '
                             f'most {MOST_ENTRIES:,}')
        self._known = {number: one for number, one in self._known.items() if number in numbers}
        for number in sorted(numbers - self._known.keys()):
            self._known[number] = _read(self.folder / _name(number), number)


def create_file(path: Path, content: bytes) -> bool:
    """Make a new file, whole, unless one of its name is there.

    Of several writers, on several machines of a shared file system too, one makes it: a hard link
    is made by the server of the file system, at once and never over another name. A kill at any
    moment leaves the whole file or none.

    Args:
        path: where to; its folder is there.
        content: all of it.

    Returns:
        Whether this call made it.

    Raises:
        OSError: it cannot be written, or the file system has no hard links.
    """
    # Two machines may have processes of one number, so that chance must tell their files apart.
    temporary = path.with_name(f'.{path.name}.{secrets.randbelow(10**16)}.tmp')
    try:
        with temporary.open('xb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            # Where NFS loses the answer and asks again, it is told of the link that it made itself.
            return temporary.stat().st_nlink > 1
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
                raise OSError(f'the file system of {path.parent} has no hard links, which let one '
                              'of several writers be first; keep the folder on a local disk or on '
                              'NFS') from error
            raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def caller() -> str:
    """Return who calls, as user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container without a list of users
        user = str(os.getuid()) if hasattr(os, 'getuid') else 'unknown'
    return shown(f'{user}@{socket.gethostname()}')[:LONGEST_TEXT]


def _name(number: int) -> str:
    return f'{number:08}.json'


def _read(path: Path, number: int) -> Entry | str:
    """Return an entry, or what is wrong with its file; whatever it is, it is soon read."""
    try:  # neither a link nor a pipe may send the reader elsewhere, or let it wait
        descriptor = os.open(path, os.O_RDONLY | getattr(os, 'O_NOFOLLOW', 0)
                             | getattr(os, 'O_NONBLOCK', 0))
        with os.fdopen(descriptor, 'rb') as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return 'is no regular file'
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            return 'is no regular file'
        raise
    if len(content) > MOST_BYTES:
        return f'has more than {MOST_BYTES:,} bytes'
    try:
        return _checked(json.loads(content), number)
    except (ValueError, RecursionError) as error:
        return f'is no entry of a log ({first_line(error)})'


def _checked(record: Any, number: int) -> Entry:
    """Return what a record says, once all of it is what it should be.

    Raises:
      ValueError: says what is not.
    """
    if not isinstance(record, dict) or record.get('format') != FORMAT:
        raise ValueError(f'it is no JSON object of format {FORMAT}')
    if sealed(record) != record:
        raise ValueError('it does not match its digest: it was damaged or edited')
    for name in ('who', 'when', 'why', 'before', 'digest'):
        text = record.get(name)
        if not isinstance(text, str) or len(text) > LONGEST_TEXT or shown(text) != text:
            raise ValueError(f'{name} is {brief(text)}; expected text of one line, at most '
                             f'{LONGEST_TEXT} characters')
    if record.get('number') != number:
        raise ValueError(f'it is number {brief(record.get("number"))}; expected {number}')
    if record.get('action') not in _ACTIONS:
        raise ValueError(f'its action is {brief(record.get("action"))}; expected one of '
                         f'{", ".join(_ACTIONS)}')
    datetime.datetime.fromisoformat(record['when'])
    action, version, details = record['action'], record.get('version'), record.get('details')
    may_end = action in (TAG, CANARY)
    if not _is_word(version) and not (version is None and may_end):
        raise ValueError(f'its version is {brief(version)}; expected letters, digits, dots, dashes '
                         'and underscores')
    _check_details(action, version, details)
    return Entry(**{field.name: record[field.name] for field in dataclasses.fields(Entry)})


def _check_details(action: str, version: str | None, details: Any) -> None:
    """Refuse details that are not those of the action."""
    told = details if isinstance(details, dict) else {}
    share, run = told.get('share'), told.get('run')
    whole = {
        ADD: lambda: re.fullmatch('[0-9a-f]{64}', str(told.get('sha256'))) and (
            told.get('parent') is None or _is_word(told['parent'])) and (
            run is None or isinstance(run, str) and len(run) <= LONGEST_TEXT and shown(run) == run),
        TAG: lambda: _is_word(told.get('tag')),
        CANARY: lambda: version is None or type(share) in (int, float) and 0 < share < 1,
    }
    if not isinstance(details, dict) or not whole.get(action, lambda: True)():
        raise ValueError(f'its details are {brief(details)}, which are not those of {action}')


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(WORD, value) is not None
