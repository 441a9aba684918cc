"""Plain text as a task: every word is read or written once, in order."""

import gzip

import numpy as np
import pytest

from jax_prompt.data.tasks.prefix_lm import prefix_lm

WORDS = [f'w{number}' for number in range(4003)]
TEXT = '\n'.join(' '.join(WORDS[start:start + 7]) for start in range(0, len(WORDS), 7)) + '\n'


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp('text') / 'corpus.txt'
    path.write_text(TEXT)
    return str(path)


def words_of(rows):
    return [f'{row.columns["prefix"]} {row.columns["continuation"]}'.split() for row in rows]


def test_every_word_is_in_one_piece_and_a_tenth_of_them_is_held_out(corpus):
    task = prefix_lm(corpus, words=10)
    train, validation = task.rows('train'), task.rows('validation')
    pieces = words_of(train) + words_of(validation)
    assert sorted(word for piece in pieces for word in piece) == sorted(WORDS)
    assert sorted({len(piece) for piece in pieces}) == [3, 10]
    assert 0.05 < len(validation) / 401 < 0.15
    assert task.labels is None and train[0].where.startswith('corpus.txt line ')
    again = prefix_lm(corpus, words=10).rows('train')
    assert [row.columns for row in again] == [row.columns for row in train]


def test_places_are_drawn_evenly_and_leave_something_to_read_and_to_write(corpus):
    rows = prefix_lm(corpus, words=5).rows('train')
    lengths = np.array([len(row.columns['prefix'].split()) for row in rows[:-1]])
    assert set(lengths) == {1, 2, 3, 4}
    assert np.bincount(lengths)[1:].min() > 0.8 * len(lengths) / 4
    assert prefix_lm(corpus).render(rows[0]) == rows[0].columns['prefix']


def test_other_files_are_validated_on_and_may_be_compressed(corpus, tmp_path):
    other = tmp_path / 'other.txt.gz'
    other.write_bytes(gzip.compress(b'\xef\xbb\xbfa b\nc'))
    task = prefix_lm([corpus], str(other), words=10)
    assert len(task.rows('train')) == 401
    assert words_of(task.rows('validation')) == [['a', 'b', 'c']]


@pytest.mark.parametrize('make, kind, message', [
    (lambda path: prefix_lm([]), ValueError, 'prefix_lm has no files; name text files'),
    (lambda path: prefix_lm(path, words=1), ValueError, 'words=1; expected at least 2 a piece'),
    (lambda path: prefix_lm('nothing.txt'), FileNotFoundError, 'nothing.txt does not exist')])
def test_what_is_no_text_is_refused(corpus, make, kind, message):
    with pytest.raises(kind, match=message):
        make(corpus)


def test_bytes_that_are_no_text_are_told_with_their_line(tmp_path):
    path = tmp_path / 'bad.txt'
    path.write_bytes(b'fine\n\xff\xfe\n')
    with pytest.raises(ValueError, match='bad.txt line 2 is not UTF-8 text'):
        prefix_lm(str(path)).rows('train')
    path = tmp_path / 'cut.txt.gz'
    path.write_bytes(gzip.compress(TEXT.encode())[:50])
    with pytest.raises(ValueError, match='is not a whole gzip file'):
        prefix_lm(str(path)).rows('train')
