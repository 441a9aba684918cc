"""Lines are UTF-8, and JSON lines are objects; what is not is told with its place."""

import io
import sys

import pytest

from jax_prompt.predict.inputs import decode, open_lines, parse_object, windows


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


def test_a_file_is_lines_that_line_feeds_end(tmp_path):
    path = tmp_path / 'in.txt'
    path.write_bytes('é\rstill one\r\ntwo\u2028still\n'.encode())
    with open_lines(str(path)) as lines:
        assert [decode(line, 'here') for line in lines] == ['é\rstill one\r\n',
                                                            'two\u2028still\n']


def test_standard_input_is_utf_8_whatever_the_locale(monkeypatch):
    for stdin in (io.TextIOWrapper(io.BytesIO('é\n'.encode()), 'latin-1'), io.StringIO('é\n')):
        monkeypatch.setattr(sys, 'stdin', stdin)
        with open_lines('-') as lines:
            assert list(lines) == ['é\n'.encode()]


def test_a_byte_order_mark_is_no_text_where_the_input_begins():
    line = '\ufefftext'.encode()
    assert decode(line, 'here', is_first=True) == 'text' and decode(line, 'here') == '\ufefftext'


def test_bytes_that_are_no_text_are_told_with_their_line():
    with pytest.raises(ValueError, match='line 2 of in.txt is not UTF-8 text .* at byte 3 of the '
                                         'line.; save it as UTF-8'):
        decode(b'no\xff\n', 'line 2 of in.txt')


@pytest.mark.parametrize('text', ['', 'a', 'a\n', 'a\nb', '\n\n\n', 'abc\n\ndefghij\nk\n' * 5])
@pytest.mark.parametrize('size', [1, 2, 7, 50])
def test_every_line_is_in_one_window_which_says_where_it_stands(text, size):
    content = text.encode()
    found = list(windows(io.BytesIO(content), size, 'in'))
    assert b''.join(line for window in found for line in window.lines) == content
    numbers = iter(range(1, 99))
    for window in found:
        assert len(window.lines) == size or window is found[-1]
        for line, place, start in zip(window.lines, window.places, window.starts, strict=False):
            assert place == f'line {next(numbers)} of in'
            assert content[start:].startswith(line) and line.count(b'\n') <= 1
    assert [window.number for window in found] == list(range(len(found)))
    assert not found or found[-1].starts[-1] == len(content)


def test_no_line_is_read_ahead():
    taken = []
    endless = (taken.append(1) or b'film\n' for _ in iter(int, 1))
    found = windows(endless, 7, 'in')
    assert not taken
    assert len(next(found).lines) == 7 and len(taken) == 7
