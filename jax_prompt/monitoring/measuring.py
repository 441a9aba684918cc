"""What a version of a prompt does on some data: figures where there are labels, and a sample.

What is measured once on data such as the prompt was trained for is kept in a file, a reference, to
compare later data with.
"""

import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jax_prompt.data.tasks.rows import Row
from jax_prompt.evaluation.registry import METRICS, metrics_of
from jax_prompt.evaluation.statistics import resampled
from jax_prompt.files import first_line, write_file
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.rows import Prediction, ServedPrompt
from jax_prompt.inference.rows import Row as AskedRow
from jax_prompt.monitoring.drift import Sample
from jax_prompt.monitoring.quality import PROPORTIONS, Figure
from jax_prompt.monitoring.states import mean_states

_FORMAT = 1
_ARRAYS = ('tokens', 'unknown', 'states', 'answers', 'confidences', 'words')


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a version of a prompt does on some data.

    Attributes:
      data: where it comes from, for people.
      size: how many examples.
      figures: name -> value, the first one first; none without labels.
      sample: of the inputs and answers.
    """

    data: str
    size: int
    figures: Mapping[str, Figure]
    sample: Sample


def measure(engine: Engine, prompt: ServedPrompt, rows: Sequence[Row], data: str,
            metrics: Sequence[str] | None = None, most: int = 500, seed: int = 0) -> Measured:
    """Answer rows with a prompt, and judge the answers where the rows tell what is right.

    Args:
      engine: that has the prompt.
      prompt: from `Engine.add`.
      rows: with the columns of its template; labelled if they have the target column too.
      data: where they come from.
      metrics: names of `evaluation.registry.METRICS`; None for those that the prompt file has
        figures of, or else the usual one.
      most: inputs of the sample, drawn from the rows; without labels only these are answered.
      seed: of drawing.

    Raises:
      ValueError: a row lacks a column, or has a label that is none of the task's.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(rows))[:most]).tolist()
    labelled, size = is_labelled(prompt, rows), len(rows)
    if not labelled:
        rows, drawn = [rows[number] for number in drawn], range(len(drawn))
    asked = engine.rows_of(prompt, [row.columns for row in rows],
                           where=lambda number: rows[number].where)
    answers = engine.run(asked, where=lambda number: rows[number].where)
    figures = _figures(prompt, metrics, answers, rows) if labelled else {}
    return Measured(data, size, figures, _sample_of(
        engine, prompt, [asked[number] for number in drawn], [answers[number] for number in drawn]))


def is_labelled(prompt: ServedPrompt, rows: Sequence[Row]) -> bool:
    """Tell whether rows have the column of the answer."""
    return prompt.task.target in rows[0].columns


def _figures(prompt: ServedPrompt, metrics: Sequence[str] | None, answers: Sequence[Prediction],
             rows: Sequence[Row]) -> dict[str, Figure]:
    known = tuple(name for name in prompt.file.metadata.metrics if name in METRICS)
    task = dataclasses.replace(prompt.task, metrics=tuple(metrics or known) or None)
    found = {}
    for metric in metrics_of(task, 'greedy' if task.label_words is None else 'rank'):
        values = metric(answers, rows)
        drawn = {} if values.keys() <= PROPORTIONS else resampled(metric, [answers], rows)
        found |= {name: Figure(float(value), len(rows), drawn.get(name, ()))
                  for name, value in values.items()}
    return found


def _sample_of(engine: Engine, prompt: ServedPrompt, asked: Sequence[AskedRow],
               answers: Sequence[Prediction]) -> Sample:
    texts = [prompt.converter.text_ids(row.ids) for row in asked]
    unknown_id = engine.opened.vocabulary.unk_id
    if prompt.labels is None:
        told = {'words': np.array([len(one.text.split()) for one in answers])}
    else:
        likeliest = [one.likeliest for one in answers]
        told = {'answers': [label for label, _ in likeliest],
                'confidences': np.array([odds for _, odds in likeliest])}
    return Sample(
        np.array([len(ids) for ids in texts]),
        np.array([0 if unknown_id is None else np.sum(ids == unknown_id) for ids in texts]),
        mean_states(engine.opened, texts, engine.shapes), **told)


