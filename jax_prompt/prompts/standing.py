"""What the log of a prompt and the files of its versions come to together."""

import dataclasses
import datetime
import hashlib
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from jax_prompt.files import first_line, listed
from jax_prompt.prompts.adding import family_problem
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.log import ADD, CANARY, ROLLBACK, TAG, Entry, PromptLog


@dataclasses.dataclass(frozen=True)
class Standing:
    """What a prompt's log comes to.

    Attributes:
      added: version -> the entry that says where it comes from.
      tags: tag -> version.
      promotions: versions, the promoted one last; those before it are what a rollback goes back to.
      canary: a version and the share of requests that it is to get; None for none.
    """

    added: Mapping[str, Entry] = dataclasses.field(default_factory=dict)
    tags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    promotions: tuple[str, ...] = ()
    canary: tuple[str, float] | None = None

    def share_of(self, version: str) -> float:
        """Return the share of the requests that a version gets as a canary; 0 where it is none."""
        return self.canary[1] if self.canary and self.canary[0] == version else 0.0

    @property
    def promoted(self) -> str | None:
        """Return the promoted version."""
        return self.promotions[-1] if self.promotions else None

    def meant(self, there: Container[str]) -> str | None:
        """Return what the bare name means of versions that can be used; None for what is usual.

        Where the promoted one is not among them, as before its file has come, it is the one that
        was promoted before it.
        """
        return next((one for one in reversed(self.promotions) if one in there), None)

    def tags_of(self, version: str) -> tuple[str, ...]:
        """Return the tags of a version."""
        return tuple(sorted(tag for tag, one in self.tags.items() if one == version))


@dataclasses.dataclass(frozen=True)
class Version:
    """One version of a prompt.

    Attributes:
      name, version: together `name@version`, its full name.
      path: its file.
      created: when it was added, or its file was written, in UTC as ISO 8601 writes it.
      parent: the version that it was made from or came after; None where nobody said.
      run: what trained it; None where nobody said.
      who: added it; None for a file that was put there by hand.
      tags: names for it.
      promoted: whether it is what the bare name means.
      metrics: the validation's numbers.
      task: what the prompt file tells of it.
      model, model_fingerprint: that it was trained for.
      problem: why its file cannot be used; the four above are empty then.
    """

    name: str
    version: str
    path: Path
    created: str
    parent: str | None
    run: str | None
    who: str | None
    tags: tuple[str, ...]
    promoted: bool
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    task: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: str = ''
    model_fingerprint: str = ''
    problem: str | None = None

    @property
    def full_name(self) -> str:
        """Return the name that always means this version."""
        return f'{self.name}@{self.version}'


def standing_of(entries: Iterable[Entry]) -> Standing:
    """Return what the entries of a log come to, one after the other."""
    added, tags, promotions, canary = {}, {}, (), None
    for entry in entries:
        version = entry.version
        if entry.action == ADD:
            added[version] = entry
        elif entry.action == TAG:
            tags.pop(entry.details['tag'], None)
            if version is not None:
                tags[entry.details['tag']] = version
        elif entry.action == CANARY:
            canary = None if version is None else (version, float(entry.details['share']))
        else:
            if entry.action == ROLLBACK:
                promotions = promotions[:-1]
            if promotions[-1:] != (version,):  # so also where an entry before it is damaged
                promotions += (version,)
            if canary is not None and canary[0] == version:  # it has all requests now
                canary = None
    return Standing(added, tags, promotions, canary)


def describe(name: str, version: str, path: Path, standing: Standing) -> Version:
    """Return a version with what its file and its log tell of it."""
    entry, told, created = standing.added.get(version), {}, ''
    try:
        metadata = load_prompt(path).metadata
        told = dict(metrics=metadata.metrics, task=metadata.task, model=metadata.base_model,
                    model_fingerprint=metadata.base_model_fingerprint)
        written = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
        created = written.isoformat(timespec='milliseconds')
    except (OSError, ValueError) as error:
        told['problem'] = first_line(error)
    details = {} if entry is None else entry.details
    return Version(name, version, path, created if entry is None else entry.when,
                   details.get('parent'), details.get('run'), None if entry is None else entry.who,
                   standing.tags_of(version), standing.promoted == version, **told)


def check_usable(version: Version) -> None:
    """Raise ValueError where the file of a version cannot be used."""
    if version.problem is not None:
        raise ValueError(version.problem)


def check_beside(one: Version, other: Version, promoted: str | None) -> None:
    """Refuse, with ValueError, a canary that is promoted, or answers other than its neighbour."""
    if one.version == promoted:
        raise ValueError(f'{one.full_name} is promoted and gets all requests; name another '
                         'version to try beside it')
    ours, theirs = (_answers(each.task) for each in (one, other))
    if not other.problem and ours != theirs:
        raise ValueError(f'{one.full_name} answers with {ours} but {other.full_name}, beside which '
                         f'it is to be tried, with {theirs}; give it another name')


def _answers(task: Mapping[str, Any]) -> str:
    """Tell what a task answers with."""
    labels = task.get('labels')
    words = labels.values() if isinstance(labels, Mapping) else labels
    return 'free text' if words is None else listed(sorted({*map(str, words)}))


def problems_of(name: str, there: Mapping[str, Path], log: PromptLog) -> list[str]:
    """Return what is damaged, missing or not what it was, a line for each.

    Args:
      name: of the prompt.
      there: version -> file.
      log: of the prompt.
    """
    found, standing = log.problems(), standing_of(log.entries())
    for version, path in there.items():
        try:
            problem = family_problem(load_prompt(path), name, there, standing.promoted)
        except (OSError, ValueError) as error:
            found.append(first_line(error))
            continue
        entry = standing.added.get(version)
        if problem:
            found.append(f'{path} {problem}')
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if entry is not None and entry.details['sha256'] != digest:
            found.append(f'{path} is not the file that {entry.who} added at {entry.when}')
    meant = {'promoted': standing.promoted, 'the canary': standing.canary and standing.canary[0]}
    meant |= {f'what the tag {tag!r} means': version for tag, version in standing.tags.items()}
    # Of a prompt that was removed altogether its log is left.
    found += [f'{name}@{version} is {what}, and its file is not there'
              for what, version in meant.items() if there and version not in (None, *there)]
    return found
