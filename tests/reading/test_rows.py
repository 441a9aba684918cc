"""Rows among words: each number by its definition, over the whole vocabulary."""

import sys

import numpy as np
import pytest

from jax_prompt.prompts.nearest import nearest_words
from jax_prompt.reading import maps
from jax_prompt.reading.comparison import compare
from jax_prompt.reading.rows import READINGS, Words, duplicates, labels_kept, movement, norms

DRAWN = np.random.default_rng(0)
TABLE = DRAWN.normal(size=(40, 6)).astype(np.float32)
ROWS = (30 * DRAWN.normal(size=(5, 6))).astype(np.float32)
WORDS = Words(TABLE, 'w{}'.format, lambda text: [int(one) for one in text.split()], 38)


def length(vector):
    return np.sqrt(sum(float(one)**2 for one in vector))


def value(row, word, by):
    """Return how near a row is to a word, and whether more is nearer."""
    if by.endswith('_without_norm'):
        mean = np.mean([length(one) for one in TABLE[3:38]])
        row, by = row / length(row) * mean, by.removesuffix('_without_norm')
    if by == 'distance':
        return length(row - word), False
    product = sum(float(a) * float(b) for a, b in zip(row, word, strict=True))
    return (product / length(row) / length(word) if by == 'cosine' else product), True


@pytest.mark.parametrize('by', READINGS)
def test_the_nearest_words_are_those_of_brute_force(by):
    ids, values = WORDS.nearest(ROWS, 4, by)
    for row, found, told in zip(ROWS, ids, values, strict=True):
        every = {number: value(row, TABLE[number], by) for number in range(3, 38)}
        order = sorted(every, key=lambda number: -every[number][0] if every[number][1]
                       else every[number][0])
        assert found.tolist() == order[:4]
        np.testing.assert_allclose(told, [every[number][0] for number in order[:4]], rtol=1e-5)


def test_a_whole_readings_words_are_those_of_brute_force(reading, file, words):
    for row, near in zip(file.prompt.rows, reading.told['nearest'], strict=True):
        distances = np.linalg.norm(row - words.table_VD[3:words.num_words], axis=1)
        assert [one['id'] for one in near['distance']] == (3 + np.argsort(distances)[:3]).tolist()
        assert [one['word'] for one in near['distance']] == [
            words.word(one['id']) for one in near['distance']]


def test_distances_are_told_apart_where_rows_are_very_long():
    far = np.array([[3e4, 0]], np.float32)
    table = np.array([[0, 0], [1, 0], [1, 1e-2], [0.999, 0]], np.float32)
    assert nearest_words(far, table, 4, num_special_ids=0, by='distance')[0].tolist() == [
        [1, 2, 3, 0]]
    assert nearest_words(far[:0], table, 2, by='distance')[1].shape == (0, 1)
    with pytest.raises(ValueError, match="near by 'size'; expected cosine, distance, inner_prod"):
        nearest_words(far, table, by='size')


def test_lengths_are_told_with_those_of_the_words():
    told = norms(np.stack([0 * ROWS[0], ROWS[1], TABLE[5]]), WORDS)
    lengths = sorted(map(length, TABLE[3:38]))
    np.testing.assert_allclose(told['rows'], [0, length(ROWS[1]), length(TABLE[5])], rtol=1e-5)
    assert told['words']['mean'] == pytest.approx(np.mean(lengths), rel=1e-5)
    assert told['words']['percentiles']['50'] == pytest.approx(np.median(lengths), rel=1e-5)
    assert told['above'][:2] == [0, 1]
    assert told['above'][2] == pytest.approx(lengths.index(length(TABLE[5])) / 35, rel=1e-5)
    assert set(norms(ROWS, None)) == {'rows'}


def test_duplicates_are_pairs_of_one_direction_the_likest_first():
    rows = np.stack([ROWS[0], ROWS[1], 2 * ROWS[0], ROWS[1] + 3, -ROWS[0]])
    cosine = ROWS[1] @ rows[3] / length(ROWS[1]) / length(rows[3])
    told = duplicates(rows, 0.9)
    assert [one['rows'] for one in told] == [[0, 2], [1, 3]]
    assert [one['cosine'] for one in told] == pytest.approx([1, cosine], rel=1e-5)
    assert duplicates(rows, 1.0001) == []


