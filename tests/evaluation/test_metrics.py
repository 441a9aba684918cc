"""Metrics against numbers worked out by hand."""

import pytest

from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.metrics import accuracy, exact_match, f1, macro_f1
from jax_prompt.inference.rows import Prediction


def target(row):
    return row.columns['label']


def measured(metric, predicted, right):
    return metric([Prediction(text) for text in predicted],
                  [Row({'label': label}, f'row {number}') for number, label in enumerate(right)])


def test_accuracy_counts_equal_labels():
    assert measured(accuracy(target), 'baca', 'bbca') == {'accuracy': 0.75}
    task = TextTask('t', {}, '{text}', labels={'0': 'bad', '1': 'good'})
    assert measured(accuracy(task.target_text), ['good', 'good'], ['1', 0]) == {'accuracy': 0.5}


def test_exact_match_forgives_white_space_at_the_ends_alone():
    predicted = [' a title ', 'A title', 'a  title', 'a title']
    assert measured(exact_match(target), predicted, ['a title', *['a title '] * 3]) == {
        'exact_match': 0.5}


def test_f1_of_the_positive_class():
    # Two of three found, one false alarm: precision 2/3, recall 2/3.
    assert measured(f1(target, 'y'), 'yyynnn', 'yynynn') == {'f1': pytest.approx(2 / 3)}
    # Precision 1, recall 1/2.
    assert measured(f1(target, 'a'), 'ab', 'aa') == {'f1': pytest.approx(2 / 3)}
    assert measured(f1(target, 'a'), 'bb', 'bb') == {'f1': 0.0}


def test_macro_f1_weighs_classes_alike():
    # 'a': precision 3/4, recall 1; 'b': precision 1, recall 1/2.
    assert measured(macro_f1(target), 'aaaab', 'aaabb') == {
        'macro_f1': pytest.approx((6 / 7 + 2 / 3) / 2)}


@pytest.mark.parametrize('metric', [accuracy(target), exact_match(target), f1(target, 'a'),
                                    macro_f1(target)])
def test_unequal_and_empty_sequences_are_refused(metric):
    with pytest.raises(ValueError, match='got 2 predictions for 1 targets'):
        measured(metric, 'ab', 'a')
    with pytest.raises(ValueError, match='got no predictions'):
        measured(metric, '', '')
