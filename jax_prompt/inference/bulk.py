"""Prediction over files larger than memory, with any number of prompts, in the order of the lines.

A file is read in windows of lines; the rows of a window are batched by task and length and put
back in order. What a window's batches are follows from its lines alone, so a run that was killed
and started again writes the same bytes as one that was not (see `journal`).
"""

import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple, TextIO

from jax_prompt.inference.answering import AnswerSettings
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.inputs import FORMATS, parse_object
from jax_prompt.inference.journal import Entry, Journal
from jax_prompt.inference.rows import Row, ServedPrompt
from jax_prompt.inference.shares import Reader, part_path, share_of

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class BulkSettings:
    """How lines are read and answered.

    Attributes:
      prompt: the prompt of all lines; None for the plain model.
      prompt_column: the key of the JSON objects that names each line's prompt instead; null, an
        empty name or a missing key stand for `prompt`.
      format: 'lines', where a line is the value of the template's only column and is answered by a
        line of text; or 'jsonl', where a line is an object with all columns, and is answered by
        the same object with `prediction`, `scores` and `probabilities` put in.
      window: lines that are in memory at one time.
      answers: how each is answered.

    Raises:
      ValueError: for an unknown format, a column without objects, or a window below 1.
    """

    prompt: str | None = None
    prompt_column: str | None = None
    format: str = 'jsonl'
    window: int = 1024
    answers: AnswerSettings = AnswerSettings()

    def __post_init__(self):
        if self.format not in FORMATS:
            raise ValueError(f'input format {self.format!r} is unknown; choose one of '
                             f'{", ".join(FORMATS)}')
        if self.prompt_column is not None and self.format != 'jsonl':
            raise ValueError(f'prompt column {self.prompt_column!r} with the format '
                             f'{self.format}; only jsonl has columns: give the input as jsonl')
        if self.window < 1:
            raise ValueError(f'window={self.window} for prediction; expected at least 1')


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
      lines: answered, by earlier processes too.
      fraction: of the input's bytes, from 0 to 1.
      lines_per_second: of this process.
      seconds_left: by its pace so far; None before it has one.
    """

    lines: int
    fraction: float
    lines_per_second: float
    seconds_left: float | None

    def __str__(self) -> str:
        left = '' if self.seconds_left is None else f', {_clock(self.seconds_left)} left'
        return (f'{self.lines:,} lines, {100 * self.fraction:.1f} %, '
                f'{self.lines_per_second:,.1f} lines/s{left}')


class ProgressLine:
    """Show how far a run is: in place on a terminal, else as a plain line now and then.

    It writes to standard error, so that standard output carries answers alone.

    Args:
      stream: where to write; standard error by default.
      seconds_between_lines: where the stream is no terminal.
    """

    def __init__(self, stream: TextIO | None = None, seconds_between_lines: float = 10.0):
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._interval = 0.2 if self._terminal else seconds_between_lines
        self._last = -self._interval
        self._width = 0

    def __call__(self, progress: Progress) -> None:
        """Show it, unless something was shown just before; the end is always shown."""
        now, ended = time.monotonic(), progress.fraction >= 1
        if now - self._last < self._interval and not ended:
            return
        self._last, text = now, str(progress)
        if self._terminal:
            text, self._width = '\r' + text.ljust(self._width), len(text)
        print(text, end='' if self._terminal and not ended else '\n', file=self._stream, flush=True)


class Answered(NamedTuple):
    """A window's answers.

    Attributes:
      text: the lines to write.
      lines: how many.
      cut: how many inputs were cut to fit.
    """

    text: str
    lines: int
    cut: int


def answer_lines(engine: Engine, lines: Iterable[str], settings: BulkSettings,
                 source: str = 'standard input', first: int = 1) -> Iterator[Answered]:
    """Answer lines, a window at a time, reading no further ahead.

    Args:
      engine: with the prompts that the lines name.
      lines: any number of them.
      settings: how to read and answer them.
      source: what to call the input in messages.
      first: number of the first line, for messages.

    Raises:
      ValueError: naming the line, for what cannot be read or does not fit its task.
    """
    lines, window = iter(lines), []
    while True:
        window = [line for _, line in zip(range(settings.window), lines, strict=False)]
        if not window:
            return
        yield _answer_window(engine, window, settings, source, first)
        first += len(window)


def predict_file(engine: Engine, inputs: str | os.PathLike, output: str | os.PathLike,
                 settings: BulkSettings, share: tuple[int, int] = (0, 1),
                 progress: Callable[[Progress], None] | None = None) -> Entry:
    """Answer the lines of a file into another one, going on where a killed run stopped.

    Args:
      engine: with the prompts that the lines name.
      inputs: a file of UTF-8 text; only a line feed ends a line.
      output: appears under its name when all of it is written. With several hosts, each writes
        `shares.part_path(output, share)`, and `shares.merge_parts` joins them.
      settings: how to read and answer the lines.
      share: (i, n): answer the i-th of n parts of the file, of about as many bytes each. A host of
        several takes `(jax.process_index(), jax.process_count())`, its model being whole on it.
      progress: is told how far it is, after every window.

    Returns:
      What was read and written in all.

    Raises:
      ValueError: naming the line, for what cannot be read or does not fit its task; for an output
        that another run has begun; for an input whose beginning changed since.
    """
    path = str(inputs)
    with open(inputs, 'rb') as file, Journal(part_path(output, share),
                                             _header(engine, file, settings, share)) as journal:
        if journal.finished:
            return journal.last
        start, end = share_of(file, share)
        reader = Reader(file, path, start, end, journal.last)
        clock = _Clock(end - start, journal.last)
        if journal.last.lines:
            _log.info('%s: going on behind line %s of an earlier run', path,
                      f'{journal.last.lines:,}')
        for lines in reader.windows(settings.window):
            answered = _answer_window(engine, lines, settings, reader.source,
                                      journal.last.lines + 1, start)
            text = answered.text.encode()
            journal.add(text, Entry(
                reader.read, journal.last.written + len(text),
                journal.last.lines + answered.lines, journal.last.cut + answered.cut,
                reader.digest))
            if progress is not None:
                progress(clock.now(journal.last))
        journal.finish()
    say_cut(journal.last.cut, journal.last.lines)
    return journal.last


def say_cut(cut: int, lines: int) -> None:
    """Say in the log how many inputs were cut, if any were."""
    if cut:
        _log.warning('%d of %d inputs were longer than their task allows and were cut; the prompt '
                     'never is', cut, lines)


def _answer_window(engine: Engine, lines: Sequence[str], settings: BulkSettings, source: str,
                   first: int, start: int = 0) -> Answered:
    """Answer one window; its lines are told from all others by (start, number)."""
    records = [_record(line, settings, f'line {number} of {source}')
               for number, line in enumerate(lines, first)]
    asked: dict[str | None, list[int]] = {}
    for number, record in enumerate(records):
        name = _prompt_of(record, settings, f'line {first + number} of {source}')
        asked.setdefault(name, []).append(number)
    rows: list[Row] = [None] * len(lines)
    for name, numbers in asked.items():
        made = settings.answers.rows(
            engine, _prompt(engine, name, f'line {first + numbers[0]} of {source}'),
            [records[number] for number in numbers],
            [f'line {first + number} of {source}' for number in numbers],
            [(start, first + number) for number in numbers])
        for number, row in zip(numbers, made, strict=True):
            rows[number] = row
    answers = engine.run(rows)
    if settings.format == 'jsonl':
        text = ''.join(json.dumps({**record, **answer.to_dict()}, ensure_ascii=False) + '\n'
                       for record, answer in zip(records, answers, strict=True))
    else:
        text = ''.join(' '.join(answer.text.splitlines()) + '\n' for answer in answers)
    return Answered(text, len(lines), sum(row.cut for row in rows))


def _record(line: str, settings: BulkSettings, where: str) -> str | dict[str, Any]:
    return parse_object(line, where) if settings.format == 'jsonl' else line.rstrip('\r\n')


def _prompt_of(record: str | Mapping[str, Any], settings: BulkSettings, where: str) -> str | None:
    """Return the name of a line's prompt."""
    if settings.prompt_column is None:
        return settings.prompt
    name = record.get(settings.prompt_column)
    if name is not None and not isinstance(name, str):
        raise ValueError(f'column {settings.prompt_column!r} at {where} holds {name!r}; expected '
                         'the name of a prompt')
    return name or settings.prompt


