"""`jax-prompt prompts`: the versions in a folder of prompts."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax_prompt.commands.shared import require
from jax_prompt.files import shown
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.log import Entry
from jax_prompt.prompts.registry import Registry
from jax_prompt.prompts.standing import Version
from jax_prompt.prompts.versions import split_name
from jax_prompt.training.folder import RUN_FILE

#: Characters of a cell of a table.
_WIDEST = 24


@dataclasses.dataclass(frozen=True)
class RegistryChange:
    """What is to be changed among versions, and what the log says of it.

    Attributes:
      file: the prompt file to add.
      tag: the tag to give.
      remove: take the tag away.
      parent: the version that an added one was made from; the promoted or highest one otherwise.
      run: what trained an added one; the folder of its run otherwise.
      share: of the requests, between 0 and 1, for a canary; 0 ends it.
      who: changes it; the user and the machine otherwise.
      why: for the log.
    """

    file: str | None = None
    tag: str | None = None
    remove: bool = False
    parent: str | None = None
    run: str | None = None
    share: float | None = None
    who: str | None = None
    why: str = ''


def prompts_command(prompts: str | None = None, action: str = 'list', prompt: str | None = None,
                    change: RegistryChange | None = None, other: str | None = None,
                    json_only: bool = False) -> int:
    """Tell of the versions in a folder of prompts, add one, promote one, go back.

    Servers of the folder follow what is promoted. Needs no model.

    Args:
      prompts: the folder; `add` makes it.
      action: 'list', 'show', 'add', 'tag', 'diff', 'promote', 'rollback', 'canary' or 'verify'.
      prompt: 'name', 'name@version' or 'name@tag'.
      change: what is to be changed.
      other: what `prompt` is compared with; what its bare name means otherwise.
      json_only: print JSON.

    Returns:
      The exit code: 2 where `verify` finds a problem.
    """
    require(prompts, 'folder of prompts', '--prompts=FOLDER')
    change = change or RegistryChange()
    if action not in ('list', 'verify'):
        require(prompt, 'prompt', '--prompt=NAME@VERSION')
    if action == 'add':
        require(change.file, 'prompt file', '--file=FILE')
        load_prompt(change.file)  # for which the folder is made
        Path(prompts).mkdir(parents=True, exist_ok=True)
    registry = Registry(prompts)
    if action == 'verify':
        return _verify(registry, prompt, json_only)
    told = {'list': lambda: _list(registry, prompt), 'show': lambda: _show(registry, prompt),
            'diff': lambda: _diff(registry, prompt, other),
            'add': lambda: _add(registry, prompt, change)}.get(
                action, lambda: _change(registry, action, prompt, change))
    found, lines = told()
    print(json.dumps(found, ensure_ascii=False) if json_only else '\n'.join(map(shown, lines)))
    return 0


Told = tuple[Any, list[str]]


def _list(registry: Registry, prompt: str | None) -> Told:
    """Tell of each version in a line."""
    names = registry.names() if prompt is None else [split_name(prompt)[0]]
    versions = [one for name in names for one in registry.versions(name)]
    rows = [('version', 'means', 'metrics', 'task', 'model', 'parent', 'added', 'by')]
    for one in versions:
        means = [*(['promoted'] if one.promoted else []), *one.tags]
        rows.append((
            one.full_name, ', '.join(means), _metrics(one) if one.problem is None else 'unusable',
            _cut(str(one.task.get('name', ''))), _cut(one.model), one.parent or '-',
            one.created[:19].replace('T', ' '), one.who or '-'))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(f'{cell:<{width}}' for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in rows]
    if not versions:
        lines = [f'{registry.folder} holds no versions (NAME@VERSION.safetensors); `jax-prompt '
                 'prompts add` makes one of a prompt file']
    return [_described(one) for one in versions], lines


def _show(registry: Registry, prompt: str) -> Told:
    """Tell all of a version, and what was done to its prompt."""
    one = registry.find(prompt)
    standing, history = registry.standing(one.name), registry.history(one.name)
    told = _described(one)
    lines = [one.full_name] + [
        f'  {name:18} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}'
        for name, value in told.items() if name not in ('name', 'version')]
    if standing.canary is not None:
        lines.append(f'{one.name}@{standing.canary[0]} is a canary with '
                     f'{standing.canary[1]:.1%} of the requests')
    lines += [f'history of {one.name}', *(f'  {_entry(entry)}' for entry in history)]
    return {**told, 'canary': standing.canary, 'history': list(map(dataclasses.asdict, history))
            }, lines


def _diff(registry: Registry, prompt: str, other: str | None) -> Told:
    """Tell what differs between two versions."""
    told = registry.diff(other or split_name(prompt)[0], prompt)
    lines = ['{:24} {:>14} {:>14}'.format('', *told['versions'])]
    for name, values in told['metrics'].items():
        cells = ('-' if value is None else f'{value:.4f}' for value in values)
        lines.append('{:24} {:>14} {:>14}'.format(name, *cells)
                     + ('' if None in values else f'  {values[1] - values[0]:+.4f}'))
    lines += [f'{name:24} {json.dumps(values[0], ensure_ascii=False)} -> '
              f'{json.dumps(values[1], ensure_ascii=False)}'
              for name, values in told['metadata'].items()]
    if told['similarity'] is not None:
        lines.append('similarity               {pairs:.4f} of pairs of rows, {means:.4f} of their '
                     'means'.format(**told['similarity']))
    if told['moved'] is not None:
        lines.append(f'rows moved by            {told["moved"]:.4f} on average')
    return told, lines


def _add(registry: Registry, prompt: str, change: RegistryChange) -> Told:
    """Add a version."""
    folder = Path(change.file).resolve().parent
    run = str(folder) if change.run is None and (folder / RUN_FILE).exists() else change.run
    one = registry.add(change.file, prompt, parent=change.parent, run=run, who=change.who,
                       why=change.why)
    promoted = registry.promoted(one.name)
    more = '' if promoted is None else f'; {one.name}@{promoted} is promoted still'
    return _described(one), [f'{one.full_name} is added{more}']


def _change(registry: Registry, action: str, prompt: str, change: RegistryChange) -> Told:
    """Promote, roll back, tag or try a version."""
    name, version = split_name(prompt)
    by = {'who': change.who, 'why': change.why}
    if action == 'rollback':
        one = registry.rollback(name, of=version, **by)
        return _described(one), [f'{one.full_name} is promoted again']
    if action == 'tag':
        require(change.tag, 'tag', '--tag=TAG')
    if action == 'canary':
        require(change.share, 'share', '--share=0.1 (0 ends the trial)')
    ends = change.remove if action == 'tag' else action == 'canary' and not change.share
    if version is None and not ends:
        raise ValueError(f'{name} names no version; name one with --prompt={name}@VERSION: there '
                         f'are {", ".join(one.version for one in registry.versions(name)[:10])}')
    acts: dict[str, Callable[[], Entry | None]] = {
        'promote': lambda: registry.promote(name, version, **by),
        'tag': lambda: registry.tag(name, None if ends else version, change.tag, **by),
        'canary': lambda: registry.set_canary(name, None if ends else version, change.share, **by)}
    entry = acts[action]()
    line = f'{name} is so already' if entry is None else _entry(entry)
    return entry and dataclasses.asdict(entry), [f'{name}: {line}' if entry else line]


def _verify(registry: Registry, prompt: str | None, json_only: bool) -> int:
    """Tell of each problem in a line; return the exit code."""
    names = None if prompt is None else [split_name(prompt)[0]]
    problems = registry.verify(names)
    if json_only:
        print(json.dumps(problems, ensure_ascii=False))
        return 2 if problems else 0
    count = sum(len(registry.versions(name)) for name in registry.names()
                if names is None or name in names)
    print('\n'.join(map(shown, problems)) or f'whole: {count:,} versions')
    return 2 if problems else 0


def _described(one: Version) -> dict[str, Any]:
    return {**dataclasses.asdict(one), 'path': str(one.path)}


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f'{text[:_WIDEST - 3]}...'


def _metrics(one: Version) -> str:
    return ', '.join(f'{name} {value:.4f}' for name, value in list(one.metrics.items())[:3]) or '-'


def _entry(entry: Entry) -> str:
    """Write an entry of the log as a line."""
    details = ', '.join(f'{name} {value}' for name, value in entry.details.items()
                        if value is not None and name != 'sha256')
    told = [entry.when[:19].replace('T', ' '), entry.action, entry.version or 'none',
            f'({details})' if details else '', 'by', entry.who, f'-- {entry.why}' * bool(entry.why)]
    return ' '.join(filter(None, told))
