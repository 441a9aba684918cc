import collections
import itertools

import numpy as np
import pytest

from jax_prompt.data import batches
from jax_prompt.data.batches import choose_buckets, covering, train_batches
from jax_prompt.data.examples import Examples
from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.ragged import Ragged
from jax_prompt.prompts.layout import Layout

P = 2
LENGTHS = np.random.default_rng(0).integers(1, 30, 101)


def make(lengths=LENGTHS):
    """Features whose first text token tells the example."""
    inputs = [[10 + row] * length for row, length in enumerate(lengths)]
    examples = Examples('toy train', Ragged.from_sequences(inputs),
                        Ragged.from_sequences([[5]] * len(inputs)))
    return FeatureConverter(layout=Layout(), num_rows=P, vocab_size=100_000).convert(examples)


def rows_of(batch):
    return (batch['encoder_input_tokens'][:, P] - 10).tolist()


def take(num, *args, **kwargs):
    return list(itertools.islice(train_batches(*args, **kwargs), num))


def brute_force(lengths, max_buckets, multiple, min_count):
    """The fewest positions over all choices of buckets."""
    sizes = sorted({-(-length // multiple) * multiple for length in lengths})
    costs = []
    for count in range(1, max_buckets + 1):
        for chosen in itertools.combinations(sizes[:-1], count - 1):
            buckets = [*chosen, sizes[-1]]
            held = collections.Counter(min(b for b in buckets if b >= n) for n in lengths)
            if all(held[b] >= min(min_count, len(lengths)) for b in buckets):
                costs.append(sum(size * number for size, number in held.items()))
    return min(costs)


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('max_buckets, multiple, min_count', [
    (1, 4, 1), (2, 1, 1), (3, 4, 1), (3, 4, 6), (4, 2, 3), (5, 1, 40)])
def test_buckets_are_the_best_there_are(seed, max_buckets, multiple, min_count):
    lengths = np.random.default_rng(seed).integers(1, 14, 20)
    buckets = choose_buckets(lengths, max_buckets, multiple, min_count)
    cost = np.array(buckets)[np.searchsorted(buckets, lengths)].sum()
    assert cost == brute_force(lengths, max_buckets, multiple, min_count)
    assert len(buckets) <= max_buckets and all(size % multiple == 0 for size in buckets)


def test_no_more_buckets_than_help():
    assert choose_buckets([5, 6, 7], max_buckets=4, multiple=8) == (8,)
    assert choose_buckets([4, 4, 8], max_buckets=9, multiple=4) == (4, 8)


@pytest.mark.parametrize('buckets', [None, (8, 16, 32)])
def test_batches_are_whole_and_hold_one_bucket(buckets):
    features = make()
    for batch in take(60, features, 8, 0, buckets):
        lengths = features.lengths[rows_of(batch)]
        size = batch['encoder_input_tokens'].shape[1]
        assert batch['encoder_input_tokens'].shape[0] == 8
        if buckets is None:
            assert size == features.lengths.max()
        else:
            assert all(buckets[np.searchsorted(buckets, n)] == size for n in lengths)
        assert ((batch['encoder_input_tokens'] != 0).sum(1) == lengths).all()


@pytest.mark.parametrize('batch_size', [1, 7, 32])
def test_every_example_comes_once_an_epoch(batch_size):
    """Of each bucket: its n-th round through the examples ends before its next one begins."""
    features, buckets = make(), (8, 16, 32)
    seen = collections.defaultdict(list)
    for batch in take(3 * 101 // batch_size + 12, features, batch_size, 3, buckets):
        seen[batch['encoder_input_tokens'].shape[1]] += rows_of(batch)
    members = {size: set() for size in buckets}
    for row, length in enumerate(features.lengths):
        members[buckets[np.searchsorted(buckets, length)]].add(row)
    for size, rows in seen.items():
        count = len(members[size])
        for start in range(0, len(rows) - count + 1, count):
            assert set(rows[start:start + count]) == members[size]
        assert len(rows) >= 2 * count


def test_buckets_come_mixed():
    sizes = [b['encoder_input_tokens'].shape[1] for b in take(12, make(), 8, 0, (8, 16, 32))]
    assert sizes != sorted(sizes) and sizes != sorted(sizes, reverse=True)
    assert len(set(sizes[:6])) > 1


def test_epochs_and_seeds_differ_and_runs_agree():
    features = make(np.full(64, 5))
    first, second = take(8, features, 8, 0), take(16, features, 8, 0)[8:]
    assert [rows_of(b) for b in first] != [rows_of(b) for b in second]
    assert [rows_of(b) for b in first] != [rows_of(b) for b in take(8, features, 8, 1)]
    for one, other in zip(first, take(8, features, 8, 0), strict=True):
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_order_of_a_seed_is_fixed_for_good():
    """A run must resume on another version of numpy: the order may never change."""
    batch = take(1, make(np.full(64, 5)), 8, 17)[0]
    assert rows_of(batch) == [60, 18, 9, 44, 56, 15, 58, 12]


@pytest.mark.parametrize('batch_size, buckets', [
    (8, None), (8, (8, 16, 32)), (7, (5, 8, 31)), (40, (4, 9, 32)), (1, (16, 32))])
@pytest.mark.parametrize('start', [0, 1, 5, 12, 13, 14, 37, 77])
def test_starting_late_continues_an_uninterrupted_run(batch_size, buckets, start):
    features = make()
    whole = take(start + 6, features, batch_size, 5, buckets)[start:]
    resumed = take(6, features, batch_size, 5, buckets, start_step=start)
    for one, other in zip(whole, resumed, strict=True):
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_a_bucket_smaller_than_a_batch_waits_through_epochs():
    features = make([3] * 40 + [20])
    whole = take(60, features, 8, 0, (8, 24))
    long = [i for i, b in enumerate(whole) if b['encoder_input_tokens'].shape[1] == 24]
    assert long and rows_of(whole[long[0]]) == [40] * 8
    start = long[0] - 1
    resumed = take(3, features, 8, 0, (8, 24), start_step=start)
    assert [rows_of(b) for b in resumed] == [rows_of(b) for b in whole[start:start + 3]]


def test_starting_at_a_late_step_touches_no_skipped_batch(monkeypatch):
    features = make()
    built = []
    monkeypatch.setattr(type(features), 'batch',
                        lambda self, rows, length, **_: built.append(length))
    counted = []
    steps_before = batches.BucketOrder._steps_before
    monkeypatch.setattr(batches.BucketOrder, '_steps_before',
                        lambda self, epoch: counted.append(epoch) or steps_before(self, epoch))
    next(train_batches(features, 8, 0, (8, 16, 32), start_step=1_000_000))
    assert len(built) == 1
    assert len(counted) < 10


def test_what_is_longer_than_the_buckets_gets_one_more():
    features = make([3, 40, 41, 3])
    assert {b['encoder_input_tokens'].shape[1] for b in take(9, features, 2, 0, (8,))} == {8, 48}
    assert covering((8,), features.lengths) == (8, 48)
    assert covering((48, 8), features.lengths) == (8, 48) and covering(None, np.array([3, 41])) == (
        41,)