def _prompt(engine: Engine, name: str | None, where: str) -> ServedPrompt:
    """Return the prompt that a line names."""
    try:
        return engine.prompt(name)
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from None


def _header(engine: Engine, file: BinaryIO, settings: BulkSettings,
            share: tuple[int, int]) -> dict[str, Any]:
    """Return what the bytes of an output depend on, apart from those of its input."""
    prompts = {name: prompt.digest for name, prompt in sorted(engine.prompts.items())}
    return {
        'model': engine.opened.fingerprint,
        'prompts': prompts,
        'settings': dataclasses.asdict(settings),
        'batches': dataclasses.asdict(engine.shapes),
        'share': list(share),
        # Where the shares begin depends on the size; alone, the input may grow or be mended.
        'input size': os.fstat(file.fileno()).st_size if share[1] > 1 else None,
    }


class _Clock:
    """The pace of this process."""

    def __init__(self, size: int, done: Entry):
        self._size, self._first, self._began = size, done, time.monotonic()

    def now(self, done: Entry) -> Progress:
        seconds = max(time.monotonic() - self._began, 1e-9)
        pace = (done.read - self._first.read) / seconds
        return Progress(done.lines, done.read / max(self._size, 1),
                        (done.lines - self._first.lines) / seconds,
                        (self._size - done.read) / pace if pace else None)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02d}:{seconds:02d}'
