"""Prediction over files larger than memory, with any number of prompts, in the order of the lines.

A file is read in windows of lines; the rows of a window are batched by task and length and put
back in order. What a window's batches are follows from its lines alone, so a run that was killed
and started again writes the same bytes as one that was not (see `journal`).
"""

import dataclasses
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp

from jax_prompt import __version__
from jax_prompt.inference.answering import AnswerSettings
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.prediction import Prediction
from jax_prompt.inference.rows import Row, ServedPrompt
from jax_prompt.predict.inputs import FORMATS, parse_object
from jax_prompt.predict.journal import Entry, Journal, hash_start
from jax_prompt.predict.progress import Clock, Progress
from jax_prompt.predict.shares import Reader, part_path, share_of

_log = logging.getLogger(__name__)

_BYTE_ORDER_MARK = '\ufeff'

#: What an answer puts into a JSON object, in place of what it held.
_ANSWER_KEYS = ('prediction', 'scores', 'probabilities')


@dataclasses.dataclass(frozen=True)
class BulkSettings:
    """How lines are read and answered.

    Attributes:
      prompt: the prompt of all lines; None for the plain model.
      prompt_column: the key of the JSON objects that names each line's prompt instead; null or an
        empty name stand for `prompt`, and so does a missing key where there is one.
      format: 'lines', where a line is the value of the template's only column and is answered by a
        line of text; or 'jsonl', where a line is an object with all columns, and is answered by
        the same object with `prediction`, and of labels `scores` and `probabilities`, put in.
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

    Yields:
      The answers to each window.

    Raises:
      ValueError: naming the line, for what cannot be read or does not fit its task.
    """
    lines, offset = iter(lines), 0
    while window := list(itertools.islice(lines, settings.window)):
        yield _answer_window(engine, window, settings, source, first, offset)
        first += len(window)
        offset += sum(map(_num_bytes, window))


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
        that another run has begun; for an input whose beginning, or a prompt that changed since.
    """
    path = str(inputs)
    with open(inputs, 'rb') as file, Journal(
            part_path(output, share), _header(engine, file, settings, share),
            {f'prompt {name}': prompt.digest for name, prompt in sorted(engine.prompts.items())},
            is_part=share[1] > 1) as journal:
        start, end = share_of(file, share)
        if journal.finished and \
                hash_start(file, start, end - start).hexdigest() != journal.last.digest:
            journal.start_anew()  # the input is another one now
        if journal.finished:
            _log.info('%s: the %s lines of this share were answered by an earlier run', path,
                      f'{journal.last.lines:,}')
        else:
            reader = Reader(file, path, start, end, journal.last)
            _answer_share(engine, reader, journal, settings, progress)
            journal.finish()
    say_cut(journal.last.cut, journal.last.lines)
    return journal.last


def _answer_share(engine: Engine, reader: Reader, journal: Journal, settings: BulkSettings,
                  progress: Callable[[Progress], None] | None) -> None:
    """Answer what is left of a share."""
    clock = Clock(reader.size, journal.last)
    if journal.last.lines:
        _log.info('%s: going on behind line %s of an earlier run', reader.source,
                  f'{journal.last.lines:,}')
    for lines in reader.windows(settings.window):
        answered = _answer_window(engine, lines, settings, reader.source, journal.last.lines + 1,
                                  reader.start + journal.last.read)
        text = answered.text.encode()
        journal.add(text, Entry(
            reader.read, journal.last.written + len(text), journal.last.lines + answered.lines,
            journal.last.cut + answered.cut, reader.digest))
        if progress is not None:
            progress(clock.now(journal.last))


def say_cut(cut: int, lines: int) -> None:
    """Say in the log how many inputs were cut, if any were."""
    if cut:
        _log.warning('%d of %d inputs were longer than their task allows and were cut; the prompt '
                     'never is', cut, lines)


def _answer_window(engine: Engine, lines: Sequence[str], settings: BulkSettings, source: str,
                   first: int, offset: int) -> Answered:
    """Answer one window, whose first line has this number, and begins at this byte of the input."""
    # A line's seed is made of where it stands in the file, the same however many hosts share it.
    offsets = list(itertools.accumulate(map(_num_bytes, lines), initial=offset))
    if offset == 0:
        lines = [lines[0].removeprefix(_BYTE_ORDER_MARK), *lines[1:]]
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
            [(offsets[number],) for number in numbers])
        for number, row in zip(numbers, made, strict=True):
            rows[number] = row
    answers = engine.run(rows)
    if settings.format == 'jsonl':
        text = ''.join(_answered_record(record, answer) + '\n'
                       for record, answer in zip(records, answers, strict=True))
    else:
        text = ''.join(' '.join(answer.text.splitlines()) + '\n' for answer in answers)
    return Answered(text, len(lines), sum(row.cut for row in rows))


def _num_bytes(line: str) -> int:
    """Return the bytes of a line in a file, where a line feed ends it."""
    return len(line.removesuffix('\n').encode()) + 1


def _answered_record(record: Mapping[str, Any], answer: Prediction) -> str:
    kept = {name: value for name, value in record.items() if name not in _ANSWER_KEYS}
    return json.dumps(kept | answer.to_dict(), ensure_ascii=False)


def _record(line: str, settings: BulkSettings, where: str) -> str | dict[str, Any]:
    return parse_object(line, where) if settings.format == 'jsonl' else line.rstrip('\r\n')


def _prompt_of(record: str | Mapping[str, Any], settings: BulkSettings, where: str) -> str | None:
    """Return the name of a line's prompt."""
    if settings.prompt_column is None:
        return settings.prompt
    if settings.prompt is None and settings.prompt_column not in record:
        raise ValueError(f'column {settings.prompt_column!r} is not there at {where}, which has '
                         f'{", ".join(map(repr, list(record)[:10])) or "none"}; expected the name '
                         'of a prompt, or null for the plain model; give as prompt_column the key '
                         'that has it, or a prompt for lines without')
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
    """Return what the bytes of an output depend on, apart from those of its input and prompts."""
    opened, t5 = engine.opened, engine.opened.model
    return {
        'version': __version__,
        'model': opened.fingerprint,
        'vocabulary': opened.vocabulary_fingerprint,
        'activation dtype': str(jnp.dtype(t5.dtype)),
        'weight dtype': sorted({str(leaf.dtype) for leaf in jax.tree.leaves(opened.frozen)}),
        'layers': {'scan': t5.scan_layers, 'attention': t5.attention},
        'settings': dataclasses.asdict(settings),
        'batches': dataclasses.asdict(engine.shapes),
        'share': list(share),
        # Where the shares begin depends on the size; alone, the input may grow or be mended.
        'input size': os.fstat(file.fileno()).st_size if share[1] > 1 else None,
    }
