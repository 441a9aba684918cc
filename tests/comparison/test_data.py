"""What contenders may see: samples of the sizes that are asked for, and never the test."""

import collections
import types

import pytest

from jax_prompt.comparison.data import check_sizes, drawn, figure_of, for_contenders


def test_samples_are_balanced_nested_and_of_the_seed(toy):
    rows = toy.rows('train')
    small, large = drawn(toy, rows, 7, 1), drawn(toy, rows, 12, 1)
    assert large[:7] == small
    counts = collections.Counter(map(toy.target_text, large))
    assert set(counts.values()) == {4}
    assert drawn(toy, rows, 7, 2) != small
    assert sorted(map(toy.render, drawn(toy, rows, 30, 3))) == sorted(map(toy.render, rows))


def test_contenders_see_no_test_and_no_more_validation_than_training(toy):
    cut = for_contenders(toy, 6, 0, 500)
    assert set(cut.splits) == {'train', 'validation'}
    assert [len(cut.rows(split)) for split in cut.splits] == [6, 6]
    whole = for_contenders(toy, None, 0, None)
    assert [len(whole.rows(split)) for split in whole.splits] == [30, 20]
    limited = [for_contenders(toy, None, seed, 5).rows('validation') for seed in (0, 1)]
    assert limited[0] == limited[1] and len(limited[0]) == 5


def test_the_figure_is_the_first_or_the_one_that_is_asked_for(toy):
    assert figure_of(toy, None)[0] == 'accuracy'
    with pytest.raises(ValueError, match="comparison.metric is 'f1', which task toy does not give "
                                         "of the texts of answers; expected one of 'accuracy'"):
        figure_of(toy, 'f1')


def test_tasks_that_cannot_be_compared_on_are_refused(toy):
    with pytest.raises(ValueError, match='comparison.sizes has 31, but task toy has 30 examples of '
                                         'training; expected at most as many, or None for all'):
        check_sizes([toy], [8, 31])
    del toy.splits['test']
    with pytest.raises(ValueError, match='task toy has no split test; compare trains on train'):
        check_sizes([toy], [None])
    with pytest.raises(ValueError, match="task x is of seqio's registry, whose examples cannot be"):
        check_sizes([types.SimpleNamespace(name='x')], [None])
