"""`jax-prompt monitor`."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from jax_prompt.commands.shared import Opener, require
from jax_prompt.files import writing
from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.engine import Engine
from jax_prompt.monitoring.history import append_history, draw_history
from jax_prompt.monitoring.monitor import Report, Sources, Target, look
from jax_prompt.monitoring.quality import Comparison
from jax_prompt.monitoring.settings import MonitorSettings
from jax_prompt.prompts.registry import Registry

_log = logging.getLogger(__name__)

#: The exit code where a prompt has fallen, or what it is asked or answers is of another kind.
ALARM = 3
HISTORY, REFERENCES = 'history.jsonl', 'references'


def monitor_command(model: Opener | None = None, prompts: str | None = None,
                    prompt: str | None = None, sources: Sources | None = None,
                    output: str | None = None, settings: MonitorSettings | None = None,
                    rollback: bool = False, json_only: bool = False) -> int:
    """Look at the promoted prompts of a folder: have figures fallen, have requests changed?

    On labelled data the first figure of each is compared with what the version had on its reference
    data. Without labels, or from the log of a server, inputs and answers are compared with those of
    the reference. Each look is a line of `history.jsonl` in the output folder, which `history.png`
    (or .svg) shows. It exits 3 where there is an alarm.

    Args:
      model: opens what answers.
      prompts: a folder of prompt files, of which the promoted versions are looked at, or the
        highest where none is promoted.
      prompt: of the folder, the only one to look at; NAME, or NAME@VERSION.
      sources: of data.
      output: the folder of the history and of what references gave.
      settings: margins and error rates.
      rollback: promote what was promoted before, where a promoted version has fallen.
      json_only: print a list of what the history gets.

    Returns:
      The exit code.

    Raises:
      ValueError, OSError: for what the user can mend.
    """
    require(model, 'model', '--model=SOURCE')
    require(prompts, 'folder of prompts', '--prompts=FOLDER')
    require(output, 'output folder', '--output=FOLDER')
    sources, settings = sources or Sources(), settings or MonitorSettings()
    registry = Registry(prompts)
    targets = _targets(registry, prompt)
    folder = Path(output)
    with writing(f'the folder {output}'):
        folder.mkdir(parents=True, exist_ok=True)
    engine = Engine(model(), Shapes.for_batches_of(settings.batch_size))
    reports = look(engine, targets, sources, folder / REFERENCES, settings)
    if rollback:
        reports = [_roll_back(registry, report) for report in reports]
    seen = [one for one in reports if one.quality or one.drift]
    if seen:
        with writing(f'the history in {output}'):
            append_history(folder / HISTORY, [one.to_dict() for one in seen])
            draw_history(folder / HISTORY, folder / f'history.{settings.picture}')
    if json_only:
        print(json.dumps([one.to_dict() for one in reports], ensure_ascii=False))
    else:
        print('\n'.join(line for one in reports for line in _told(one)))
    return ALARM if any(one.fallen or one.drifted for one in reports) else 0


def _targets(registry: Registry, prompt: str | None) -> list[Target]:
    """Return the versions to look at."""
    names = [prompt] if prompt else registry.names()
    if not names:
        raise ValueError(f'{registry.folder} holds no prompts; add one with `jax-prompt prompts '
                         'add`, or name another folder with --prompts=FOLDER')
    found = [registry.find(name) for name in names]
    broken = [one for one in found if one.problem]
    for one in broken:
        _log.warning('%s cannot be looked at: %s', one.full_name, one.problem)
    if len(broken) == len(found):
        raise ValueError(f'no prompt of {registry.folder} can be used: {broken[0].problem}')
    return [Target(one.name, one.version, one.path) for one in found if not one.problem]


def _roll_back(registry: Registry, report: Report) -> Report:
    """Promote what was promoted before a version that has fallen; says why where that cannot be."""
    name, version = report.target.name, report.target.version
    if not report.fallen:
        return report
    if registry.promoted(name) != version:
        return report.noted(f'{report.target.full_name} is not promoted, so there is nothing to '
                            'roll back')
    found = report.quality
    try:
        now = registry.rollback(name, why=(
            f'jax-prompt monitor: {found.metric} fell by {found.fall:.4f} to {found.value:.4f} on '
            f'{found.size} examples, p={report.adjusted["quality"]:.2g}'), of=version)
    except ValueError as error:
        _log.warning('%s has fallen and stays promoted: %s', report.target.full_name, error)
        return report.noted(f'not rolled back: {error}')
    return report.gone_back(now.version)


def _told(report: Report) -> list[str]:
    """Return what was found of a version as lines of text."""
    verdict = [*(['FALLEN'] if report.fallen else []),
               *([f'DRIFT ({", ".join(report.drifted)})'] if report.drifted else [])]
    lines = [f'{report.target.full_name}: {" and ".join(verdict) or "no alarm"}'
             f' (alpha {report.alpha:g})']
    if report.quality is not None:
        lines += _told_quality(report.quality, report.adjusted['quality'])
    for name, one in report.drift.items():
        lines.append(f'  {name:<11} {one.then} -> {one.now}: size {one.size:.3f}, adjusted p '
                     f'{report.adjusted[name]:.2g} ({one.test})')
    if report.rolled_back:
        lines.append(f'  rolled back: {report.target.name} is {report.rolled_back} again')
    return [*lines, *(f'  note: {note}' for note in report.notes)]


def _told_quality(found: Comparison, adjusted: float) -> Sequence[str]:
    size = 'taken as exact' if found.reference_size is None else f'{found.reference_size} examples'
    lines = [f'  {found.metric:<11} {found.value:.4f} on {found.size} examples '
             f'({found.interval[0]:.4f}..{found.interval[1]:.4f}), its own {found.reference:.4f} '
             f'({size}): fall {found.fall:+.4f}, adjusted p of one within the margin of '
             f'{found.margin:g}: {adjusted:.2g} ({found.test})']
    if found.detectable is not None:
        lines.append(f'  {"":<11} a true fall of {found.detectable:.3f} would be found with '
                     'probability 0.8')
    return lines
