import gzip
import os

import pytest

from jax_prompt.data.tasks.rows import decode, parse_object, read_rows


def test_the_four_kinds_agree(write):
    files = [
        write('a.csv', 'text,label\na film,1\n"one, two",0\n'),
        write('a.tsv', 'text\tlabel\na film\t1\none, two\t0\n'),
        write('a.jsonl', '{"text": "a film", "label": "1"}\n\n'
                         '{"text": "one, two", "label": "0"}\n'),
        write('a.json', '\ufeff[{"text": "a film", "label": "1"},\n'
                        ' {"text": "one, two", "label": "0"}]\n'),
    ]
    for path in files:
        assert [dict(row.columns) for row in read_rows(path)] == [
            {'text': 'a film', 'label': '1'}, {'text': 'one, two', 'label': '0'}]


def test_lines_count_as_an_editor_counts_them(write):
    path = write('a.csv', 'text,label\n"two\nlines",1\n\nlast,0\n')
    rows = list(read_rows(path))
    assert [row.where for row in rows] == ['a.csv line 2', 'a.csv line 5']
    assert rows[0].columns['text'] == 'two\nlines'
    path = write('a.jsonl', '{"a": 1}\n\n{"a": 2}\n')
    assert [row.where for row in read_rows(path)] == ['a.jsonl line 1', 'a.jsonl line 3']
    path = write('a.json', '[{"a": 1},\n\n{"a": 2}]')
    assert [row.where for row in read_rows(path)] == ['a.json row 1', 'a.json row 2']


def test_a_quotation_mark_in_tsv_is_a_character(write):
    path = write('a.tsv', 'text\tlabel\n"open quote\t1\nnext\t0\n')
    assert [row.columns['text'] for row in read_rows(path)] == ['"open quote', 'next']


def test_byte_order_mark_is_no_part_of_a_column(write):
    path = write('a.csv', '\ufefftext,label\nx,1\n')
    assert list(next(read_rows(path)).columns) == ['text', 'label']


def test_gzip(tmp_path):
    with gzip.open(tmp_path / 'a.csv.gz', 'wt') as file:
        file.write('text,label\nx,1\n')
    assert next(read_rows(str(tmp_path / 'a.csv.gz'))).columns == {'text': 'x', 'label': '1'}


def test_a_very_long_field(write):
    path = write('a.csv', 'text,label\n' + 'x' * 200_000 + ',1\n')
    assert len(next(read_rows(path)).columns['text']) == 200_000


@pytest.mark.parametrize('name, text, message', [
    ('a.csv', 'text,label\nx,1\ny\n', 'a.csv line 3 cannot be parsed: it has 1 fields, but the '
                                      "first line names 2 columns: 'text', 'label'$"),
    ('a.csv', 'text,label\nx,1\n"y,1\n', 'a.csv line 3 cannot be parsed: unexpected end of data$'),
    ('a.csv', 'a,b\n"so \\"it\\" is",1\n',
     r"a.csv line 2 cannot be parsed: .*; where quotation marks in texts stand as .., set file_ta"),
    ('a.csv', 'text;label\nx, y;1\n', "a.csv names one column, 'text;label'; where ';' separates "
                                      "its columns, set file_task.delimiter=';'"),
    ('a.csv', 'text\tlabel\nx\t1\n', r"one column, 'text\\tlabel'; .*file_task.delimiter='\\t'"),
    ('a.csv', 'x' * 3000 + '\ny,1\n', r"names 1 columns: 'x{79}... \(3,002 characters\)$"),
    ('a.csv', ','.join(map(str, range(5000))) + '\ny\n', "00 columns: '0', .*'7' and 4,992 more$"),
    ('a.tsv', 'text\tlabel\nx\t1\t2\n', 'a.tsv line 2 cannot be parsed: it has 3 fields'),
    ('a.tsv', 'text,label\nx,1\n', "set file_task.delimiter=','"),
    ('a.json', '{}', 'a.json is a JSON dict; expected a list of objects with columns as keys, su'),
    ('a.json', '[{"a": 1},\n 2]', 'a.json row 2 is a JSON int; expected an object with columns'),
    ('a.json', '[{"a": 1},\n{"a": "x', r'a.json line 2 is not JSON \(Unterminated string .* '
                                       r'at character 7\); expected a list of objects$'),
    ('a.json', '{"a": 1}\n{"a": 2}\n', r'a.json line 2 is not JSON \(Extra data at character 1\); '
                                       'it seems to be JSON lines: name it .jsonl'),
    ('a.json', '', r'a.json line 1 is not JSON \(Expecting value at character 1\)'),
    ('a.json', '[' * 100_000, 'a.json cannot be used as JSON: .*recursion'),
    ('a.xlsx', '', 'a.xlsx is a .xlsx file; expected .csv, .tsv, .json or .jsonl, plain or .gz'),
    ('a.parquet.gz', '', 'a.parquet.gz is a .parquet file; expected .csv, .tsv, .json or .jsonl'),
    ('a.csv.zip', '', 'a.csv.zip is a .zip file; expected .csv, .tsv, .json or .jsonl, plain or'),
    ('a', '', 'a is a file whose name has no ending; expected .csv, .tsv, .json or .jsonl, plain'),
])
def test_what_cannot_be_parsed_names_its_line(write, name, text, message):
    with pytest.raises(ValueError, match=message):
        list(read_rows(write(name, text)))


