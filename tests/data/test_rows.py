import gzip

import pytest

from jax_prompt.data.tasks.rows import read_rows


def test_the_three_kinds_agree(write):
    files = [
        write('a.csv', 'text,label\na film,1\n"one, two",0\n'),
        write('a.tsv', 'text\tlabel\na film\t1\none, two\t0\n'),
        write('a.jsonl', '{"text": "a film", "label": "1"}\n\n'
                         '{"text": "one, two", "label": "0"}\n'),
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
                                      'first line names 2 columns: text, label'),
    ('a.csv', 'text,label\nx,1\n"y,1\n', 'a.csv line 3 cannot be parsed: unexpected end of data'),
    ('a.csv', 'text,text\nx,1\n', "a.csv names the column 'text' 2 times"),
    ('a.tsv', 'text\tlabel\nx\t1\t2\n', 'a.tsv line 2 cannot be parsed: it has 3 fields'),
    ('a.jsonl', '{"a": 1}\n{"a": \n', 'a.jsonl line 2 cannot be parsed as JSON: '),
    ('a.jsonl', '{"a": 1}\n[1]\n', 'a.jsonl line 2 cannot be parsed: it holds a JSON list; '),
    ('a.jsonl', '[' * 100_000, 'a.jsonl line 1 cannot be parsed as JSON: .*recursion'),
    ('a.parquet', '', 'is a .parquet file; expected one of .csv, .tsv, .jsonl, or one of them'),
])
def test_what_cannot_be_parsed_names_its_line(write, name, text, message):
    with pytest.raises(ValueError, match=message):
        list(read_rows(write(name, text)))


def test_missing_file():
    with pytest.raises(FileNotFoundError, match='data file none.csv does not exist'):
        list(read_rows('none.csv'))


def test_other_encodings(tmp_path):
    (tmp_path / 'a.csv').write_bytes('text\nqué\n'.encode('latin-1'))
    with pytest.raises(ValueError, match='a.csv is not UTF-8 text: '):
        list(read_rows(str(tmp_path / 'a.csv')))
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
