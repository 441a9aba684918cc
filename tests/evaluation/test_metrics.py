"""Metrics against numbers worked out by hand."""

import numpy as np
import pytest

from jax_prompt.evaluation.metrics import accuracy, exact_match, f1, macro_f1


def test_accuracy_counts_equal_labels():
    assert accuracy([1, 0, 2, 2], [1, 1, 2, 0]) == 0.5
    assert accuracy(np.array([1, 1]), np.array([1, 1])) == 1.0
    assert accuracy(['yes', 'no', 'no'], ['yes', 'yes', 'yes']) == pytest.approx(1 / 3)


def test_exact_match_forgives_white_space_at_the_ends_alone():
    predicted = [' a title ', 'A title', 'a  title', 'a title']
    assert exact_match(predicted, ['a title'] * 4) == 0.5


def test_f1_of_the_positive_class():
    # Two of three found, one false alarm: precision 2/3, recall 2/3.
    predicted, actual = [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0]
    assert f1(predicted, actual) == pytest.approx(2 / 3)
    # Precision 1, recall 1/2.
    assert f1(['a', 'b'], ['a', 'a'], positive='a') == pytest.approx(2 / 3)
    assert f1([0, 0], [0, 0]) == 0.0


def test_macro_f1_weighs_classes_alike():
    # 'a': precision 3/4, recall 1; 'b': precision 1, recall 1/2.
    predicted, actual = ['a', 'a', 'a', 'a', 'b'], ['a', 'a', 'a', 'b', 'b']
    assert macro_f1(predicted, actual) == pytest.approx((6 / 7 + 2 / 3) / 2)


@pytest.mark.parametrize('metric', [accuracy, exact_match, f1, macro_f1])
def test_unequal_and_empty_sequences_are_refused(metric):
    with pytest.raises(ValueError, match='got 2 predictions for 1 targets'):
        metric(['a', 'b'], ['a'])
    with pytest.raises(ValueError, match='got no predictions'):
        metric([], [])
