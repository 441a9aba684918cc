"""The folder of prompts that a server serves: names, versions, and what is new there.

A file `NAME@VERSION.safetensors` is that version of prompt NAME. A file `NAME.safetensors`, such as
a training run overwrites, is a version named by its content; contents that it had before stay in
use, in memory, for those who name them. A version is one content, however many files hold it. A
request that names no version gets `NAME.safetensors` where it exists, else the highest version that
has a file, numbers inside versions counting as numbers, else the newest of the earlier contents.
"""

import dataclasses
import itertools
import logging
import os
import pathlib
import secrets
import threading
from collections.abc import Callable

from jax_prompt.inference.engine import Engine, UnknownPrompt
from jax_prompt.inference.rows import ServedPrompt
from jax_prompt.prompts.file import PromptFile, load_prompt
from jax_prompt.serving.folder_scan import ENDING, Seen, scan
from jax_prompt.serving.names import split_name, version_order
from jax_prompt.serving.uploads import Numbers, check_size, place, written_aside

_log = logging.getLogger(__name__)


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
        self._seen: dict[str, Seen] = {}  # file name -> its last state
        self._current: dict[str, Version] = {}  # file name -> the content in use
        # name -> older contents of its file without a version, the newest first
        self._earlier: dict[str, list[Version]] = {}
        self._numbers = Numbers()

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

        A file that cannot be used is said in the log; what it held before stays in use. It is tried
        again when it changes, or where the reason may pass, later and later.

        Raises:
          OSError: the folder cannot be read.
        """
        with self._lock:
            found = scan(self.path)
            for file_name in set(self._current) - set(found):
                version = self._current.pop(file_name)
                if file_name == version.name + ENDING:
                    self._earlier.pop(version.name, None)
            self._publish()
            self._seen = {name: seen for name, seen in self._seen.items() if name in found}
            for file_name, (path, stamp) in found.items():
                if self._stop():
                    return
                if self._seen.setdefault(file_name, Seen()).is_due(stamp):
                    self._try(file_name, path)

    def upload(self, name: str, content: bytes) -> tuple[Version, bool]:
        """Add a version of a prompt to the folder, and take it into use.

        It comes into the folder once all that it needs is compiled. It is what the bare name means
        only where the rule of the folder says so: `NAME.safetensors` goes before it.

        Args:
          name: 'name@version'; or 'name' for the version that has this content in a file, or else
            the next whole number.
          content: of a prompt file.

        Returns:
          The version, and whether it is new: one that is there with the same content is not.

        Raises:
          BadName: it cannot be a name.
          Exists: the version is there with another content.
          ValueError: this is no prompt file, it does not fit the model, or it is too large.
        """
        base, version = split_name(name)
        with self._lock, written_aside(self.path, content) as aside:
            digest = self._check(aside)
            if version is None:
                self.refresh()  # else a file might hold another content than is known
                for one in self._published.get(base, ()):
                    if one.path is not None and one.prompt.digest == digest:
                        return one, False
                version = self._next(base)
            path = self.path / f'{base}@{version}{ENDING}'
            try:
                place(aside, path)
            except FileExistsError:
                if not path.is_file() or path.read_bytes() != content:
                    raise _exists(f'{base}@{version}') from None
                self.refresh()
                if path.name not in self._current:
                    raise ValueError(f'{path.name} is in the folder but cannot be used; the log '
                                     'says why') from None
                return self._current[path.name], False
            try:
                self._take_up(path.name, path)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            return self._current[path.name], True

    def remove(self, name: str) -> list[str]:
        """Delete a version, or all of a prompt, from the folder and from use.

        Requests under way are still answered. Of a file that was overwritten the earlier contents
        stay in use when only the one that it has now is deleted; having no file, they last no
        longer than this process.

        Args:
          name: 'name@version', or 'name' for all versions, earlier contents included.

        Returns:
          The full names of what was removed.

        Raises:
          BadName: it cannot be a name.
          UnknownPrompt: nothing of that name is in use.
        """
        base, version = split_name(name)
        with self._lock:
            self.refresh()  # else the file might hold another content than the one to delete
            self.find(name)
            gone = [one.full_name for one in self._published[base]
                    if version in (None, one.version)]
            for file_name, one in list(self._current.items()):
                if one.full_name in gone:
                    (self.path / file_name).unlink(missing_ok=True)
                    del self._current[file_name]
            self._keep(base, [one for one in self._earlier.get(base, ())
                              if one.full_name not in gone])
            self._publish()
            return gone

    def _publish(self) -> None:
        """Let requests see the versions as they are now; the engine forgets the others."""
        files = sorted(self._current.values(), key=lambda one: version_order(one.version),
                       reverse=True)
        files.sort(key=lambda one: one.path.name != one.name + ENDING)
        found: dict[str, dict[str, Version]] = {}
        for one in itertools.chain(files, *self._earlier.values()):
            found.setdefault(one.name, {}).setdefault(one.version, one)
        before = self._published
        self._published = {name: list(found[name].values()) for name in sorted(found)}
        for one in itertools.chain(*before.values()):
            if one.version not in found.get(one.name, ()):
                self._engine.remove(one.full_name)
                _log.info('prompt %s is no longer in use', one.full_name)

    def _try(self, file_name: str, path: pathlib.Path) -> None:
        """Take a file up; whatever is wrong with it is no other file's matter."""
        try:
            self._take_up(file_name, path)
        except Exception as error:
            expected = isinstance(error, (ValueError, OSError))
            shown = repr(file_name)[1:-1]  # some characters would break the line, or the log
            _log.warning('prompt %s is not taken into use: %s', shown, error,
                         exc_info=None if expected else error)
            # What is wrong with its content stays so; a lack of memory or a lost disk may not.
            if not isinstance(error, ValueError) or isinstance(error.__cause__, OSError):
                self._seen[file_name].rest()

    def _take_up(self, file_name: str, path: pathlib.Path) -> None:
        """Take a file into use, in place of what it held before."""
        if not file_name.endswith(ENDING):
            raise ValueError(f'its name does not end in {ENDING}; rename it')
        base, version = split_name(file_name.removesuffix(ENDING))
        if not path.is_relative_to(self.path):
            raise ValueError('it leads out of the folder of prompts')
        if not path.is_file():
            raise ValueError('it is no regular file')
        file = load_prompt(path)
        digest = _digest(file)
        before = self._current.get(file_name)
        if before is not None and before.prompt.digest == digest:
            return
        full_name = f'{base}@{version or digest}'
        prompt = self._held_otherwise(full_name, digest, before)
        if prompt is None:
            self._warm_up(file)
            prompt = self._engine.add(full_name, file)
        self._current[file_name] = Version(base, version or digest, prompt, self.path / file_name)
        if version is None and before is not None:
            earlier = [dataclasses.replace(before, path=None), *self._earlier.get(base, ())]
            self._keep(base, [one for one in earlier if one.version != digest])
        self._numbers.note(base, version or '')
        self._publish()
        _log.info('prompt %s is in use', full_name)

    def _held_otherwise(self, full_name: str, digest: str,
                        before: Version | None) -> ServedPrompt | None:
        """Return a version that something else than what a file held before holds, if any does."""
        for one in itertools.chain(self._current.values(), *self._earlier.values()):
            if one is not before and one.full_name == full_name:
                if one.prompt.digest != digest:
                    raise _exists(full_name)
                return one.prompt
        return None

    def _keep(self, base: str, earlier: list[Version]) -> None:
        """Keep earlier contents in use, the newest first; the oldest make room."""
        self._earlier[base] = earlier[:self._kept]

    def _warm_up(self, file: PromptFile) -> None:
        """Compile what a prompt needs and nobody has needed so far, before it has its name."""
        self._engine.make_room(len(file.prompt_PD), self._stop)
        name = f'.new.{secrets.token_hex(8)}'
        prompt = self._engine.add(name, file)
        try:
            self._engine.warm_up(self._engine.samples(prompt), self._longest, self._stop)
        finally:
            self._engine.remove(name)

    def _check(self, path: pathlib.Path) -> str:
        """Return the digest of what can be used; else say 'uploaded' instead of the file's path."""
        try:
            file = load_prompt(path)
            check_size(file, self._engine)
            self._warm_up(file)
            return _digest(file)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), 'uploaded')) from None

    def _next(self, base: str) -> str:
        """Return the next whole number as a version."""
        prefix = f'{base}@'
        return self._numbers.next(base, [
            name.removeprefix(prefix).removesuffix(ENDING) for name in os.listdir(self.path)
            if name.startswith(prefix) and name.endswith(ENDING)])


def _digest(file: PromptFile) -> str:
    return ServedPrompt('', None, None, None, None, file).digest


def _exists(full_name: str) -> Exists:
    return Exists(f'prompt {full_name} is there with another content; give another version')
