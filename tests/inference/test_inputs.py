"""Lines and JSON lines become the texts that the task was trained on."""

import io
import itertools
import sys

import pytest

from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.inference.inputs import open_lines, read_inputs

ONE = TextTask('reviews', {}, 'sst2 sentence: {text}')
TWO = TextTask('pairs', {}, 'premise: {premise} hypothesis: {hypothesis}')


def test_a_plain_line_fills_the_only_column():
    lines = ['a fine film\n', '\n', ' {braces} stay \r\n', 'no newline']
    assert [text for text, _ in read_inputs(lines, ONE)] == [
        'sst2 sentence: a fine film', 'sst2 sentence: ', 'sst2 sentence:  {braces} stay ',
        'sst2 sentence: no newline']


def test_json_lines_fill_the_columns_by_name():
    lines = ['{"hypothesis": "b", "premise": "a", "id": 7}\n',
             '{"premise": 1, "hypothesis": "d"}']
    assert list(read_inputs(lines, TWO, 'jsonl')) == [
        ('premise: a hypothesis: b', {'hypothesis': 'b', 'premise': 'a', 'id': 7}),
        ('premise: 1 hypothesis: d', {'premise': 1, 'hypothesis': 'd'})]


def test_lines_are_read_as_they_are_needed():
    endless = ('x\n' for _ in itertools.count())
    assert next(read_inputs(endless, ONE)).text == 'sst2 sentence: x'


@pytest.mark.parametrize(('lines', 'task', 'format', 'message'), [
    (['a'], ONE, 'csv', "input format 'csv' is unknown; choose one of lines, jsonl"),
    (['a'], TWO, 'lines', 'of task pairs has 2 columns but a plain line fills only one'),
    (['{"text": "a"}', 'oops'], ONE, 'jsonl', 'line 2 of in.jsonl is not JSON .* at character 1'),
    (['[1]'], ONE, 'jsonl', 'line 1 of in.jsonl is a JSON list; expected an object'),
    (['{"text": 1}', '{"words": 1}'], ONE, 'jsonl', "'text' is not there at line 2 of in.jsonl"),
    (['{"text": 1}', ' \n'], ONE, 'jsonl', 'line 2 of in.jsonl is blank'),
    (['[' * 100_000], ONE, 'jsonl', 'line 1 of in.jsonl cannot be used as JSON: .*recursion'),
    (['{"text": ' + '1' * 5000 + '}'], ONE, 'jsonl', 'line 1 of in.jsonl cannot be used'),
    (['{"text": "\\ud800"}'], ONE, 'jsonl', 'line 1 of in.jsonl cannot be used as JSON: .*surrog'),
    (['{"text": null}'], ONE, 'jsonl', "'text' at line 1 of in.jsonl holds nothing"),
])
def test_bad_input_is_refused_with_its_place(lines, task, format, message):
    with pytest.raises(ValueError, match=message):
        list(read_inputs(lines, task, format, source='in.jsonl'))


def test_a_file_is_utf_8_lines_that_line_feeds_end(tmp_path):
    path = tmp_path / 'in.txt'
    path.write_bytes('\ufeffé\rstill one\r\ntwo\u2028still\n'.encode())
    with open_lines(str(path)) as lines:
        assert list(lines) == ['é\rstill one\r\n', 'two\u2028still\n']


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
