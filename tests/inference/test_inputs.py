"""Lines and JSON lines become the texts that the task was trained on."""

import itertools

import pytest

from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.inference.inputs import read_texts

ONE = TextTask('reviews', {}, 'sst2 sentence: {text}')
TWO = TextTask('pairs', {}, 'premise: {premise} hypothesis: {hypothesis}')


def test_a_plain_line_fills_the_only_column():
    lines = ['a fine film\n', '\n', ' {braces} stay \r\n', 'no newline']
    assert list(read_texts(lines, ONE)) == [
        'sst2 sentence: a fine film', 'sst2 sentence: ', 'sst2 sentence:  {braces} stay ',
        'sst2 sentence: no newline']


def test_json_lines_fill_the_columns_by_name():
    lines = ['{"hypothesis": "b", "premise": "a", "id": 7}\n', '\n',
             '{"premise": 1, "hypothesis": "d"}']
    assert list(read_texts(lines, TWO, 'jsonl')) == ['premise: a hypothesis: b',
                                                     'premise: 1 hypothesis: d']


def test_lines_are_read_as_they_are_needed():
    endless = ('x\n' for _ in itertools.count())
    assert next(read_texts(endless, ONE)) == 'sst2 sentence: x'


@pytest.mark.parametrize(('lines', 'task', 'format', 'message'), [
    (['a'], ONE, 'csv', "input format 'csv' is unknown; choose one of lines, jsonl"),
    (['a'], TWO, 'lines', 'of task pairs has 2 columns but a plain line fills only one'),
    (['{"text": "a"}', 'oops'], ONE, 'jsonl', 'line 2 of in.jsonl is not JSON .* at character 1'),
    (['[1]'], ONE, 'jsonl', 'line 1 of in.jsonl is a JSON list; expected an object'),
    (['\n', '{"words": 1}'], ONE, 'jsonl', "'text' is not there at line 2 of in.jsonl"),
    (['{"text": null}'], ONE, 'jsonl', "'text' at line 1 of in.jsonl holds nothing"),
])
def test_bad_input_is_refused_with_its_place(lines, task, format, message):
    with pytest.raises(ValueError, match=message):
        list(read_texts(lines, task, format, source='in.jsonl'))
