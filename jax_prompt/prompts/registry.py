"""A folder of prompts as a registry: versions, which of them is promoted, tags, and who did what.

A version is a file `NAME@VERSION.safetensors` of the folder, and is never replaced. All else is
entries of the prompt's append-only log below `registry/NAME/` (`log.PromptLog`): the promoted
version is the one that the last entry of that kind names, so no alias can disagree with the log, a
kill leaves the old state or the new one, and each machine that sees the folder reads the same.

Files that were put into the folder by hand are versions too; `add` says where one comes from.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jax_prompt.files import listed
from jax_prompt.prompts import log
from jax_prompt.prompts.adding import Exists, create_version, existing, family_problem, read_file
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.log import Entry, PromptLog
from jax_prompt.prompts.similarity import compare
from jax_prompt.prompts.standing import (
    Standing,
    Version,
    check_beside,
    check_usable,
    describe,
    problems_of,
    standing_of,
)
from jax_prompt.prompts.versions import ENDING, BadName, split_name, version_files, version_order

#: The folder of logs, beside the prompt files.
LOGS = 'registry'
#: How often a writer tries who always finds that another one was quicker.
_TRIES = 1000


class Registry:
    """Read and change the versions in a folder of prompts; several processes may do so at once.

    What changes something is told `who` does so, the user and the machine unless given, and `why`,
    for the log.

    Example:
      >>> registry = Registry('prompts')  # doctest: +SKIP
      >>> registry.promote('mood', registry.add('runs/mood/prompt.safetensors', 'mood').version)
      ... # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike):
        """Name the folder.

        Raises:
          FileNotFoundError: there is none.
        """
        self.folder = Path(os.path.realpath(folder))
        if not self.folder.is_dir():
            raise FileNotFoundError(f'the folder of prompts {folder} does not exist; make it, and '
                                    'put prompt files into it')
        self._logs: dict[str, PromptLog] = {}

    def names(self) -> list[str]:
        """Return the names of prompts that have versions."""
        return sorted({name for name, _, _ in version_files(self.folder)})

    def standing(self, name: str) -> Standing:
        """Return what holds for a prompt now; only what is new in its log is read.

        Entries that are damaged are passed over; see `verify`.

        Raises:
          BadName: it cannot be a name.
          ValueError: its log is too long to be read.
          OSError: it cannot be read now.
        """
        return standing_of(self.log(name).entries())

    def log(self, name: str) -> PromptLog:
        """Return the log of a prompt, which remembers what was read."""
        if name not in self._logs:
            split_name(f'{name}@1')  # nothing that leads out of the folder, nor a version's name
            self._logs[name] = PromptLog(self.folder / LOGS / name)
        return self._logs[name]

    def promoted(self, name: str) -> str | None:
        """Return the version that the bare name means; None where none was promoted."""
        return self.standing(name).promoted

    def canary(self, name: str) -> tuple[str, float] | None:
        """Return the version that is tried beside the promoted one, and its share."""
        return self.standing(name).canary

    def history(self, name: str) -> list[Entry]:
        """Return what was done to a prompt, the oldest first."""
        return self.log(name).entries()

    def versions(self, name: str) -> list[Version]:
        """Return the versions of a prompt, the highest first.

        Raises:
          BadName: it cannot be a name.
          ValueError: there are none.
        """
        found, standing = self._paths(name), self.standing(name)
        return [describe(name, version, path, standing) for version, path in found.items()]

    def find(self, reference: str) -> Version:
        """Return the version that 'name@version' or 'name@tag' means.

        A bare name means the promoted version, else the highest.

        Raises:
          BadName: it cannot be a name.
          ValueError: there is none; tells which there are.
        """
        name, wanted = split_name(reference)
        found, standing = self._paths(name), self.standing(name)
        wanted = wanted or standing.promoted or next(iter(found))
        meant = wanted if wanted in found else standing.tags.get(wanted)
        if meant in found:
            return describe(name, meant, found[meant], standing)
        tags = f' (tags: {listed(sorted(standing.tags))})' if standing.tags else ''
        raise ValueError(f'prompt {name!r} has no version {wanted!r}; there are: '
                         f'{", ".join(list(found)[:10])}{tags}')

    def add(self, file: str | os.PathLike, name: str, *, parent: str | None = None,
            run: str | None = None, who: str | None = None, why: str = '',
            above: int = 0) -> Version:
        """Copy a prompt file into the folder as a new version.

        A version whose file was put there by hand, or by an `add` that was killed, gets its entry
        in the log.

        Args:
          file: the prompt file.
          name: 'name' for the next whole number, or 'name@version'.
          parent: the version that it was made from; without it the promoted one, else the highest.
          run: what trained it.
          above: the next number is higher than this.

        Raises:
          BadName: it cannot be a name.
          Exists: the content or the version is there.
          ValueError: it is no prompt file, or one for another model than the other versions.
        """
        name, version = split_name(name)
        loaded, content = read_file(Path(file))
        there, standing = self._paths(name, may_be_new=True), self.standing(name)
        if version in standing.tags:
            raise Exists(f'{name}@{version} is a tag; give another version')
        if problem := family_problem(loaded, name, there, standing.promoted):
            raise ValueError(f'{file} {problem}; add it under another name')
        same = existing(f'{name}@{version or ""}', file, content, there, standing.added)
        if parent is None:
            parent = standing.promoted or next((one for one in there if one != same), None)
        else:
            parent = self.find(f'{name}@{parent}').version
        version = same or create_version(self.folder, name, version, content,
                                         [*standing.added, str(above)])
        details = {'sha256': hashlib.sha256(content).hexdigest(), 'parent': parent, 'run': run}
        self._append(name, log.ADD, who, why, lambda now: None if version in now.added
                     else (version, details))
        return self.find(f'{name}@{version}')

    def promote(self, name: str, version: str, who: str | None = None,
                why: str = '') -> Entry | None:
        """Let the bare name mean a version.

        Args:
          name: of the prompt.
          version: or a tag of it.

        Returns:
          The entry; None where it is promoted already.

        Raises:
          ValueError: there is no such version, or its file cannot be used.
        """
        one = self.find(f'{name}@{version}')
        check_usable(one)
        return self._append(name, log.PROMOTE, who, why, lambda now: None
                            if now.promoted == one.version else (one.version, {}))

    def rollback(self, name: str, who: str | None = None, why: str = '',
                 of: str | None = None) -> Version:
        """Let the bare name mean again what was promoted before.

        Args:
          name: of the prompt.
          of: the version that must be promoted still; without it the one that is when this begins.

        Returns:
          The version that is promoted now.

        Raises:
          ValueError: none was promoted before, its file cannot be used, or `of` is not promoted.
        """
        self.versions(name)
        of = of or self.promoted(name)

        def decide(now: Standing) -> tuple[str, dict[str, Any]]:
            if problems := self.log(name).problems():
                raise ValueError(f'{problems[0]}, so that what was promoted before is not known; '
                                 'promote the version that is wanted')
            if now.promoted != of:
                raise ValueError(f'{name}@{of} is not what is promoted, {name}@{now.promoted} is; '
                                 'see `jax-prompt prompts show`, and roll back if that is to go')
            if len(now.promotions) < 2:
                what = f'{name}@{of} is the first that was' if of else f'no version of {name} was'
                raise ValueError(f'{what} promoted, so there is nothing to go back to; promote '
                                 'another version')
            check_usable(self.find(f'{name}@{now.promotions[-2]}'))
            return now.promotions[-2], {}

        return self.find(f'{name}@{self._append(name, log.ROLLBACK, who, why, decide).version}')

    def tag(self, name: str, version: str | None, tag: str, who: str | None = None,
            why: str = '') -> Entry | None:
        """Give a version a further name, `name@tag`, which any other version had before loses.

        Args:
          name: of the prompt.
          version: or another tag of it; None to take the tag away.
          tag: the further name.

        Returns:
          The entry; None where the tag is so already.

        Raises:
          ValueError: there is no such version, or the tag's name is or may be a version's.
        """
        split_name(f'{name}@{tag}')
        if tag.isdigit() or tag in self._paths(name):
            raise ValueError(f'{tag!r} may be a version of {name}; choose another tag')
        meant = None if version is None else self.find(f'{name}@{version}').version
        if version is None and tag not in self.standing(name).tags:
            raise ValueError(f'prompt {name!r} has no tag {tag!r}; there are: '
                             f'{listed(sorted(self.standing(name).tags))}')
        return self._append(name, log.TAG, who, why, lambda now: None
                            if now.tags.get(tag) == meant else (meant, {'tag': tag}))

    def set_canary(self, name: str, version: str | None, share: float = 0.0,
                   who: str | None = None, why: str = '') -> Entry | None:
        """Let a version have a share of the requests that name none.

        Args:
          name: of the prompt.
          version: or a tag of it; None to end the trial.
          share: between 0 and 1.

        Returns:
          The entry; None where it is so already.

        Raises:
          ValueError: no such version or share; it cannot be used, is promoted or has other labels.
        """
        if version is None:
            return self._append(name, log.CANARY, who, why,
                                lambda now: None if now.canary is None else (None, {}))
        one, share = self.find(f'{name}@{version}'), float(share)
        check_usable(one)
        if not 0 < share < 1:
            raise ValueError(f'the canary {one.full_name} is to get a share of {share:g}; expected '
                             'more than 0 and less than 1')

        def decide(now: Standing) -> tuple[str, dict[str, Any]] | None:
            meant = now.promoted or self.versions(name)[0].version
            check_beside(one, self.find(f'{name}@{meant}'), now.promoted)
            return None if now.canary == (one.version, share) else (one.version, {'share': share})

        return self._append(name, log.CANARY, who, why, decide)

    def diff(self, a: str, b: str) -> dict[str, Any]:
        """Compare two versions, as `find` takes them: `similarity.compare`, and 'versions'.

        Raises:
          ValueError: there is none of a name, or its file cannot be used.
        """
        found = [self.find(one) for one in (a, b)]
        return {'versions': [one.full_name for one in found],
                **compare(*(load_prompt(one.path) for one in found))}

    def verify(self, names: Iterable[str] | None = None) -> list[str]:
        """Look for what is damaged, missing or not what it was.

        Args:
          names: of the prompts to look at; None for all, those that have a log alone included.

        Returns:
          A line for each problem; none where the registry is whole.
        """
        if names is None:
            logs = self.folder / LOGS
            names = {*self.names(), *(os.listdir(logs) if logs.is_dir() else ())}
        found = []
        for name in sorted(names):
            try:
                split_name(f'{name}@1')
            except BadName:
                found.append(f'{self.folder / LOGS / name} is no log of a prompt')
                continue
            found += problems_of(name, self._paths(name, may_be_new=True),
                                 PromptLog(self.folder / LOGS / name))
        return found

    def _append(self, name: str, action: str, who: str | None, why: str,
                decide: Callable[[Standing], tuple[str | None, dict[str, Any]] | None],
                ) -> Entry | None:
        """Write an entry that `decide` gives of what holds just before it: version and details.

        It gives None for nothing to be done, and is asked again where another writer was first.
        """
        found, who = self.log(name), log.caller() if who is None else who
        for _ in range(_TRIES):
            decided = decide(standing_of(found.entries()))
            if decided is None:
                return None
            version, details = decided
            if (entry := found.append(action, version, who, why, details)) is not None:
                return entry
        raise ValueError(f'others write to {found.folder} all the time; try again later')

    def _paths(self, name: str, may_be_new: bool = False) -> dict[str, Path]:
        """Return version -> file of a prompt, the highest first."""
        split_name(f'{name}@1')
        found = {version: path for one, version, path in version_files(self.folder) if one == name}
        if not found and not may_be_new:
            told = f'{name}{ENDING} is there, which is no version: `jax-prompt prompts add` makes '\
                'one of it' if (self.folder / f'{name}{ENDING}').exists() else \
                f'there are: {listed(self.names())}'
            raise ValueError(f'prompt {name!r} has no versions in {self.folder}; {told}')
        return {one: found[one] for one in sorted(found, key=version_order, reverse=True)}