def test_a_folder_is_no_file_of_rows(tmp_path):
    with pytest.raises(ValueError, match=f'{tmp_path} is a folder; expected .csv, .tsv, .json'):
        next(read_rows(tmp_path))


@pytest.mark.parametrize('line, message', [
    ('{"a":  ', r'a.jsonl line 2 is not JSON \(Expecting value at character \d\); expected an o'),
    ('[1]', 'a.jsonl line 2 is a JSON list; expected an object with columns as keys'),
    ('[' * 100_000, 'a.jsonl line 2 cannot be used as JSON: .*recursion'),
    ('{"a": ' + '1' * 5000 + '}', 'a.jsonl line 2 cannot be used as JSON: '),
])
def test_what_is_no_object_is_refused_with_its_place(write, line, message):
    with pytest.raises(ValueError, match=message):
        list(read_rows(write('a.jsonl', f'{{"a": 1}}\n{line}\n')))
    with pytest.raises(ValueError, match=message):
        parse_object(line, 'a.jsonl line 2', strict=True)


@pytest.mark.parametrize('line, message', [
    ('{"score": NaN}', 'here cannot be used as JSON: NaN is no number of JSON; write a finite one'),
    ('{"score": -Infinity}', 'here cannot be used as JSON: -Infinity is no number'),
    ('{"score": 1e999}', 'here cannot be used as JSON: 1e999 is no number of JSON'),
    ('{"text": "\\ud800"}', 'here cannot be used as JSON: .*surrog'),
])
def test_what_json_cannot_hold_is_refused_where_it_would_be_written_again(line, message):
    with pytest.raises(ValueError, match=message):
        parse_object(line, 'here', strict=True)
    assert set(parse_object(line, 'here')) < {'score', 'text'}


def test_an_object_is_taken_as_it_is():
    assert parse_object('{"text": "\\u00e9", "id": 7, "x": 5e-1}\n', 'here', strict=True) == {
        'text': 'é', 'id': 7, 'x': 0.5}


def test_columns_that_nobody_names_apart_do_no_harm(write):
    row, = read_rows(write('a.csv', 'v1,v2,,,\nham,hello,,x,\n'))
    assert row.columns == {'v1': 'ham', 'v2': 'hello', '': ('', 'x', '')}


@pytest.mark.parametrize('text, settings', [
    ('a;b\n"x; y";1,5\n', {'delimiter': ';'}),
    ('sep=;\na;b\n"x; y";1,5\n', {}),
    ('\ufeffsep=;\r\na;b\r\n"x; y";1,5\r\n', {}),
    ('sep=,\na|b\n"x; y"|1,5\n', {'delimiter': '|'}),
    ('a\tb\nx; y\t1,5\n', {'delimiter': '\\t'}),
])
def test_what_separates_columns_can_be_said(write, text, settings):
    row, = read_rows(write('a.csv', text), **settings)
    assert row.columns == {'a': 'x; y', 'b': '1,5'}
    assert row.where == f'a.csv line {2 + ("sep" in text)}'