def test_a_label_is_kept_where_it_is_among_the_nearest():
    mean = TABLE[[10, 11]].mean(0)
    start = np.stack([mean, TABLE[20], ROWS[0]])
    rows = np.stack([5 * mean, -TABLE[20], ROWS[0]])
    first, second = labels_kept(rows, WORDS, ['10 11', '20'], 3, start)
    assert (first['row'], first['rank'], first['kept']) == (0, 1, True)
    assert first['started_in'] == 0 and first['cosine'] == pytest.approx(1, abs=1e-5)
    assert second['started_in'] == 1 and second['rank_there'] == 35
    assert second['cosine_there'] == pytest.approx(-1, abs=1e-5)
    row = rows[second['row']]
    here = value(row, TABLE[20], 'cosine')[0]
    assert here == max(value(one, TABLE[20], 'cosine')[0] for one in rows)
    rank = 1 + sum(value(row, TABLE[n], 'cosine')[0] > here for n in range(3, 38) if n != 20)
    assert (second['rank'], second['kept']) == (rank, rank <= 3)
    assert 'started_in' not in labels_kept(rows, WORDS, ['20'], 3)[0]


def test_each_row_is_compared_with_its_start():
    start = np.stack([TABLE[7], TABLE[8], 0 * TABLE[8]])
    rows = np.stack([4 * TABLE[7], TABLE[9], TABLE[9]])
    told = movement(rows, start, WORDS)
    assert told[0]['cosine'] == pytest.approx(1) and told[0]['norm_ratio'] == pytest.approx(4)
    assert told[0]['distance'] == pytest.approx(3 * length(TABLE[7]), rel=1e-5)
    assert told[1]['cosine'] == pytest.approx(value(TABLE[9], TABLE[8], 'cosine')[0], rel=1e-5)
    assert [one['started_at'] for one in told[:2]] == ['w7', 'w8'] and told[2]['cosine'] == 0


def test_prompts_are_compared_row_by_row():
    told, = compare(ROWS, {'turned': 2 * ROWS[::-1]}, WORDS, 3)
    assert [one['row'] for one in told['best']] == [4, 3, 2, 1, 0]
    assert [one['cosine'] for one in told['best']] == pytest.approx([1] * 5, abs=1e-4)
    assert told['shared_words'] == 1 and told['means'] == pytest.approx(1)
    cosine = [value(one, other, 'cosine')[0] for one, other in zip(ROWS, ROWS[::-1], strict=True)]
    assert told['in_place'] == pytest.approx(np.mean(cosine), abs=1e-6)
    shorter, = compare(ROWS, {'shorter': ROWS[:2]}, None, 3)
    assert 'in_place' not in shorter and 'shared_words' not in shorter
    assert np.shape(shorter['cosines']) == (5, 2)


def test_principal_components_are_those_of_directions_by_groups_of_like_weight():
    (words, rows), share = maps.pca([TABLE, ROWS])
    units = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (TABLE, ROWS)]
    every = np.concatenate(units).astype(float)
    weights = np.concatenate([np.full(40, 1 / 80), np.full(5, 1 / 10)])
    centred = every - weights @ every
    values, vectors = np.linalg.eigh(np.einsum('r,rd,re->de', weights, centred, centred))
    expected = centred @ vectors[:, ::-1][:, :2]
    found = np.concatenate([words, rows])
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)
    assert share == pytest.approx(values[-2:].sum() / values.sum())
    again = maps.pca([TABLE, 7 * ROWS])[0][1]
    np.testing.assert_allclose(again, rows, atol=1e-6)


@pytest.mark.slow
def test_umap_keeps_neighbours_together_and_the_same_seed_gives_the_same_map(monkeypatch):
    if 'tensorflow' not in sys.modules:  # which umap would import for a kind that is not used here
        monkeypatch.setitem(sys.modules, 'tensorflow', None)
    pytest.importorskip('umap', reason='could not import umap: pip install jax-prompt[reading]')
    apart = np.concatenate([TABLE[:20] * 0.1 + 5, TABLE[20:] * 0.1 - 5])
    (first, second), (again, _) = (maps.umap([apart[:20], apart[20:]], 4) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    between = np.linalg.norm(first.mean(0) - second.mean(0))
    assert between > 2 * np.linalg.norm(first - first.mean(0), axis=1).mean()
