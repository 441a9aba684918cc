"""Which of two prompts is kept, by figures that may not be able to tell."""

import math

import pytest

from jax_prompt.training.selection import figure_to_choose_by, merit, remarks


def test_the_better_figure_wins_and_equal_ones_leave_it_to_the_loss():
    better, worse = {'accuracy': 0.8, 'loss': 2.0}, {'accuracy': 0.7, 'loss': 1.0}
    assert merit(better, 'accuracy') > merit(worse, 'accuracy')
    assert merit(better, 'loss') < merit(worse, 'loss')
    assert merit(worse | {'accuracy': 0.8}, 'accuracy') > merit(better, 'accuracy')
    assert not merit(better, 'accuracy') > merit(better, 'accuracy')


def test_a_figure_that_is_no_number_is_worse_than_any_and_hides_no_loss():
    """A correlation with answers that are all the same is none, as at the start of many runs."""
    unknown, poor = {'pearson': math.nan, 'loss': 1.0}, {'pearson': -0.9, 'loss': 5.0}
    assert merit(poor, 'pearson') > merit(unknown, 'pearson')
    assert merit(unknown, 'pearson') > merit(unknown | {'loss': 2.0}, 'pearson')


@pytest.mark.parametrize(('asked', 'free_text', 'chosen'), [
    (None, False, 'accuracy'), (None, True, 'loss'), ('f1', False, 'f1'), ('loss', False, 'loss'),
    ('f1', True, 'f1')])
def test_labels_are_chosen_by_the_first_metric_and_free_text_by_the_loss(asked, free_text, chosen):
    assert figure_to_choose_by(asked, ['accuracy', 'f1'], free_text) == chosen


def test_a_figure_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(ValueError, match="^choose_by is 'bleu', which .* one of accuracy, loss$"):
        figure_to_choose_by('bleu', ['accuracy'], False)


def test_remarks_are_of_what_is_no_better_than_the_start_or_the_same_answer_to_all():
    common, start = ('dull', {'accuracy': 0.6}), {'accuracy': 0.5, 'loss': 2.0}
    assert remarks('accuracy', common, start, {'accuracy': 0.7, 'loss': 1.0}, 40) == []
    poor, = remarks('loss', common, start, {'accuracy': 0.6, 'loss': 1.0}, 40)
    assert poor.endswith("looking at the input: 'dull' to all gives accuracy 0.6000.")
    untrained = remarks('loss', common, start, start, 0)
    assert untrained[0].endswith("by its validation's loss, none was better.")
    assert len(untrained) == 2
    unknown, same = remarks('accuracy', common, start, {'accuracy': math.nan, 'loss': 1.0}, 40)
    assert 'nan on validation, is no better than before training: 0.5000.' in unknown and same


@pytest.mark.parametrize('name', ['illegal', 'calibration_error'])
def test_of_some_figures_less_is_better_and_no_remark_is_made(name):
    better, worse = {name: 0.1, 'loss': 2.0}, {name: 0.2, 'loss': 1.0}
    assert merit(better, name) > merit(worse, name)
    assert merit(better, name) > merit({name: math.nan, 'loss': 1.0}, name)
    # Always the same answer is calibrated perfectly, and never illegal.
    common = 'dull', {'accuracy': 0.5, name: 0.0}
    assert remarks(name, common, {'accuracy': 0.5, **worse}, {'accuracy': 0.6, **better}, 40) == []
    told = remarks(name, common, {'accuracy': 0.5, **worse}, {'accuracy': 0.4, **better}, 40)
    assert len(told) == 2 and all(name not in one for one in told)
