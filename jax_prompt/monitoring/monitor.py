"""One look at prompts: have their figures fallen, has what they are asked changed?"""

import dataclasses
import datetime
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax_prompt.data.tasks.rows import Row
from jax_prompt.evaluation.metrics import LOWER_IS_BETTER
from jax_prompt.evaluation.statistics import holm
from jax_prompt.files import brief, listed
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.rows import ServedPrompt
from jax_prompt.monitoring.drift import Difference, differences
from jax_prompt.monitoring.measuring import (
    Measured,
    digest_of,
    is_labelled,
    load_measured,
    logged_sample,
    measure,
    save_measured,
)
from jax_prompt.monitoring.quality import Comparison, Figure, compare
from jax_prompt.monitoring.settings import MonitorSettings
from jax_prompt.prompts.file import load_prompt

_log = logging.getLogger(__name__)

#: Files of rows that a folder of them may hold for a prompt.
_ENDINGS = tuple(f'{kind}{packed}' for packed in ('', '.gz')
                 for kind in ('.csv', '.tsv', '.jsonl', '.json')) + ('.parquet', '.arrow')


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where data come from.

    Attributes:
      data: fresh rows: a file, or a folder with a file NAME.csv (.jsonl, ...) for each prompt.
      reference: rows such as the prompts were trained for, validation's; a file or a folder.
      log: the folder of a server's log of requests.

    Raises:
      ValueError: nothing is given.
    """

    data: str | None = None
    reference: str | None = None
    log: str | None = None

    def __post_init__(self):
        if not (self.data or self.reference or self.log):
            raise ValueError('nothing to look at; name fresh data with --data=FILE, the log of a '
                             'server with --log=FOLDER, or what to compare with later with '
                             '--reference=FILE')


@dataclasses.dataclass(frozen=True)
class Target:
    """A version of a prompt that is looked at.

    Attributes:
      name, version: together its full name.
      path: its file.
    """

    name: str
    version: str
    path: Path

    @property
    def full_name(self) -> str:
        """Return the name that always means this version."""
        return f'{self.name}@{self.version}'


@dataclasses.dataclass(frozen=True)
class Report:
    """What one look found of a version.

    Attributes:
      target: the version.
      digest: of its content.
      data: what was looked at.
      figures: all figures on fresh labelled data.
      quality: the one that is tested; None without labels.
      drift: name of a test -> its result; {} without a reference or without fresh inputs.
      adjusted: p-values of 'quality' and of each test of drift, adjusted for all of the look.
      alpha: below which they are alarms.
      notes: why something was not looked at.
      rolled_back: the version that is promoted in its place now; None where it was left.
    """

    target: Target
    digest: str
    data: Sequence[str]
    figures: Mapping[str, float]
    quality: Comparison | None
    drift: Mapping[str, Difference]
    adjusted: Mapping[str, float]
    alpha: float
    notes: Sequence[str] = ()
    rolled_back: str | None = None

    @property
    def fallen(self) -> bool:
        """Tell whether the figure has fallen by more than the margin."""
        return self.quality is not None and self.adjusted['quality'] <= self.alpha

    @property
    def drifted(self) -> list[str]:
        """Return the tests that found a difference."""
        return [name for name in self.drift if self.adjusted[name] <= self.alpha]

    def noted(self, note: str) -> 'Report':
        """Return the report with a further note."""
        return dataclasses.replace(self, notes=[*self.notes, note])

    def gone_back(self, version: str) -> 'Report':
        """Return the report after another version was promoted in this one's place."""
        return dataclasses.replace(self, rolled_back=version)

    def to_dict(self) -> dict[str, Any]:
        """Return what a line of the history holds."""
        quality = None if self.quality is None else dataclasses.asdict(self.quality) | {
            'adjusted_p': self.adjusted['quality'],
            'rises': self.quality.metric in LOWER_IS_BETTER}
        return {
            'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
            'name': self.target.name, 'version': self.target.version, 'digest': self.digest,
            'data': list(self.data), 'alpha': self.alpha, 'fallen': self.fallen,
            'drifted': self.drifted, 'figures': dict(self.figures), 'quality': quality,
            'drift': {name: dataclasses.asdict(one) | {
                'adjusted_p': self.adjusted[name], 'drifted': name in self.drifted}
                for name, one in self.drift.items()},
            'notes': list(self.notes), 'rolled_back': self.rolled_back}


def look(engine: Engine, targets: Sequence[Target], sources: Sources, references: Path,
         settings: MonitorSettings) -> list[Report]:
    """Look at prompts: compare fresh data with each version's own figures and inputs.

    Args:
      engine: of the model; the prompts are added to it.
      targets: the versions.
      sources: of data.
      references: the folder that keeps what was measured of a version on `sources.reference`.
      settings: margins, error rates.

    Returns:
      A report for each version, in their order.

    Raises:
      ValueError: data that cannot be used, or none for any prompt.
      FileNotFoundError: they are not there.
    """
    found = [_look_at(engine, target, sources, references, settings, len(targets))
             for target in targets]
    if not any(one.quality or one.drift for one in found) and (sources.data or sources.log):
        raise ValueError(f'nothing could be compared: {found[0].notes[0]}' if found[0].notes else
                         f'nothing could be compared of {found[0].target.full_name}')
    adjusted = {}
    for p_of in ({(number, 'quality'): one.quality.p for number, one in enumerate(found)
                  if one.quality},
                 {(number, name): test.p for number, one in enumerate(found)
                  for name, test in one.drift.items()}):
        adjusted |= zip(p_of, holm([*p_of.values()]), strict=True)
    return [dataclasses.replace(one, adjusted={
        name: p for (of, name), p in adjusted.items() if of == number})
        for number, one in enumerate(found)]


