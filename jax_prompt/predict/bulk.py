"""Prediction over files larger than memory, with any number of prompts, in the order of the lines.

A file is read in windows of lines; the rows of a window are batched by task and length and put
back in order. What a window's batches are follows from its lines alone, so a run that was killed
and started again writes the same bytes as one that was not (see `parts`).
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax

from jax_prompt import __version__
from jax_prompt.data.tasks.rows import decode, parse_object
from jax_prompt.files import listed
from jax_prompt.inference.answering import AnswerSettings
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.ensemble import together
from jax_prompt.inference.rows import Prediction, Row
from jax_prompt.parallel.hosts import from_first, wait_for_all
from jax_prompt.predict.inputs import Window, open_lines, windows
from jax_prompt.predict.parts import Answered, Parts
from jax_prompt.progress import ProgressBar

_FORMATS = ('lines', 'jsonl')

#: What an answer puts into a JSON object, in place of what it held.
_ANSWER_KEYS = ('prediction', 'scores', 'probabilities')


@dataclasses.dataclass(frozen=True)
class LineSettings:
    """How lines are read.

    Attributes:
      format: 'lines', where a line is the value of the template's only column and is answered by a
        line of text; or 'jsonl', where a line is an object with all columns, and is answered by
        the same object with `prediction`, and of labels `scores` and `probabilities`, put in; a
        blank line has no answer. None is what the name of the inputs says to the command, and
        otherwise jsonl.
      prompt_column: the key of the JSON objects that names each line's prompt; null or an empty
        name stand for the one that is for all, and so does a missing key where there is one.
      window: lines that are in memory at one time.
      batch_size: most rows of a batch.

    Raises:
      ValueError: for an unknown format, a column without objects, or a window below 1.
    """

    format: str | None = None
    prompt_column: str | None = None
    window: int = 1024
    batch_size: int = 32

    def __post_init__(self):
        if self.format not in (None, *_FORMATS):
            raise ValueError(f'input format {self.format!r} is unknown; choose one of '
                             f'{", ".join(_FORMATS)}')
        if self.prompt_column is not None and self.format == 'lines':
            raise ValueError(f'prompt column {self.prompt_column!r} with the format '
                             f'{self.format}; only jsonl has columns: give the input as jsonl')
        if self.window < 1:
            raise ValueError(f'window={self.window} for prediction; expected at least 1')


@dataclasses.dataclass(frozen=True)
class BulkSettings:
    """How lines are read and answered.

    Attributes:
      prompt: the prompt of all lines that name none; None for the plain model.
      lines: how they are read.
      answers: how each is answered.
      members: names of prompts that answer all lines together, by `answers.ensemble`.
    """

    prompt: str | None = None
    lines: LineSettings = LineSettings()
    answers: AnswerSettings = AnswerSettings()
    members: tuple[str, ...] = ()


def answer_lines(engine: Engine, lines: Iterable[bytes], settings: BulkSettings,
                 source: str = 'standard input') -> Iterator[Answered]:
    """Answer lines, a window at a time, reading no further ahead.

    Args:
      engine: with the prompts that the lines name.
      lines: any number of them, with their line feeds.
      settings: how to read and answer them.
      source: what to call the input in messages.

    Yields:
      The answers to each window.

    Raises:
      ValueError: naming the line, for what cannot be read or does not fit its task.
    """
    for window in windows(lines, settings.lines.window, source):
        yield _answer(engine, window, settings)


def predict_file(engine: Engine, inputs: str | os.PathLike, output: str | os.PathLike,
                 settings: BulkSettings, bar: ProgressBar | None = None) -> tuple[int, int]:
    """Answer the lines of a file into another one, going on where a killed run stopped.

    All hosts of a job call it, each with a whole model of its own, and share the windows.

    Args:
      engine: with the prompts that the lines name.
      inputs: a file of UTF-8 text; only a line feed ends a line.
      output: appears under its name when all of it is written.
      settings: how to read and answer the lines.
      bar: shows how far it is, in bytes of the input.

    Returns:
      How many lines there are, and how many of them were cut to fit the model.

    Raises:
      ValueError: naming the line, for what cannot be read or does not fit its task; for an output
        that another run has begun; for an input or a prompt that has changed since.
    """
    source, bar = str(inputs), bar or ProgressBar(0, quiet=True)
    run = _run(engine, settings)
    size = settings.lines.window
    with Parts(output, run, _named(engine, engine.prompts)) as parts, open_lines(source) as lines:
        if count := parts.count():
            bar.say(f'{source}: an earlier run answered {count:,} windows of {size:,} lines; '
                    'going on')
        for number, window in enumerate(parts.missing(windows(lines, size, source))):
            if number == 0:
                bar.update(window.starts[0])  # an earlier process came so far
            parts.add(window.number, _answer(engine, window, settings))
            bar.update(window.starts[-1], len(window.lines),
                       lines=window.number * size + len(window.lines))
        if jax.process_count() > 1:
            bar.say(f'host {jax.process_index()} of {jax.process_count()} has answered its share '
                    'and waits for the others')
        wait_for_all('the answers are written')
        total, cut = from_first(parts.join)
    return total, cut


def _answer(engine: Engine, window: Window, settings: BulkSettings) -> Answered:
    """Answer one window."""
    records, asked = list(_records(window, settings.lines)), {}
    if settings.members:
        rows, answers = _answer_together(engine, records, settings)
        return _answered(engine, window, records, rows, answers, settings, settings.members)
    for number, (record, where, _) in enumerate(records):
        asked.setdefault(_prompt_of(record, settings, where), []).append(number)
    rows: list[Row] = [None] * len(records)
    for name, numbers in asked.items():
        given = [records[number] for number in numbers]
        try:
            prompt = engine.prompt(name)
        except ValueError as error:
            raise ValueError(f'{given[0][1]}: {error}') from None
        made = settings.answers.rows(engine, prompt, *zip(*given, strict=True))
        for number, row in zip(numbers, made, strict=True):
            rows[number] = row
    answers = engine.run(rows, where=window.places.__getitem__)
    return _answered(engine, window, records, rows, answers, settings, asked)


def _answer_together(engine: Engine, records: Sequence[Any],
                     settings: BulkSettings) -> tuple[list[Row], list[Prediction]]:
    """Answer each record by all members of an ensemble, whose rows share batches."""
    count = len(settings.members)
    made = [settings.answers.rows(engine, engine.prompt(name), *zip(*records, strict=True))
            for name in settings.members] if records else []
    rows = [row for of_record in zip(*made, strict=True) for row in of_record]
    answers = engine.run(rows, where=lambda number: records[number // count][1])
    return rows[::count], [together(answers[start:start + count], settings.answers.ensemble)
                           for start in range(0, len(answers), count)]


def _answered(engine: Engine, window: Window, records: Sequence[Any], rows: Sequence[Row],
              answers: Sequence[Prediction], settings: BulkSettings,
              names: Iterable[str]) -> Answered:
    """Return the lines of a window's answers."""
    if settings.lines.format == 'lines':
        lines = [' '.join(answer.text.splitlines()) for answer in answers]
    else:
        lines = [_answered_record(record, answer)
                 for (record, *_), answer in zip(records, answers, strict=True)]
    return Answered(window.digest, _named(engine, set(names) & engine.prompts.keys()), len(lines),
                    sum(row.cut for row in rows), ''.join(f'{line}\n' for line in lines))


