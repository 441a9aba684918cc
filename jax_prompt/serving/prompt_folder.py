"""The folder of prompts that a server serves: names, versions, and what is new there.

A file `NAME@VERSION.safetensors` is that version of prompt NAME. A file `NAME.safetensors`, such as
a training run overwrites, is a version named by its content, for as long as it has that content. A
request that names no version gets the promoted one (`prompts.registry`), which is heeded at once;
where none is, `NAME.safetensors` if it exists, else the highest version, numbers inside versions
counting as numbers. A tag is a version's further name.
"""

import dataclasses
import logging
import math
import os
import pathlib
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable

from jax_prompt.files import remove_litter, write_file
from jax_prompt.inference.engine import Engine, UnknownPrompt
from jax_prompt.inference.rows import ServedPrompt
from jax_prompt.prompts.adding import Exists
from jax_prompt.prompts.file import PromptFile, load_prompt
from jax_prompt.prompts.registry import Registry
from jax_prompt.prompts.standing import Standing
from jax_prompt.prompts.versions import ENDING, split_name, version_order
from jax_prompt.serving.promotions import Promotions
from jax_prompt.serving.prompt_files import check_size, scan, stamp_of

_log = logging.getLogger(__name__)

#: Seconds until a file that failed, though not for its content, is tried again.
_REST = 30.0