def _look_at(engine: Engine, target: Target, sources: Sources, references: Path,
             settings: MonitorSettings, several: int) -> Report:
    """Look at one version; p-values are adjusted when all are known."""
    prompt = engine.add(target.full_name, load_prompt(target.path))
    notes: list[str] = []
    reference = _reference(engine, prompt, target, sources.reference, references, settings, several)
    fresh = None
    rows, file = _rows(prompt, target.name, sources.data, several)
    if sources.data and not rows:
        notes.append(f'{target.full_name}: no file for it in {sources.data}')
    if rows:
        fresh = measure(engine, prompt, rows, file, settings.metrics, settings.sample,
                        settings.seed)
        if not fresh.figures:
            notes.append(f'{target.full_name}: {file} has no column {prompt.task.target!r}, so '
                         'nobody knows what is right; its inputs and answers are compared')
    logged = None
    if sources.log:
        logged = logged_sample(engine, prompt, sources.log, settings.sample)
        if logged is None:
            notes.append(f'{target.full_name}: no line of {sources.log} is of this version')
    quality = None
    if fresh and fresh.figures:
        quality = _compare(prompt, fresh, reference, settings, notes)
    sample = logged or (fresh and fresh.sample)
    drift = {}
    if sample is not None and reference is None:
        notes.append(f'{target.full_name} has no reference, so drift cannot be told; give '
                     '--reference=FILE, such as the data that it was validated on')
    elif sample is not None:
        drift = differences(reference.sample, sample, settings.seed)
        if logged is not None and sample.states is None:
            notes.append(f'{target.full_name}: the log holds no texts, so what the encoder makes '
                         'of them is not compared; see server.log_texts')
    return Report(target, prompt.digest, [*filter(None, [file, sources.log])],
                  {name: one.value for name, one in fresh.figures.items()} if fresh else {},
                  quality, drift, {}, settings.alpha, notes)


def _compare(prompt: ServedPrompt, fresh: Measured, reference: Measured | None,
             settings: MonitorSettings, notes: list[str]) -> Comparison | None:
    """Test the figure that counts; with the file's own, taken as exact, where there is no other."""
    metric = settings.metric or next(iter(fresh.figures))
    if metric not in fresh.figures:
        raise ValueError(f'{prompt} has no figure {metric!r} on {fresh.data}; expected one of '
                         f'{listed(fresh.figures)}')
    own = reference.figures.get(metric) if reference else None
    if own is None:
        if metric not in prompt.file.metadata.metrics:
            notes.append(f'{prompt.name}: its file has no {metric}, and there is no labelled '
                         'reference, so its figure is compared with nothing')
            return None
        own = Figure(prompt.file.metadata.metrics[metric])
        notes.append(f'{prompt.name}: compared with the {metric} in its file as if that were '
                     'exact; give --reference=FILE for a test that knows how far it is')
    return compare(metric, fresh.figures[metric], own, settings.margin, settings.alpha)


def _reference(engine: Engine, prompt: ServedPrompt, target: Target, source: str | None,
               folder: Path, settings: MonitorSettings, several: int) -> Measured | None:
    """Return what a version does on its reference data: as it was kept, or measured now."""
    path = folder / f'{target.full_name}.npz'
    key = {'prompt': prompt.digest, 'model': engine.opened.fingerprint,
           'sample': str(settings.sample), 'metrics': brief(settings.metrics)}
    rows, file = _rows(prompt, target.name, source, several)
    if rows:
        key['rows'] = digest_of(rows)
    kept = load_measured(path, key)
    if kept is not None or not rows:
        return kept
    measured = measure(engine, prompt, rows, file, settings.metrics, settings.sample,
                       settings.seed)
    save_measured(path, measured, key)
    _log.info('%s: measured %s, %d examples, to compare with; kept in %s', target.full_name, file,
              measured.size, path)
    return measured


def _rows(prompt: ServedPrompt, name: str, source: str | None,
          several: int) -> tuple[list[Row], str]:
    """Return the rows for a prompt, and the file; none where a folder has no file for it."""
    if source is None:
        return [], ''
    path = file_for(source, name, several)
    if path is None:
        return [], ''
    task = dataclasses.replace(prompt.task, splits={'data': path})
    rows = task.rows('data')
    for row in rows if is_labelled(prompt, rows) else ():
        task.target_text(row)  # which names the row whose label is none
    return rows, path


def file_for(source: str, name: str, several: int = 1) -> str | None:
    """Return the file of rows for a prompt.

    Args:
      source: a file for the only prompt, or a folder with files that have prompts' names.
      name: of the prompt.
      several: how many prompts are looked at.

    Returns:
      Its path; None where the folder has none for this prompt.

    Raises:
      FileNotFoundError: there is no such file or folder.
      ValueError: one file for several prompts, or several files for one.
    """
    if not os.path.exists(source):
        raise FileNotFoundError(f'data {source} do not exist; expected a file of rows, or a folder '
                                'with a file for each prompt, such as NAME.csv')
    if not os.path.isdir(source):
        if several > 1:
            raise ValueError(f'{source} is one file for {several} prompts; name one prompt with '
                             '--prompt=NAME, or a folder with a file for each, such as NAME.csv')
        return source
    found = sorted(one for one in os.listdir(source)
                   if one.startswith(name) and one[len(name):].lower() in _ENDINGS)
    if len(found) > 1:
        raise ValueError(f'{source} has {len(found)} files for prompt {name}: {listed(found)}; '
                         'expected one')
    return os.path.join(source, found[0]) if found else None