def logged_sample(engine: Engine, prompt: ServedPrompt, folder: str | os.PathLike,
                  most: int = 500) -> Sample | None:
    """Return what a server has logged of a version of a prompt, the newest lines.

    Args:
      engine: that has the prompt.
      prompt: whose content the lines must name.
      folder: of the log, see `serving.request_log`.
      most: lines.

    Returns:
      The sample, with states where the log holds texts; None where there is no line.

    Raises:
      FileNotFoundError: there is no such folder, or no log in it.
    """
    files = sorted(Path(folder).glob('requests.*.jsonl*'))
    if not files:
        raise FileNotFoundError(f'no log of requests in {folder}; expected the folder that '
                                'jax-prompt serve was given with --log')
    lines = (line for file in files for line in file.read_bytes().splitlines())
    found = [record for record in map(_parsed, lines)
             if record.get('digest') == prompt.digest and _is_whole(record, prompt)]
    found = sorted(found, key=lambda record: record['time'])[-most:]
    if not found:
        return None
    told = {'tokens': np.array([one['tokens'] for one in found]),
            'unknown': np.array([one['unknown'] for one in found])}
    if prompt.labels is None:
        told['words'] = np.array([one['words'] for one in found])
    else:
        told['answers'] = [one['label'] for one in found]
        told['confidences'] = np.array([one['confidence'] for one in found])
    inputs = [one['inputs'] for one in found if 'inputs' in one]
    if inputs:
        rows = engine.rows_of(prompt, inputs)
        told['states'] = mean_states(
            engine.opened, [prompt.converter.text_ids(row.ids) for row in rows], engine.shapes)
    return Sample(**told)


def _parsed(line: bytes) -> dict[str, Any]:
    """Return a line of a log; {} for one that a full disk or a kill has left half done."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _is_whole(record: Mapping[str, Any], prompt: ServedPrompt) -> bool:
    kinds = {'time': str, 'tokens': int, 'unknown': int}
    kinds |= {'words': int} if prompt.labels is None else {'label': str, 'confidence': float | int}
    return all(isinstance(record.get(name), kind) for name, kind in kinds.items())


def digest_of(rows: Iterable[Row]) -> str:
    """Return what tells rows, in their order, from any others."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps(dict(row.columns), sort_keys=True, default=str).encode())
    return found.hexdigest()[:16]


def save_measured(path: Path, measured: Measured, key: Mapping[str, str]) -> None:
    """Write a reference, in place of one that is there.

    Args:
      path: a .npz file.
      measured: on data such as the prompt was trained for.
      key: what it holds for, such as the digest of the prompt.
    """
    arrays = {name: np.asarray(value) for name in _ARRAYS
              if (value := getattr(measured.sample, name)) is not None}
    about = {'format': _FORMAT, 'key': dict(key), 'data': measured.data, 'size': measured.size,
             'figures': {name: dataclasses.asdict(one) for name, one in measured.figures.items()}}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, about=np.array(json.dumps(about)), **arrays)
    write_file(path, buffer.getvalue(), overwrite=True)


def load_measured(path: Path, key: Mapping[str, str]) -> Measured | None:
    """Read a reference.

    Args:
      path: where one may be.
      key: some of what it was saved with.

    Returns:
      None where there is none, or one of something else.

    Raises:
      ValueError: the file cannot be read.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file['about']))
            arrays = {name: file[name] for name in _ARRAYS if name in file}
        if about['format'] != _FORMAT or not key.items() <= about['key'].items():
            return None
        answers = arrays.pop('answers', np.array([])).tolist()
        return Measured(about['data'], about['size'],
                        {name: Figure(one['value'], one['size'], tuple(one['resampled']))
                         for name, one in about['figures'].items()},
                        Sample(answers=answers, **arrays))
    except (KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f'cannot read the reference {path}: {first_line(error)}; delete it, and '
                         'give --reference=FILE to make it anew') from error