def test_both_habits_of_quoting(write):
    doubled = write('a.csv', 'a,b\n"so ""it"" is, C:\\n",1\n')
    escaped = write('b.csv', 'a,b\n"so \\"it\\" is, C:\\\\n",1\n')
    assert [row.columns for row in read_rows(doubled)] == [
        row.columns for row in read_rows(escaped, escape='\\')] == [
        {'a': 'so "it" is, C:\\n', 'b': '1'}]


@pytest.mark.parametrize('settings, message', [
    ({'delimiter': ';;'}, "the delimiter of a.csv is ';;'; expected one character"),
    ({'delimiter': '"'}, "the delimiter of a.csv is '\"'"), ({'escape': ','}, 'of a.csv is'),
])
def test_what_cannot_separate_or_escape_is_refused(write, settings, message):
    with pytest.raises(ValueError, match=message):
        next(read_rows(write('a.csv', 'a,b\n1,2\n'), **settings))


def test_missing_file(tmp_path):
    os.mkfifo(tmp_path / 'pipe.csv')
    with pytest.raises(ValueError, match=r'pipe.csv is a pipe, a device or a socket; expected a'):
        list(read_rows(tmp_path / 'pipe.csv'))
    with pytest.raises(FileNotFoundError, match='data file none.csv does not exist'):
        list(read_rows('none.csv'))


def test_other_encodings(tmp_path):
    for content in ('text,b\r\n1,2\r\nqué,2\r\n', 'text,b\r1,2\rqué,2\r'):
        (tmp_path / 'a.csv').write_bytes(content.encode('latin-1'))
        with pytest.raises(ValueError, match='a.csv line 3 is not UTF-8 text .invalid continuation '
                                             'byte at byte 3 of the line.; save it as UTF-8'):
            list(read_rows(tmp_path / 'a.csv'))
    (tmp_path / 'a.jsonl').write_bytes('{"a": 1}\n{"a": "é"}\n'.encode('utf-16'))
    with pytest.raises(ValueError, match='a.jsonl line 1 is not UTF-8 .*at byte 1 of the line'):
        list(read_rows(tmp_path / 'a.jsonl'))
    (tmp_path / 'a.json').write_bytes(b'[{"a": "\xc3\xa9"},\n {"a": "\xe9"}]\n')
    with pytest.raises(ValueError, match='a.json line 2 is not UTF-8 .*at byte 9 of the line'):
        list(read_rows(tmp_path / 'a.json'))
    (tmp_path / 'a.csv.gz').write_bytes(b'text\n')
    with pytest.raises(ValueError, match='a.csv.gz is not a whole gzip file: '):
        list(read_rows(str(tmp_path / 'a.csv.gz')))


def test_damaged_gzip(tmp_path):
    path = tmp_path / 'a.csv.gz'
    with gzip.open(path, 'wt') as file:
        file.write('text\n' + ''.join(f'row {i * i}\n' for i in range(500)))
    content = bytearray(path.read_bytes())
    content[60:90] = b'\xff' * 30
    path.write_bytes(content)
    with pytest.raises(ValueError, match='a.csv.gz is not a whole gzip file: '):
        list(read_rows(str(path)))


def test_endings_in_capitals(tmp_path):
    (tmp_path / 'A.CSV').write_text('text\nx\n')
    with gzip.open(tmp_path / 'A.TSV.GZ', 'wt') as file:
        file.write('text\nx\n')
    for name in ('A.CSV', 'A.TSV.GZ'):
        assert [row.columns for row in read_rows(str(tmp_path / name))] == [{'text': 'x'}]


def test_a_lone_return_ends_no_json_line(write):
    rows = list(read_rows(write('a.jsonl', '{"a":\r1}\r\n{"a": 2}\n')))
    assert [row.where for row in rows] == ['a.jsonl line 1', 'a.jsonl line 2']


def test_a_byte_order_mark_is_no_text_where_the_input_begins():
    line = '\ufefftext'.encode()
    assert decode(line, 'here', is_first=True) == 'text' and decode(line, 'here') == '\ufefftext'


def test_bytes_that_are_no_text_are_told_with_their_line():
    with pytest.raises(ValueError, match='line 2 of in.txt is not UTF-8 text .* at byte 3 of the '
                                         'line.; save it as UTF-8'):
        decode(b'no\xff\n', 'line 2 of in.txt')
