"""Rows of CSV, TSV, JSON, JSONL, Parquet and Arrow files, each with the place it came from.

Lines of JSON are read here for prediction as well, so that a file means the same to both.
"""

import collections
import csv
import dataclasses
import gzip
import itertools
import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jax_prompt.data.tasks.columnar import is_dataset, read_arrow, read_dataset, read_parquet
from jax_prompt.files import brief, check_regular, listed

# csv's own limit of 128 KiB a field is below a long document.
_LONGEST_FIELD = 1 << 27

#: Endings of the files that are read, and how csv reads them.
_KINDS = {'.csv': {'delimiter': ',', 'strict': True},
          '.tsv': {'delimiter': '\t', 'quoting': csv.QUOTE_NONE}, '.jsonl': {}, '.json': {}}
_COLUMNAR = {'.parquet': read_parquet, '.arrow': read_arrow}
_EXPECTED = 'expected .csv, .tsv, .json or .jsonl, plain or .gz, .parquet or .arrow'

#: Endings of files that may hold rows, read or not: what ends so is not the name of a task.
FILE_ENDINGS = (*_KINDS, *_COLUMNAR, '.txt', '.xlsx', '.xls', '.ods', '.feather', '.pkl', '.gz',
                '.zip', '.bz2', '.xz', '.zst', '.tar', '.db', '.sqlite', '.tfrecord')

#: The column that tells which rows belong together, such as the answers to one question: metrics
#: that judge them together read it.
GROUP = 'group'

#: Characters as they are spelled in gin, for the command line, which takes text as it is.
_SPELLED = {'\\t': '\t', '\\\\': '\\'}

#: How spreadsheets say in a first line what separates the columns.
_DECLARED = re.compile(r'sep=(.)[\r\n]*')


@dataclasses.dataclass(frozen=True)
class Row:
    """One example as its source tells it.

    Attributes:
        columns: column name -> value (text, number, true/false, or None where it is absent; a
            tuple of them where a table names several columns so; lists and dicts of JSON and Arrow
            as they are).
        where: file and line or row, for messages.
    """

    columns: Mapping[str, Any]
    where: str


def read_rows(path: str, delimiter: str | None = None, escape: str | None = None) -> Iterator[Row]:
    """Read a file of rows: .csv, .tsv, .json or .jsonl, plain or .gz, .parquet or .arrow.

    The first line of a .csv or .tsv names the columns; one such as `sep=;` before it says what
    separates them. Fields of a .csv may be quoted, and quotation marks in them are doubled; a .tsv
    has no quoting, a quotation mark is a character like any other. Blank lines are skipped. A .json
    is a list of objects. Parquet and Arrow need pyarrow.

    Args:
        path: the file, or a folder that `datasets.Dataset.save_to_disk` of Hugging Face has made.
        delimiter: what separates columns, where it is not what the file's ending says; '\\\\t' may
            stand for a tab.
        escape: the character that stands before quotation marks which are text, such as a
            backslash, in files that do not double them.

    Yields:
        `Row`s; `where` is 'reviews.csv line 12', or 'reviews.parquet row 12'.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or a line that cannot be parsed.
    """
    path = str(path)
    name = os.path.basename(os.path.normpath(path))
    if is_dataset(path):
        yield from _numbered(read_dataset(path), name)
        return
    kind = _kind(path)
    if kind in _COLUMNAR:
        yield from _numbered(_COLUMNAR[kind](path), name)
        return
    opener = gzip.open if path.lower().endswith('.gz') else open
    try:
        with opener(path, 'rb') as file:
            if kind == '.jsonl':
                yield from _read_jsonl(file, name)
            elif kind == '.json':
                yield from _read_json(file, name)
            else:
                yield from _read_table(file, name, delimiter, escape, _KINDS[kind])
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f'{path} is not a whole gzip file: {error}') from None


def _kind(path: str) -> str:
    """Return the ending of a file that is read."""
    plain = path.lower().removesuffix('.gz')
    kind = os.path.splitext(plain)[1]
    if os.path.isdir(path):
        raise ValueError(f'{path} is a folder; {_EXPECTED}, or a folder of datasets.save_to_disk')
    if kind not in (_KINDS if plain != path.lower() else {**_KINDS, **_COLUMNAR}):
        what = f'a {kind} file' if kind else 'a file whose name has no ending'
        raise ValueError(f'{path} is {what}; {_EXPECTED}')
    check_regular(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f'data file {path} does not exist')
    return kind


def decode(line: bytes, where: str, is_first: bool = False) -> str:
    """Return the text of a line of UTF-8.

    Args:
        line: with or without its line feed.
        where: its place, for messages.
        is_first: of the input, so that a byte order mark is none of the text.

    Raises:
        ValueError: naming the place, for bytes that are not UTF-8.
    """
    try:
        return line.decode('utf-8-sig' if is_first else 'utf-8')
    except UnicodeDecodeError as error:
        raise ValueError(f'{where} is not UTF-8 text ({error.reason} at byte {error.start + 1} of '
                         'the line); save it as UTF-8') from None


def parse_object(line: str, where: str, strict: bool = False) -> dict[str, Any]:
    """Return the JSON object of a line.

    Args:
        line: with or without its line feed.
        where: its place, for messages.
        strict: refuse what could not be written as JSON in UTF-8 again: numbers that Python reads
            and JSON has not, and halves of surrogate pairs.

    Raises:
        ValueError: naming the place, where it is no JSON, or no object.
    """
    hooks = {'parse_constant': _finite, 'parse_float': _finite} if strict else {}
    try:
        record = json.loads(line, **hooks)
        if strict and '\\u' in line:
            json.dumps(record, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f'{where} is not JSON ({error.msg} at character {error.pos + 1}); '
                         'expected an object such as {"text": "..."} a line') from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{where} cannot be used as JSON: {error}') from None
    if not isinstance(record, dict):
        raise ValueError(f'{where} is a JSON {type(record).__name__}; expected an object with '
                         'columns as keys, such as {"text": "...", "label": "..."}')
    return record


