"""Packed batches: whole examples, exactly so many a step, each once an epoch, by step alone."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_prompt.data import packing as packing_module
from jax_prompt.data.examples import Examples
from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.packing import (
    Packing,
    assign,
    choose_packing,
    pack,
    packed_train_batches,
)
from jax_prompt.data.ragged import Ragged
from jax_prompt.prompts.layout import Layout

P, V = 2, 100_000
ORDER_OF_SEED_17 = [[1, 12], [27, 30], [7, 22], [29, 0]]
REVIEWS = np.random.default_rng(0).normal(33, 14, 700).clip(3, 90).astype(int)

some_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=40)


def make(lengths, target_lengths=(1,)):
    """Features whose first text token tells the example."""
    inputs = [[10 + row] * length for row, length in enumerate(lengths)]
    targets = [[5 + i for i in range(target_lengths[row % len(target_lengths)])]
               for row in range(len(inputs))]
    examples = Examples('toy train', Ragged.from_sequences(inputs), Ragged.from_sequences(targets))
    return FeatureConverter(layout=Layout(), num_rows=P, vocab_size=V,
                            decoder_start_id=3).convert(examples)


def take(num, *args, **kwargs):
    return list(itertools.islice(packed_train_batches(*args, **kwargs), num))


def segments_of(batch, features):
    """Check that a batch is made of whole examples and pads; return which ones, row by row."""
    found = []
    for row in zip(*(batch[key] for key in sorted(batch)), strict=True):
        of = dict(zip(sorted(batch), row, strict=True))
        num = of['encoder_segment_ids'].max()
        assert of['decoder_segment_ids'].max() == num
        for kind in ('encoder', 'decoder'):
            ids = of[f'{kind}_segment_ids']
            used = ids[ids > 0]
            assert (np.diff(used) >= 0).all() and not ids[len(used):].any()
            assert set(used) == set(range(1, num + 1))
        members = []
        for segment in range(1, num + 1):
            ids = of['encoder_input_tokens'][of['encoder_segment_ids'] == segment]
            here = of['decoder_segment_ids'] == segment
            members.append(int(ids[P]) - 10)
            target = features.targets[members[-1]]
            assert ids.tolist() == features.encoder[members[-1]].tolist()
            assert of['decoder_target_tokens'][here].tolist() == target.tolist()
            assert of['decoder_input_tokens'][here].tolist() == [3, *target[:-1]]
        np.testing.assert_array_equal(of['decoder_loss_weights'], of['decoder_segment_ids'] > 0)
        for kind, keys in (('encoder', ['encoder_input_tokens']),
                           ('decoder', ['decoder_target_tokens', 'decoder_input_tokens'])):
            for key in keys:
                assert not of[key][of[f'{kind}_segment_ids'] == 0].any()
        found.append(members)
    return found


def members_of(batch, features):
    return list(itertools.chain(*segments_of(batch, features)))


@settings(max_examples=40, deadline=None)
@given(some_lengths, st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 12),
       st.integers(1, 4), st.integers(0, 3))
def test_every_step_has_its_examples_and_every_epoch_has_all(lengths, target_lengths, batch_size,
                                                             row_multiple, seed):
    features = make(lengths, target_lengths)
    batch_size *= row_multiple
    packing = choose_packing(features, batch_size, row_multiple)
    assert packing.rows % row_multiple == 0
    seen = np.zeros(len(features), int)
    for step, batch in enumerate(take(2 * len(features) // batch_size + 4, features, batch_size,
                                      seed, packing), start=1):
        rows = segments_of(batch, features)
        assert sum(map(len, rows)) == batch_size
        assert len(rows) == packing.rows and max(map(len, rows)) <= packing.segments
        assert {array.shape[0] for array in batch.values()} == {packing.rows}
        assert batch['encoder_input_tokens'].shape[1] >= packing.length
        seen += np.bincount(list(itertools.chain(*rows)), minlength=len(features))
        # The examples of an epoch come before those of the next one.
        assert set(seen) <= {step * batch_size // len(features),
                             -(-step * batch_size // len(features))}


@pytest.mark.parametrize('batch_size', [1, 7, 32, 900])
@pytest.mark.parametrize('start', [0, 1, 21, 22, 101])
def test_starting_late_continues_an_uninterrupted_run(batch_size, start):
    features = make(REVIEWS)
    packing = choose_packing(features, batch_size)
    whole = take(start + 3, features, batch_size, 5, packing)[start:]
    resumed = take(3, features, batch_size, 5, packing, start_step=start)
    for one, other in zip(whole, resumed, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_starting_at_a_late_step_makes_no_order_but_its_own(monkeypatch):
    features = make(REVIEWS)
    packing, made = choose_packing(features, 8), []
    epoch = packing_module.PackedOrder.epoch
    monkeypatch.setattr(packing_module.PackedOrder, 'epoch',
                        lambda self, number: made.append(number) or epoch(self, number))
    batches = packed_train_batches(features, 8, 0, packing, start_step=1_000_000)
    for _ in range(5):
        next(batches)
    assert made == [8_000_000 // 700]


def test_epochs_and_seeds_differ_and_runs_agree():
    features = make([5] * 64)
    packing = choose_packing(features, 8)

    def run(seed, num=8):
        return [members_of(b, features) for b in take(num, features, 8, seed, packing)]

    assert run(0) == run(0) and run(0, 16)[8:] != run(0) != run(1)


def test_order_of_a_seed_is_fixed_for_good():
    """A run must resume on another version of numpy: the order may never change."""
    features = make([5, 6] * 16)
    batch = take(1, features, 8, 17, Packing(4, 16, 4, 2))[0]
    assert segments_of(batch, features) == ORDER_OF_SEED_17


def test_who_is_trained_together_differs_from_epoch_to_epoch():
    features = make(REVIEWS)
    packing = choose_packing(features, 32)
    together = collections.Counter()
    for batch in take(10 * len(features) // 32, features, 32, 0, packing):
        together.update(itertools.combinations(sorted(members_of(batch, features)), 2))
    assert max(together.values()) < 10


def test_batches_are_alike_in_length_and_fill_one_shape():
    features = make(REVIEWS)
    packing = choose_packing(features, 32)
    batches = take(100, features, 32, 1, packing)
    used = [int((b['encoder_segment_ids'] > 0).sum()) for b in batches]
    assert max(used) < 1.04 * min(used)
    shapes = {b['encoder_input_tokens'].shape for b in batches}
    assert shapes == {(packing.rows, packing.length)} and 2 < packing.segments < 8
    assert np.mean(used) > 0.9 * packing.rows * packing.length
    alone = features.lengths.mean() / features.lengths.max()
    assert alone < 0.6


def test_the_shape_chosen_costs_least():
    features = make(REVIEWS)
    chosen = choose_packing(features, 32)
    assert chosen.cost < Packing(32, int(features.lengths.max()), 2, 1).cost
    assert chosen.cost < Packing(1, 32 * 33, 64, 32).cost


def test_long_inputs_of_one_length_are_not_packed():
    assert choose_packing(make([1000] * 9), 4).segments == 1


def test_short_rows_take_more_examples_than_others():
    """The longest example's row is no longer than the rows of short ones."""
    features = make([28, 8, 8, 8, 8, 8])
    rows = assign(features, range(6), Packing(2, 0, 0, 5))
    assert sorted(features.lengths[row].tolist() for row in rows) == [[11] * 4, [31, 11]]
    capped = assign(features, range(6), Packing(2, 0, 0, 3))
    assert sorted(features.lengths[row].tolist() for row in capped) == [[11] * 3, [31, 11, 11]]