@dataclasses.dataclass(frozen=True, eq=False)
class Version:
    """One version of a prompt in use.

    Attributes:
      name, version: together `name@version`, by which requests know it.
      prompt: in the engine, which knows it by its file's name.
    """

    name: str
    version: str
    prompt: ServedPrompt

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

    def __init__(self, engine: Engine, path: str | os.PathLike, warm_up_length: int | None = None,
                 stop: Callable[[], bool] = lambda: False):
        """Name a folder.

        Args:
          engine: whose prompts it holds.
          path: the folder.
          warm_up_length: up to which lengths programs are compiled before a prompt is in use.
          stop: is asked now and then whether to leave the rest undone.

        Raises:
          FileNotFoundError: there is no such folder.
        """
        self.path = pathlib.Path(os.path.realpath(path))
        if not self.path.is_dir():
            raise FileNotFoundError(f'the folder of prompts {path} does not exist; make it, and '
                                    'put prompt files into it')
        remove_litter(self.path)
        self._engine, self._longest, self._stop = engine, warm_up_length, stop
        # Held by whoever changes something, compiling included; requests read what was published.
        self._lock = threading.RLock()
        self._arranging = threading.Lock()
        self._published: dict[str, list[Version]] = {}
        self._in_use: dict[str, list[Version]] = {}  # the same as if nothing were promoted
        self._registry, self._promotions = Registry(self.path), Promotions(self.path)
        self._files: dict[str, Version] = {}  # file name -> the content in use
        # File name -> its stamp when it was tried, and when to try it again if it stays as it is.
        self._tried: dict[str, tuple[tuple, float]] = {}
        self._numbers: dict[str, int] = {}  # name -> the highest whole number that was a version

    def versions(self) -> dict[str, list[Version]]:
        """Return all versions in use, by name; each name's default is the first of its list."""
        return self._published

    def standing(self, name: str) -> Standing:
        """Return what is promoted, tagged and tried of a prompt, as of the last look."""
        return self._promotions.of(name)

    def find(self, name: str) -> Version:
        """Return what 'name', 'name@version' or 'name@tag' means now.

        Raises:
          BadName: it cannot be a name.
          UnknownPrompt: nothing of that name is in use.
        """
        base, version = split_name(name)
        versions = self._published.get(base, [])
        for meant in (version, self.standing(base).tags.get(version)):
            for one in versions:
                if meant == one.version or version is None:
                    return one
        if versions:
            raise UnknownPrompt(f'prompt {base!r} has no version {version!r}; there are: '
                                f'{", ".join(one.version for one in versions[:10])}')
        raise UnknownPrompt(f'no prompt {base!r} in use; see GET /v1/prompts')

    def follow(self) -> None:
        """Heed what was promoted since the last look; waits for nothing that is compiled.

        A promoted version that is not in use yet leaves the one before it in place till it is.
        """
        if self._promotions.look(self._in_use):
            self._arrange()

    def refresh(self, warm_up: bool = True) -> None:
        """Take up what is new or changed in the folder, and let go of what is no longer there.

        A file that cannot be used is said in the log; what it held before stays in use. It is tried
        again when it changes, or after a while where the reason may have passed.

        Args:
          warm_up: compile what a prompt needs before it is in use.

        Raises:
          OSError: the folder cannot be read.
        """
        with self._lock:
            found = scan(self.path)
            self._let_go([name for name in self._files if name not in found])
            self._tried = {name: tried for name, tried in self._tried.items() if name in found}
            for file_name, (path, stamp) in found.items():
                if self._stop():
                    return
                before, again = self._tried.get(file_name, (None, 0.0))
                if stamp != before or time.monotonic() >= again:
                    self._tried[file_name] = stamp, self._try(file_name, path, warm_up)

    def upload(self, name: str, content: bytes) -> tuple[Version, bool]:
        """Add a version of a prompt to the folder, and take it into use.

        It comes into the folder, and the log of its versions, once all that it needs is compiled.
        Whether the bare name means it is for the rule of the folder to say.

        Args:
          name: 'name@version'; or 'name' for the version of this content, else the next number.
          content: of a prompt file.

        Returns:
          The version, and whether it is new: one that is there with the same content is not.

        Raises:
          BadName: it cannot be a name.
          Exists: the version is there with another content.
          ValueError: this is no prompt file, it does not fit the model, or it is too large.
        """
        base, version = split_name(name)
        with self._lock:
            self.refresh()  # else a file might hold another content than is known
            aside = write_file(self.path / f'.{secrets.token_hex(8)}.upload', content)
            try:
                file, digest = self._check(aside)
                known = self._published.get(base, ())
                for one in known:
                    if one.prompt.digest == digest and version in (None, one.version):
                        return one, False
                if any(one.version == version for one in known):
                    raise Exists(f'prompt {base}@{version} is there with another content; give '
                                 'another version')
                path = self._registry.add(
                    aside, name, who=f'upload to {socket.gethostname()}',
                    above=self._numbers.get(base, 0)).path
                self._use(path.name, file)
                self._tried[path.name] = stamp_of(path), math.inf
            except ValueError as error:  # which names what it was aside
                kind = Exists if isinstance(error, Exists) else ValueError
                raise kind(str(error).replace(str(aside), 'uploaded')) from error.__cause__
            finally:
                aside.unlink(missing_ok=True)
            return self._files[path.name], True

    def remove(self, name: str) -> list[str]:
        """Delete a version, or all of a prompt, from the folder and from use.

        Requests under way are still answered.

        Args:
          name: 'name@version', or 'name' for all versions.

        Returns:
          The full names of what was removed.

        Raises:
          BadName: it cannot be a name.
          UnknownPrompt: nothing of that name is in use.
          ValueError: it is the promoted version, and others would be left.
        """
        base, version = split_name(name)
        with self._lock:
            self.refresh()  # else the file might hold another content than the one to delete
            self.follow()
            version = version and self.find(name).version  # which a tag may name
            there = self._published.get(self.find(base).name, ())
            if version and version == self.standing(base).promoted and len(there) > 1:
                raise ValueError(f'{base}@{version} is promoted; promote another version first, or '
                                 f'remove {base} altogether')
            gone = [one.full_name for one in there if version in (None, one.version)]
            files = [file_name for file_name, one in self._files.items() if one.full_name in gone]
            for file_name in files:
                (self.path / file_name).unlink(missing_ok=True)
                self._let_go([file_name])
            return gone

    def _publish(self) -> None:
        """Let requests see the versions as they are now, files without one in their names first."""
        files = sorted(self._files.items(), key=lambda item: version_order(item[1].version),
                       reverse=True)
        found: dict[str, dict[str, Version]] = {}
        for _, one in sorted(files, key=lambda item: '@' in item[0]):
            found.setdefault(one.name, {}).setdefault(one.version, one)
        self._in_use = {name: list(found[name].values()) for name in sorted(found)}
        self._promotions.look(self._in_use.keys() - self._published.keys())
        self._arrange()

    def _arrange(self) -> None:
        """Publish what is in use as it is promoted; whoever comes last sees the newest of both."""
        with self._arranging:
            self._published = self._promotions.arranged(self._in_use)

    def _let_go(self, file_names: list[str]) -> None:
        """Take what is no longer in the folder out of use."""
        gone = [self._files.pop(file_name) for file_name in file_names]
        self._publish()
        for one in gone:
            self._engine.remove(one.prompt.name)
            _log.info('prompt %s is no longer in use', one.full_name)

    def _try(self, file_name: str, path: pathlib.Path, warm_up: bool) -> float:
        """Take a file up; return when to try again if it has not changed by then."""
        try:
            self._take_up(file_name, path, warm_up)
        except Exception as error:
            expected = isinstance(error, (ValueError, OSError))
            shown = repr(file_name)[1:-1]  # some characters would break the line, or the log
            _log.warning('prompt %s is not taken into use: %s', shown, error,
                         exc_info=None if expected else error)
            # What is wrong with its content stays so; a lack of memory or a lost disk may not.
            if not isinstance(error, ValueError) or isinstance(error.__cause__, OSError):
                return time.monotonic() + _REST
        return math.inf

    def _take_up(self, file_name: str, path: pathlib.Path, warm_up: bool) -> None:
        """Take a file into use, in place of what it held before."""
        if not file_name.endswith(ENDING):
            raise ValueError(f'its name does not end in {ENDING}; rename it')
        self._split(file_name.removesuffix(ENDING))
        if not path.is_relative_to(self.path):
            raise ValueError('it leads out of the folder of prompts')
        if not path.is_file():
            raise ValueError('it is no regular file')
        file = load_prompt(path)
        if warm_up:
            self._warm_up(file)
        self._use(file_name, file)

    def _use(self, file_name: str, file: PromptFile) -> None:
        """Let requests have what a file holds."""
        stem = file_name.removesuffix(ENDING)
        base, version = self._split(stem)
        prompt = self._engine.add(stem, file)
        one = self._files[file_name] = Version(base, version or prompt.digest, prompt)
        self._publish()
        _log.info('prompt %s is in use', one.full_name)

    def _warm_up(self, file: PromptFile) -> str:
        """Compile what a prompt needs and nobody has needed so far; return its digest."""
        self._engine.make_room(file.prompt, self._stop)
        name = f'.new.{secrets.token_hex(8)}'
        prompt = self._engine.add(name, file)
        try:
            self._engine.warm_up(self._engine.samples(prompt), self._longest, self._stop)
            return prompt.digest
        finally:
            self._engine.remove(name)

    def _check(self, path: pathlib.Path) -> tuple[PromptFile, str]:
        """Return an upload that can be used, and its digest."""
        file = load_prompt(path)
        check_size(file, self._engine)
        return file, self._warm_up(file)

    def _split(self, stem: str) -> tuple[str, str | None]:
        """Split the name of a file, and remember the numbers that were versions."""
        base, version = split_name(stem)
        if re.fullmatch('[0-9]{1,18}', version or ''):  # there is a next one that is a version
            self._numbers[base] = max(int(version), self._numbers.get(base, 0))
        return base, version
