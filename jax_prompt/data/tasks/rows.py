"""Rows of CSV, TSV and JSONL files, each with the place it came from."""

import csv
import dataclasses
import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

# csv's own limit of 128 KiB a field is below a long document.
_LONGEST_FIELD = 1 << 27

#: Endings of files, and how csv reads them.
_KINDS = {'.csv': {'strict': True}, '.tsv': {'delimiter': '\t', 'quoting': csv.QUOTE_NONE},
          '.jsonl': {}}


@dataclasses.dataclass(frozen=True)
class Row:
    """One example as its source tells it.

    Attributes:
        columns: column name -> value (text, number, true/false, or None where it is absent).
        where: file and line, for messages.
    """

    columns: Mapping[str, Any]
    where: str


def read_rows(path: str) -> Iterator[Row]:
    """Read a .csv, .tsv or .jsonl file, plain or .gz, row by row.

    The first line of a .csv or .tsv names the columns. Fields of a .csv may be quoted; a .tsv has
    no quoting, a quotation mark is a character like any other. Blank lines are skipped.

    Args:
        path: the file.

    Yields:
        `Row`s; `where` is 'reviews.csv line 12'.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, or a line that cannot be parsed.
    """
    path = str(path)
    kind = os.path.splitext(path.lower().removesuffix('.gz'))[1]
    if kind not in _KINDS:
        raise ValueError(
            f'{path} is a {kind or "nameless"} file; expected one of {", ".join(_KINDS)}, '
            'or one of them with .gz')
    if not os.path.isfile(path):
        raise FileNotFoundError(f'data file {path} does not exist')
    opener = gzip.open if path.lower().endswith('.gz') else open
    try:
        # utf-8-sig: spreadsheets write a byte order mark, which is no part of the first column.
        # Ends of lines: csv wants to see them itself; in JSON a lone return is a space.
        newline = '\n' if kind == '.jsonl' else ''
        with opener(path, 'rt', encoding='utf-8-sig', newline=newline) as file:
            read = _read_jsonl if kind == '.jsonl' else _read_table
            yield from read(file, os.path.basename(path), **_KINDS[kind])
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not UTF-8 text: {error}') from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f'{path} is not a whole gzip file: {error}') from None


def _read_table(file: TextIO, name: str, **dialect: Any) -> Iterator[Row]:
    """Read rows below a header."""
    reader = csv.reader(file, **dialect)
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    header = None
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise ValueError(f'{name} line {line} cannot be parsed: {error}') from None
        if fields is None:
            return
        if not fields:
            continue
        if header is None:
            header = _checked_header(fields, name)
        elif len(fields) != len(header):
            raise ValueError(
                f'{name} line {line} cannot be parsed: it has {len(fields)} fields, but the '
                f'first line names {len(header)} columns: {", ".join(header)}')
        else:
            yield Row(dict(zip(header, fields, strict=True)), f'{name} line {line}')


def _checked_header(fields: list[str], name: str) -> list[str]:
    """Refuse a header that names a column twice."""
    for column in fields:
        if fields.count(column) > 1:
            raise ValueError(f'{name} names the column {column!r} {fields.count(column)} times')
    return fields


def _read_jsonl(file: TextIO, name: str) -> Iterator[Row]:
    """Read one JSON object a line."""
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        where = f'{name} line {line}'
        try:
            columns = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{where} cannot be parsed as JSON: {error}') from None
        if not isinstance(columns, dict):
            raise ValueError(
                f'{where} cannot be parsed: it holds a JSON {type(columns).__name__}; expected '
                'an object such as {"text": "...", "label": "..."}')
        yield Row(columns, where)