def test_a_batch_that_does_not_fit_gets_longer_rows():
    features = make([30] * 8, [4])
    batch = take(1, features, 8, 0, Packing(2, 70, 12, 4))[0]
    assert sorted(members_of(batch, features)) == list(range(8))
    assert batch['encoder_input_tokens'].shape == (2, 70 + 64)  # needs 128, by 16 longer each time
    assert batch['decoder_target_tokens'].shape == (2, 12 + 16)


def test_each_host_gets_its_rows_in_the_shape_of_all():
    features = make(REVIEWS, [1, 7])
    packing = choose_packing(features, 32, row_multiple=4)
    parts = [np.arange(packing.rows).reshape(2, -1)[host] for host in range(2)]
    whole = take(3, features, 32, 0, packing)
    hosts = [take(3, features, 32, 0, packing, host_rows=rows) for rows in parts]
    for step, batch in enumerate(whole):
        for key, array in batch.items():
            joined = np.concatenate([host[step][key] for host in hosts])
            np.testing.assert_array_equal(joined, array)
    # A row too long for the plan lies with one host, and both make room for it.
    tight = Packing(packing.rows, packing.length - 24, packing.targets_length, packing.segments)
    shapes = {host[0]['encoder_input_tokens'].shape for host in
              (take(1, features, 32, 0, tight, host_rows=rows) for rows in parts)}
    assert len(shapes) == 1 and shapes.pop()[1] > tight.length


def test_rows_without_examples_are_pads():
    batch = pack(make([3, 4]), [[0], [], [1]], Packing(3, 8, 2, 1))
    assert not any(batch[key][1].any() for key in batch)


def test_fewer_examples_than_devices_are_refused():
    with pytest.raises(ValueError, match='batch_size is 3 but packed rows are shared by 4 dev'):
        choose_packing(make([3, 4, 5]), 3, 4)
