"""Mixed batches: rows of every task, each as its own run would have them."""

import itertools

import numpy as np
import pytest

from jax_prompt.data.batches import train_batches
from jax_prompt.data.mixing import (
    Share,
    mixed_batches,
    packed_mixed_batches,
    rates,
    rows_of_each,
)
from jax_prompt.data.tasks.mixture import registered_mixture
from jax_prompt.data.tasks.text_task import TextTask
from tests.data.test_batches import P, make

V = 100_000


def first(count, batches):
    return list(itertools.islice(batches, count))


def own_rows(batch, task):
    """The rows of one task as its own run has them, without pads."""
    rows = batch['encoder_input_tokens'][batch['decoder_task_ids'][:, 0] == task]
    return [np.where(row >= V, row - task * P, row)[row > 0].tolist() for row in rows]


def test_rows_of_a_task_are_those_of_a_run_of_its_own_and_point_at_its_prompt():
    shares = [Share(make([3, 4, 5] * 7), 2, 0, (8,)), Share(make(range(1, 30)), 5, 3, (16, 40))]
    mixed = first(20, mixed_batches(shares, V, P))
    for task, share in enumerate(shares):
        alone = first(20, train_batches(share.features, share.rows, share.seed, share.buckets))
        for batch, own in zip(mixed, alone, strict=True):
            assert own_rows(batch, task) == [
                row[row > 0].tolist() for row in own['encoder_input_tokens']]
    ids = mixed[0]['encoder_input_tokens']
    assert (ids[:, :P] - V).tolist() == [[0, 1]] * 2 + [[2, 3]] * 5
    resumed = next(mixed_batches(shares, V, P, 7, np.array([0, 1, 6])))
    for name, array in resumed.items():
        np.testing.assert_array_equal(array, mixed[7][name][[0, 1, 6]])


def test_members_of_an_ensemble_never_pad_each_other():
    features = make(np.random.default_rng(0).integers(1, 30, 60))
    members = [Share(features, 4, seed, (8, 16, 32)) for seed in range(3)]
    buckets = {batch['encoder_input_tokens'].shape[1]: batch
               for batch in first(30, mixed_batches(members, V, P))}
    assert set(buckets) == {8, 16, 32}
    for length, batch in buckets.items():
        used = (batch['encoder_input_tokens'] > 0).sum(axis=1)
        assert (used <= length).all() and (used > length // 2 * (length > 8)).all()
    epoch = first(15, mixed_batches(members, V, P))
    for task in range(3):
        seen = sorted(row[P] for batch in epoch for row in own_rows(batch, task))
        assert len(seen) == 60 and len(set(seen)) > 50  # but for what a bucket carries over
    assert own_rows(epoch[0], 0) != own_rows(epoch[0], 1)


def test_packed_rows_hold_examples_of_all_tasks_each_token_with_its_task():
    shares = [Share(make([3, 4, 5] * 7), 2, 0), Share(make(range(1, 30)), 6, 3)]
    batches = first(6, packed_mixed_batches(shares, V, P, row_multiple=2))
    for batch in batches:
        tasks, targets = batch['decoder_task_ids'], batch['decoder_target_tokens'] > 0
        assert [(tasks[targets] == task).sum() for task in (0, 1)] == [2 * 2, 6 * 2]
        rows = batch['encoder_input_tokens'] - V
        assert [(rows == row).sum() for row in range(4)] == [2, 2, 6, 6]
    resumed = next(packed_mixed_batches(shares, V, P, 4, row_multiple=2,
                                        host_rows=lambda rows: np.arange(rows // 2)))
    half = len(batches[4]['encoder_input_tokens']) // 2
    for name, array in resumed.items():
        np.testing.assert_array_equal(array, batches[4][name][:half])


def test_rates_are_those_of_the_paper():
    counts = [100, 400, 10_000]
    assert rates(counts) == [1, 1, 1]
    assert rates(counts, 'proportional') == counts
    np.testing.assert_allclose(rates(counts, 'proportional', 2.0), [10, 20, 100])
    assert rates(counts, 'proportional', maximum=200) == [100, 200, 200]
    for wrong in ({'mixing': 'fair'}, {'temperature': 0.0}):
        with pytest.raises(ValueError, match='^mixing .*; expected '):
            rates(counts, **wrong)


@pytest.mark.parametrize('weights, batch_size, rows', [
    ([1, 1, 1], 8, [3, 3, 2]), ([1000, 1, 1], 4, [2, 1, 1]), ([1, 2], 3, [1, 2]),
    ([5, 3, 2], 10, [5, 3, 2]), ([1], 7, [7])])
def test_rows_are_shared_out_whole_and_nobody_has_none(weights, batch_size, rows):
    assert rows_of_each(weights, batch_size) == rows


@pytest.mark.slow
def test_a_mixture_of_seqio_is_read_with_its_rates(vocabulary):
    seqio = pytest.importorskip('seqio', reason='could not import seqio')
    splits = {split: lambda: [{'text': 'fun', 'label': 'good'}]
              for split in ('train', 'validation')}
    names = ('mixed_one', 'mixed_two')
    for name in names:
        seqio.TaskRegistry.add_provider(name, TextTask(name, splits).seqio_task(vocabulary))
    seqio.MixtureRegistry.add('mixed', [(names[0], 3.0), (names[1], 1.0)])
    try:
        mixture = registered_mixture('mixed', labels={names[1]: ['good', 'bad']})
        assert [task.name for task in mixture.tasks] == list(names)
        assert [task.labels for task in mixture.tasks] == [None, ('good', 'bad')]
        assert mixture.rates([7, 7]) == [3.0, 1.0]
        with pytest.raises(ValueError, match="given for 'other', which mixture mixed has not; it"):
            registered_mixture('mixed', labels={'other': ['good', 'bad']})
        with pytest.raises(ValueError, match="no mixture 'unmixed' is registered with seqio"):
            registered_mixture('unmixed')
    finally:
        seqio.MixtureRegistry.remove('mixed')
        for name in names:
            seqio.TaskRegistry.remove(name)
