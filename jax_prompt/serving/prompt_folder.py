"""The folder of prompts that a server serves: names, versions, and what is new there.

A file `NAME@VERSION.safetensors` is that version of prompt NAME. A file `NAME.safetensors`, such as
a training run overwrites, is a version named by its content; contents that it had before stay in
use for those who name them. A request that names no version gets `NAME.safetensors` where it
exists, and the highest version otherwise, numbers inside versions counting as numbers.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import pathlib
import re
import secrets
import threading
from collections.abc import Callable, Mapping

from jax_prompt.inference.engine import Engine, UnknownPrompt
from jax_prompt.inference.rows import ServedPrompt
from jax_prompt.prompts.file import load_prompt
from jax_prompt.serving.names import NAME_PATTERN, split_name, version_order

_log = logging.getLogger(__name__)

ENDING = '.safetensors'
class Exists(ValueError):
    """That version is there already, with another content."""


@dataclasses.dataclass(frozen=True, eq=False)
class Version:
    """One version of a prompt in use.

    Attributes:
      name, version: together `name@version`, by which the engine knows it.
      prompt: in the engine.
      path: its file; None for an earlier content of a file that was overwritten.
    """

    name: str
    version: str
    prompt: ServedPrompt
    path: pathlib.Path | None

    @property
    def full_name(self) -> str:
        """Return the name that always means this version."""
        return f'{self.name}@{self.version}'


class PromptFolder:
    """Keep an engine's prompts as a folder has them.

    Example:
      >>> folder = PromptFolder(engine, 'prompts')  # doctest: +SKIP
      >>> folder.refresh()  # doctest: +SKIP
      >>> folder.find('sst2').full_name  # doctest: +SKIP
      'sst2@3'
    """

    def __init__(self, engine: Engine, path: str | os.PathLike, kept_versions: int = 4,
                 warm_up_length: int | None = None, stop: Callable[[], bool] = lambda: False):
        """Name a folder.

        Args:
          engine: whose prompts it holds.
          path: the folder.
          kept_versions: of a file that is overwritten, how many earlier contents stay in use.
          warm_up_length: up to which lengths programs are compiled before a prompt is in use.
          stop: is asked now and then whether to leave the rest undone.

        Raises:
          FileNotFoundError: there is no such folder.
        """
        self.path = pathlib.Path(os.path.realpath(path))
        if not self.path.is_dir():
            raise FileNotFoundError(f'the folder of prompts {path} does not exist; make it, and '
                                    'put prompt files into it')
        self._engine, self._kept, self._longest = engine, kept_versions, warm_up_length
        # Held by whoever changes something, compiling included; requests read what was published.
        self._lock, self._stop = threading.RLock(), stop
        self._published: dict[str, list[Version]] = {}
        self._stamps: dict[str, tuple] = {}  # file name -> what tells a change
        self._current: dict[str, Version] = {}  # file name -> the content in use
        self._earlier: dict[str, collections.deque[Version]] = {}  # file name -> older contents

    def versions(self) -> dict[str, list[Version]]:
        """Return all versions in use, by name; each name's default is the first of its list."""
        return self._published

    def find(self, name: str) -> Version:
        """Return what 'name' or 'name@version' means now.

        Raises:
          BadName: it cannot be a name.
          UnknownPrompt: nothing of that name is in use.
        """
        base, version = split_name(name)
        versions = self._published.get(base, [])
        for one in versions:
            if version in (None, one.version):
                return one
        if versions:
            raise UnknownPrompt(f'prompt {base!r} has no version {version!r}; there are: '
                                f'{", ".join(one.version for one in versions[:10])}')
        raise UnknownPrompt(f'no prompt {base!r} in use; see GET /v1/prompts')

    def refresh(self) -> None:
        """Take up what is new or changed in the folder, and let go of what is no longer there.

        A file that cannot be used is said once in the log; what it held before stays in use.
        """
        with self._lock:
            found = self._scan()
            for file_name in set(self._current) - set(found):
                self._let_go(file_name)
                self._publish()
            for file_name in set(self._stamps) - set(found):
                del self._stamps[file_name]
            for file_name, (path, stamp) in found.items():
                if self._stamps.get(file_name) == stamp or self._stop():
                    continue
                self._stamps[file_name] = stamp
                try:
                    self._take_up(file_name, path)
                    self._publish()
                except (ValueError, OSError) as error:
                    _log.warning('prompt %s is not taken into use: %s', file_name, error)

    def upload(self, name: str, content: bytes) -> tuple[Version, bool]:
        """Add a version of a prompt to the folder, and take it into use.

        Args:
          name: 'name@version', or 'name' for the next whole number.
          content: of a prompt file.

        Returns:
          The version, and whether it is new: one that is there with the same content is not.

        Raises:
          BadName: it cannot be a name.
          Exists: the version is there with another content.
          ValueError: this is no prompt file, or it does not fit the model.
        """
        base, version = split_name(name)
        with self._lock:
            temporary = self.path / f'.upload.{secrets.token_hex(8)}.tmp'
            try:
                with open(temporary, 'xb') as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                self._check(temporary)
                version = version or self._next(base)
                path = self.path / f'{base}@{version}{ENDING}'
                try:
                    os.link(temporary, path)  # unlike a rename, never in place of another
                except FileExistsError:
                    if path.read_bytes() != content:
                        raise Exists(f'prompt {base}@{version} is there with another content; '
                                     'give another version') from None
                    self.refresh()
                    return self._in_use(path), False
            finally:
                temporary.unlink(missing_ok=True)
            self.refresh()
            return self._in_use(path), True

    def remove(self, name: str) -> list[str]:
        """Delete a version, or all of a prompt, from the folder and from use.

        Requests under way are still answered.

        Returns:
          The full names of what was removed.

        Raises:
          BadName: it cannot be a name.
          UnknownPrompt: nothing of that name is in use.
        """
        base, version = split_name(name)
        with self._lock:
            self.find(name)
            gone = [one for one in self._published[base] if version in (None, one.version)]
            for one in gone:
                if one.path is not None:
                    one.path.unlink(missing_ok=True)
                else:
                    self._forget(one)
            self._publish()
            self.refresh()
            return [one.full_name for one in gone]

    def _publish(self) -> None:
        """Let requests see the versions as they are now."""
        found: dict[str, list[Version]] = {}
        for file_name, version in self._current.items():
            found.setdefault(version.name, []).append(version)
            found[version.name] += reversed(self._earlier.get(file_name, ()))
        for name, versions in found.items():
            versions.sort(key=lambda one: version_order(one.version), reverse=True)
            versions.sort(key=lambda one, name=name: _rank(one, name))
        self._published = dict(sorted(found.items()))

    def _in_use(self, path: pathlib.Path) -> Version:
        if path.name not in self._current:
            raise ValueError(f'{path.name} is in the folder but cannot be used; the log says why')
        return self._current[path.name]

    def _scan(self) -> Mapping[str, tuple[pathlib.Path, tuple]]:
        """Return the prompt files by name, with what tells a change."""
        found = {}
        for entry in sorted(os.scandir(self.path), key=lambda entry: entry.name):
            if not re.fullmatch(NAME_PATTERN, entry.name.removesuffix(ENDING)):
                continue
            if not entry.name.endswith(ENDING):
                continue
            path = pathlib.Path(os.path.realpath(entry.path))
            if not path.is_relative_to(self.path):
                if self._stamps.get(entry.name) != (str(path),):
                    _log.warning('prompt %s leads out of the folder of prompts and is left out',
                                 entry.name)
                self._stamps[entry.name] = (str(path),)
                found[entry.name] = (path, (str(path),))
                continue
            with contextlib.suppress(OSError):  # gone since
                found[entry.name] = (path, _stamp(path))
        return found

    def _take_up(self, file_name: str, path: pathlib.Path) -> None:
        """Load a file into the engine, in place of what it held before.

        Programs that it needs and nobody has needed so far are compiled before requests see it.
        """
        base, version = split_name(file_name.removesuffix(ENDING))
        if not path.is_file():
            raise ValueError('it is no regular file')
        file = load_prompt(path)
        # By its content: what is known already need not be loaded again.
        digest = ServedPrompt('', None, None, None, None, file).digest
        version = version or digest
        before = self._current.get(file_name)
        if before is not None and before.prompt.digest == digest:
            return
        self._forget_equal(file_name, version)
        prompt = self._engine.add(f'{base}@{version}', file)
        self._engine.warm_up(self._engine.samples(prompt), self._longest, self._stop)
        self._current[file_name] = Version(base, version, prompt, self.path / file_name)
        if before is not None and before.version != version:
            self._keep(file_name, before)
        _log.info('prompt %s is in use', f'{base}@{version}')

    def _keep(self, file_name: str, version: Version) -> None:
        """Keep an earlier content of a file in use; the oldest make room."""
        earlier = self._earlier.setdefault(file_name, collections.deque())
        earlier.append(dataclasses.replace(version, path=None))
        while len(earlier) > self._kept:
            self._engine.remove(earlier.popleft().full_name)

    def _forget_equal(self, file_name: str, version: str) -> None:
        """Drop an earlier content that has come back."""
        for one in list(self._earlier.get(file_name, ())):
            if one.version == version:
                self._forget(one)

    def _forget(self, version: Version) -> None:
        """Drop an earlier content."""
        for earlier in self._earlier.values():
            if version in earlier:
                earlier.remove(version)
                self._engine.remove(version.full_name)

    def _let_go(self, file_name: str) -> None:
        """Drop a file that is no longer there, with its earlier contents."""
        for version in [self._current.pop(file_name), *self._earlier.pop(file_name, ())]:
            self._engine.remove(version.full_name)
            _log.info('prompt %s is no longer in use', version.full_name)

    def _check(self, path: pathlib.Path) -> None:
        """Refuse what the engine would refuse, with a word on the upload instead of its file."""
        name = f'.check.{secrets.token_hex(8)}'
        try:
            self._engine.add(name, load_prompt(path))
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), 'uploaded')) from None
        self._engine.remove(name)

    def _next(self, base: str) -> str:
        """Return the next whole number as a version."""
        pattern = re.compile(rf'{re.escape(base)}@(\d+){re.escape(ENDING)}')
        matches = [pattern.fullmatch(entry.name) for entry in os.scandir(self.path)]
        return str(max((int(match[1]) for match in matches if match), default=0) + 1)


def _rank(version: Version, name: str) -> int:
    """Order kinds of versions: the file without a version, then files, then earlier contents."""
    if version.path is None:
        return 2
    return 0 if version.path.name == f'{name}{ENDING}' else 1


def _stamp(path: pathlib.Path) -> tuple:
    """Return what tells that a file has changed."""
    stat = path.stat()
    return str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns
