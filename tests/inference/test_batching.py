"""Shapes of batches: few, and large enough for whatever comes."""

import pytest

from jax_prompt.inference.batching import Shapes

SHAPES = Shapes(batch_sizes=(1, 4, 16), lengths=(8, 12, 16), labels=((2, 2), (4, 4)), targets=(8,))


def test_sizes_are_the_smallest_that_hold_what_is_needed():
    assert [SHAPES.batch_size(rows) for rows in (1, 2, 4, 5, 16)] == [1, 4, 4, 16, 16]
    assert [SHAPES.length(positions) for positions in (1, 8, 9, 16, 17, 100)] == [
        8, 8, 12, 16, 32, 128]
    assert [SHAPES.label_shape(SHAPES.label_rung(*need))
            for need in ((2, 2), (3, 2), (2, 3), (5, 2), (40, 9))] == [
        (2, 2), (4, 4), (4, 4), (8, 8), (64, 64)]
    assert SHAPES.lengths_up_to(9) == [8, 12]
    assert SHAPES.lengths_up_to(40) == [8, 12, 16, 32, 64]


def test_there_are_few_sizes_for_any_inputs():
    assert len({SHAPES.length(n) for n in range(1, 1000)}) == 9
    assert len({SHAPES.label_rung(labels, length) for labels in range(2, 200)
                for length in range(2, 20)}) == 8


def test_batch_sizes_below_the_largest_are_powers_of_four():
    assert Shapes.for_batches_of(32).batch_sizes == (1, 4, 16, 32)
    assert Shapes.for_batches_of(30).batch_sizes == (1, 4, 30)
    assert Shapes.for_batches_of(1).batch_sizes == (1,)
    with pytest.raises(ValueError, match='batch_size=0; expected at least 1'):
        Shapes.for_batches_of(0)


@pytest.mark.parametrize('wrong, message', [
    (dict(lengths=()), 'lengths of an engine are'),
    (dict(batch_sizes=(4, 2)), 'expected ascending'),
    (dict(targets=(0, 8)), 'of at least 1'), (dict(labels=()), 'labels of an engine are empty'),
    (dict(labels=((4, 4), (8, 2))), 'lengths of labels of an engine'),
])
def test_wrong_sizes_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Shapes(**wrong)