def _records(window: Window,
             settings: LineSettings) -> Iterator[tuple[str | Mapping[str, Any], str, tuple[int]]]:
    """Yield what each line asks, where it stands, and its byte: the same on any number of hosts."""
    for line, where, start in zip(window.lines, window.places, window.starts, strict=False):
        text = decode(line, where, is_first=start == 0)
        if settings.format == 'lines':
            yield text.rstrip('\r\n'), where, (start,)
        elif text.strip():
            yield parse_object(text, where, strict=True), where, (start,)


def _named(engine: Engine, names: Iterable[str]) -> dict[str, str]:
    """Return what tells the content of prompts."""
    return {f'prompt {name}': engine.prompts[name].digest for name in sorted(names)}


def _answered_record(record: Mapping[str, Any], answer: Prediction) -> str:
    kept = {name: value for name, value in record.items() if name not in _ANSWER_KEYS}
    return json.dumps(kept | answer.to_dict(), ensure_ascii=False)


def _prompt_of(record: str | Mapping[str, Any], settings: BulkSettings, where: str) -> str | None:
    """Return the name of a line's prompt."""
    column = settings.lines.prompt_column
    if column is None:
        return settings.prompt
    if settings.prompt is None and column not in record:
        raise ValueError(f'column {column!r} is not there at {where}, which has '
                         f'{listed(record)}; expected the name of a prompt, or null for the plain '
                         'model; give as prompt_column the key that has it, or a prompt for lines '
                         'without')
    name = record.get(column)
    if name is not None and not isinstance(name, str):
        raise ValueError(f'column {column!r} at {where} holds {name!r}; expected the name of a '
                         'prompt')
    return name or settings.prompt


def _run(engine: Engine, settings: BulkSettings) -> dict[str, Any]:
    """Return what the bytes of an output depend on, apart from those of its input and prompts."""
    opened = engine.opened
    return {
        'version': __version__,
        'model': opened.fingerprint,
        'end tokens': list(opened.model.tokens.ends),
        'vocabulary': opened.vocabulary_fingerprint,
        'numerics': dict(opened.model.numerics),
        'weight dtype': sorted({str(leaf.dtype) for leaf in jax.tree.leaves(opened.frozen)}),
        'settings': dataclasses.asdict(settings),
        'batches': dataclasses.asdict(engine.shapes),
    }
