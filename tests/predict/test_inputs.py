"""Lines are read in windows that follow from them alone."""

import io
import sys

import pytest

from jax_prompt.predict.inputs import open_lines, windows


def test_a_file_is_lines_that_line_feeds_end(tmp_path):
    path = tmp_path / 'in.txt'
    path.write_bytes('é\rstill one\r\ntwo\u2028still\n'.encode())
    with open_lines(str(path)) as lines:
        assert [line.decode() for line in lines] == ['é\rstill one\r\n', 'two\u2028still\n']


def test_standard_input_is_utf_8_whatever_the_locale(monkeypatch):
    for stdin in (io.TextIOWrapper(io.BytesIO('é\n'.encode()), 'latin-1'), io.StringIO('é\n')):
        monkeypatch.setattr(sys, 'stdin', stdin)
        with open_lines('-') as lines:
            assert list(lines) == ['é\n'.encode()]


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
