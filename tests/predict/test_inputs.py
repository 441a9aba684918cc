"""Lines are UTF-8, and JSON lines are objects; what is not is told with its place."""

import io
import sys

import pytest

from jax_prompt.predict.inputs import open_lines, parse_object


@pytest.mark.parametrize(('line', 'message'), [
    ('oops', 'line 2 of in.jsonl is not JSON .* at character 1'),
    ('[1]', 'line 2 of in.jsonl is a JSON list; expected an object'),
    (' \n', 'line 2 of in.jsonl is blank'),
    ('[' * 100_000, 'line 2 of in.jsonl cannot be used as JSON: .*recursion'),
    ('{"text": ' + '1' * 5000 + '}', 'line 2 of in.jsonl cannot be used'),
    ('{"score": NaN}', 'line 2 of in.jsonl cannot be used as JSON: NaN is no number of JSON'),
    ('{"score": -Infinity}', 'line 2 of in.jsonl cannot be used as JSON: -Infinity is no number'),
    ('{"score": 1e999}', 'line 2 of in.jsonl cannot be used as JSON: 1e999 is no number of JSON'),
    ('{"text": "\\ud800"}', 'line 2 of in.jsonl cannot be used as JSON: .*surrog'),
])
def test_what_is_no_object_is_refused_with_its_place(line, message):
    with pytest.raises(ValueError, match=message):
        parse_object(line, 'line 2 of in.jsonl')


def test_an_object_is_taken_as_it_is():
    assert parse_object('{"text": "\\u00e9", "id": 7, "x": 5e-1}\n', 'here') == {
        'text': 'é', 'id': 7, 'x': 0.5}


def test_a_file_is_utf_8_lines_that_line_feeds_end(tmp_path):
    path = tmp_path / 'in.txt'
    path.write_bytes('\ufeffé\rstill one\r\ntwo\u2028still\n'.encode())
    with open_lines(str(path)) as lines:
        assert list(lines) == ['\ufeffé\rstill one\r\n', 'two\u2028still\n']


def test_standard_input_is_utf_8_whatever_the_locale(monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO('é\n'.encode()), encoding='latin-1')
    monkeypatch.setattr(sys, 'stdin', stdin)
    with open_lines('-') as lines:
        assert list(lines) == ['é\n']


def test_bytes_that_are_no_text_are_told_with_their_line(tmp_path):
    path = tmp_path / 'in.txt'
    path.write_bytes(b'fine\nno\xff\n')
    with open_lines(str(path)) as lines, pytest.raises(
            ValueError, match='line 2 of .*in.txt is not UTF-8 text .* at byte 3 of the line'):
        list(lines)