def _finite(number: str) -> float:
    """Return the number that is written so, of those that JSON can hold."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f'{number} is no number of JSON; write a finite one, or null')
    return value


def _read_jsonl(file: Iterable[bytes], name: str) -> Iterator[Row]:
    """Read one JSON object a line; only a line feed ends one, since a return is JSON's space."""
    for number, line in enumerate(file, 1):
        where = f'{name} line {number}'
        text = decode(line, where, number == 1)
        if text.strip():
            yield Row(parse_object(text, where), where)


def _read_json(file: Iterable[bytes], name: str) -> Iterator[Row]:
    """Read a list of JSON objects."""
    lines = [decode(line, f'{name} line {number}', number == 1)
             for number, line in enumerate(file, 1)]
    try:
        records = json.loads(''.join(lines))
    except json.JSONDecodeError as error:
        hint = ('it seems to be JSON lines: name it .jsonl' if error.msg == 'Extra data' else
                'expected a list of objects')
        raise ValueError(f'{name} line {error.lineno} is not JSON ({error.msg} at character '
                         f'{error.colno}); {hint}') from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{name} cannot be used as JSON: {error}') from None
    if not isinstance(records, list):
        raise ValueError(f'{name} is a JSON {type(records).__name__}; expected a list of objects '
                         'with columns as keys, such as [{"text": "...", "label": "..."}]')
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise ValueError(f'{name} row {number} is a JSON {type(record).__name__}; expected an '
                             'object with columns as keys, such as {"text": "..."}')
        yield Row(record, f'{name} row {number}')


def _numbered(records: Iterable[Mapping[str, Any]], name: str) -> Iterator[Row]:
    """Number the rows of what has no lines."""
    for number, columns in enumerate(records, 1):
        yield Row(columns, f'{name} row {number}')


def _read_table(file: Iterable[bytes], name: str, delimiter: str | None, escape: str | None,
                usual: dict[str, Any]) -> Iterator[Row]:
    """Read rows below a header."""
    lines = (part for line in file for part in line.splitlines(keepends=True))
    texts = (decode(line, f'{name} line {number}', number == 1)
             for number, line in enumerate(lines, 1))
    first = next(texts, '')
    declared = _DECLARED.fullmatch(first)
    if declared:
        delimiter = delimiter or declared[1]
    else:
        texts = itertools.chain([first], texts)
    dialect = usual | _given_dialect(name, delimiter or usual['delimiter'], escape)
    header, doubled = None, []
    for line, fields, text in _records(texts, name, 1 + bool(declared), dialect):
        if header is None:
            header = _checked_header(fields, name)
            doubled = [one for one, count in collections.Counter(header).items() if count > 1]
        elif len(fields) == len(header):
            columns = dict(zip(header, fields, strict=True))
            for one in doubled:
                columns[one] = tuple(itertools.compress(fields, map(one.__eq__, header)))
            yield Row(columns, f'{name} line {line}')
        elif ''.join(fields).strip() or len(fields) > 1:  # else a line of spaces
            raise _unparsed(name, line, f'it has {len(fields):,} fields, but the first line names '
                            f'{len(header):,} columns: {listed(header)}', text, dialect)


def _records(texts: Iterator[str], name: str, line: int,
             dialect: dict[str, Any]) -> Iterator[tuple[int, list[str], str]]:
    """Yield the line that a record begins at, its fields and its last line; no blank lines."""
    text = ''

    def fed() -> Iterator[str]:
        nonlocal text
        while text := next(texts, ''):
            yield text

    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    reader = csv.reader(fed(), **dialect)
    while True:
        at = line + reader.line_num
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise _unparsed(name, at, str(error), text, dialect) from None
        if fields is None:
            return
        if fields:
            yield at, fields, text


def _unparsed(name: str, line: int, why: str, text: str, dialect: dict[str, Any]) -> ValueError:
    """Return an error of a record, with a hint where it may be written in the other habit."""
    hint = ('; where quotation marks in texts stand as \\", set file_task.escape=\'\\\\\''
            if '\\"' in text and dialect['escapechar'] is None else '')
    return ValueError(f'{name} line {line} cannot be parsed: {why}{hint}')


def _given_dialect(name: str, delimiter: str, escape: str | None) -> dict[str, str | None]:
    """Return what csv takes; refuse what cannot separate or escape."""
    delimiter, escape = _SPELLED.get(delimiter, delimiter), _SPELLED.get(escape, escape) or None
    for what, value in (('delimiter', delimiter), ('escape', escape)):
        if value is not None and (len(value) != 1 or value in '"\r\n\0') or delimiter == escape:
            raise ValueError(f'the {what} of {name} is {brief(value)}; expected one character that '
                             "has no other meaning, such as ';'")
    return {'delimiter': delimiter, 'escapechar': escape}


def _checked_header(fields: list[str], name: str) -> list[str]:
    """Refuse a header that seems to be separated by something else."""
    others = [one for one in ',;\t|' if one in fields[0]]
    if len(fields) == 1 and others:
        raise ValueError(f'{name} names one column, {brief(fields[0])}; where {others[0]!r} '
                         f'separates its columns, set file_task.delimiter={others[0]!r}')
    return fields
