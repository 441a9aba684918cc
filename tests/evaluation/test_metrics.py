"""Metrics against numbers worked out by hand, and against scikit-learn's and scipy's."""

import itertools
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.metrics import (
    LOWER_IS_BETTER,
    accuracy,
    calibration_error,
    exact_match,
    f1,
    illegal,
    macro_f1,
    matthews,
    micro_f1,
    most_common,
    pearson,
    spearman,
)
from jax_prompt.evaluation.registry import METRICS, metrics_of
from jax_prompt.inference.rows import Prediction
from tests.evaluation.judged import Judge, measured

ABC, AB, FREE = Judge(('a', 'b', 'c')), Judge(('a', 'b')), Judge()
#: Predicted and right labels, in which labels may be missing; 'z' is none.
LABELS = st.lists(st.tuples(st.sampled_from('abcz'), st.sampled_from('abc')), min_size=1,
                  max_size=30)
QUICKLY = settings(max_examples=40, deadline=None, derandomize=True)


def test_accuracy_counts_equal_labels():
    assert measured(accuracy(FREE), 'baca', 'bbca') == {'accuracy': 0.75}
    task = TextTask('t', {}, '{text}', labels={'0': 'bad', '1': 'good'})
    rows = [Row({'label': label}, '') for label in ('1', 0)]
    assert accuracy(task)([Prediction('good')] * 2, rows) == {'accuracy': 0.5}


def test_exact_match_forgives_white_space_at_the_ends_alone():
    predicted = [' a title ', 'A title', 'a  title', 'a title']
    assert measured(exact_match(FREE), predicted, ['a title', *['a title '] * 3]) == {
        'exact_match': 0.5}


def test_any_of_several_right_answers_is_right():
    golds = [('a', 'b'), ('a', 'b'), ('b', ' c')]
    assert measured(accuracy(ABC), 'bcc', golds) == {'accuracy': 2 / 3}
    # The wrong 'c' stands against the first right answer, 'a'.
    assert measured(f1(FREE, 'b'), 'bcc', golds) == {'f1': 1.0}


def test_f1_of_the_positive_class():
    # Two of three found, one false alarm: precision 2/3, recall 2/3.
    assert measured(f1(FREE, 'y'), 'yyynnn', 'yynynn') == {'f1': pytest.approx(2 / 3)}
    # Precision 1, recall 1/2.
    assert measured(f1(FREE, 'a'), 'ab', 'aa') == {'f1': pytest.approx(2 / 3)}
    assert measured(f1(FREE, 'a'), 'bb', 'bb') == {'f1': 0.0}


def test_macro_f1_weighs_classes_alike():
    # 'a': precision 3/4, recall 1; 'b': precision 1, recall 1/2.
    assert measured(macro_f1(FREE), 'aaaab', 'aaabb') == {
        'macro_f1': pytest.approx((6 / 7 + 2 / 3) / 2)}


@QUICKLY
@given(LABELS)
def test_classification_equals_scikit_learn(pairs):
    sklearn = pytest.importorskip('sklearn.metrics')
    predicted, right = zip(*pairs, strict=True)
    present = sorted({label for pair in pairs for label in pair} - {'z'})

    def theirs(average):
        return sklearn.f1_score(right, predicted, labels=present, average=average, zero_division=0)

    assert measured(accuracy(ABC), predicted, right)['accuracy'] == pytest.approx(
        sklearn.accuracy_score(right, predicted))
    assert measured(macro_f1(ABC), predicted, right)['macro_f1'] == pytest.approx(theirs('macro'))
    assert measured(micro_f1(ABC), predicted, right)['micro_f1'] == pytest.approx(theirs('micro'))
    assert measured(matthews(ABC), predicted, right)['matthews'] == pytest.approx(
        sklearn.matthews_corrcoef(right, predicted))


@QUICKLY
@given(st.lists(st.tuples(st.sampled_from('abz'), st.sampled_from('ab')), min_size=1, max_size=30))
def test_binary_f1_is_that_of_t5_where_what_is_no_label_counts_as_the_wrong_one(pairs):
    sklearn = pytest.importorskip('sklearn.metrics')
    predicted, right = zip(*pairs, strict=True)
    taken = [{'a': 'b', 'b': 'a'}[gold] if one == 'z' else one for one, gold in pairs]
    assert measured(f1(AB), predicted, right)['f1'] == pytest.approx(
        sklearn.f1_score(right, taken, pos_label='b', average='binary', zero_division=0))


NUMBERS = st.lists(st.tuples(st.integers(-40, 40), st.integers(-40, 40)), min_size=2, max_size=30)


@QUICKLY
@given(NUMBERS)
def test_correlations_equal_scipy(pairs):
    stats = pytest.importorskip('scipy.stats')
    predicted, right = ([number / 8 for number in side] for side in zip(*pairs, strict=True))
    found = (measured(pearson(FREE), map(str, predicted), map(str, right))['pearson'],
             measured(spearman(FREE), map(str, predicted), map(str, right))['spearman'])
    if min(np.ptp(predicted), np.ptp(right)) == 0:
        assert found == (0.0, 0.0)
    else:
        assert found[0] == pytest.approx(stats.pearsonr(predicted, right).statistic)
        assert found[1] == pytest.approx(stats.spearmanr(predicted, right).statistic)


@pytest.mark.parametrize('text', ['', 'one', 'nan', 'inf', '1.0.0'])
def test_what_is_no_number_counts_as_t5_counts_it(text):
    right = ['0.0', '2.5', '5.0']
    for metric, name in ((pearson(FREE), 'pearson'), (spearman(FREE), 'spearman')):
        assert measured(metric, ['0.4', text, '5.0'], right) == measured(
            metric, ['0.4', '-1', '5.0'], right) != {name: 1.0}
    judge = Judge(metrics=('pearson', 'spearman'))
    assert measured(illegal(judge), ['0.4', text, '5.0'], right) == {'illegal': 1 / 3}


def test_a_right_answer_that_is_no_number_is_named():
    with pytest.raises(ValueError, match="right answer 'good' at row 1 is no number; a correlati"):
        measured(pearson(FREE), ['1', '2'], ['1', 'good'])


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    rows = [Row({'golds': gold}, '') for gold in 'aabb']
    sure = [Prediction(max(odds, key=odds.get), None, odds) for odds in (
        {'a': 0.9, 'b': 0.1}, {'a': 0.9, 'b': 0.1}, {'a': 0.9, 'b': 0.1}, {'a': 0.2, 'b': 0.8})]
    # Of three with confidence 0.9 two are right; of one with 0.8 one.
    expected = (3 * abs(2 / 3 - 0.9) + abs(1 - 0.8)) / 4
    assert calibration_error(AB)(sure, rows) == {'calibration_error': pytest.approx(expected)}
    with pytest.raises(ValueError, match='needs probabilities of labels, .* put rank first'):
        calibration_error(AB)([Prediction('a')] * 4, rows)
    with pytest.raises(ValueError, match='of label probabilities, but task toy has no labels'):
        calibration_error(FREE)


@pytest.mark.parametrize('judge, texts, expected', [
    (AB, ['a', ' b ', '', 'ab'], 0.5), (FREE, ['x', '', ' ', 'a b'], 0.5),
    (Judge(metrics=('pearson',)), ['1', '-2.5e1', 'x', ''], 0.5),
])
def test_answers_that_are_none_are_counted(judge, texts, expected):
    right = ['1'] * 4 if judge.metrics else 'aaaa'
    assert measured(illegal(judge), texts, right) == {'illegal': expected}


#: Of each metric: what it judges, and right answers that it can judge perfectly.
PERFECT = {name: (AB, ['a', 'b', 'a', 'b']) for name in METRICS} | {
    name: (Judge(metrics=(name,)), ['1.0', '2.5', '0.2', '4.0']) for name in ('pearson', 'spearman')
} | {name: (FREE, ['a dog barks at the moon', 'two cats sleep on one mat', 'rain falls all day '
                   'long', 'we sing in the dark room']) for name in ('squad', 'record', 'wsc',
                                                                     'rouge', 'bleu',
                                                                     'exact_match')}


@pytest.mark.parametrize('name', sorted(METRICS))
def test_perfect_predictions_score_most_and_empty_or_illegal_ones_nothing(name):
    if name in ('rouge', 'bleu'):
        pytest.importorskip({'rouge': 'rouge_score', 'bleu': 'sacrebleu'}[name])
    judge, right = PERFECT[name]
    metric = METRICS[name](judge)

    def scored(texts):
        certain = [Prediction(text, None, {label: float(label == text) for label in 'ab'})
                   for text in texts]
        rows = [Row({'golds': gold, 'group': number // 2, 'label': 'True'}, '')
                for number, gold in enumerate(right)]
        return metric(certain, rows)

    best, worst = (0.0, 1.0) if name in LOWER_IS_BETTER else (1.0, 0.0)
    found = scored(right)
    assert found == pytest.approx(dict.fromkeys(found, best))
    if name != 'calibration_error':
        for texts in ([''] * 4, [' '] * 4, ['?!'] * 4 if name != 'illegal' else [''] * 4):
            assert scored(texts) == pytest.approx(dict.fromkeys(found, worst))
    assert measured(illegal(judge), [''] * 4, right) == {'illegal': 1.0}


def test_the_most_common_answer_knows_several_right_ones():
    rows = [Row({'golds': golds}, '') for golds in (('x', 'y'), ('z', 'y', 'y'), 'x', 'y')]
    assert most_common(FREE, rows).text == 'y'
    one = most_common(Judge(('y', 'x', 'w')), rows[2:], ('y', 'x', 'w'))
    assert one.probabilities == {'y': 2 / 5, 'x': 2 / 5, 'w': 1 / 5}
    assert one.scores['w'] == math.log(1 / 5)


@pytest.mark.parametrize('name', sorted(METRICS))
def test_unequal_and_empty_sequences_are_refused(name):
    if name in ('rouge', 'bleu'):
        pytest.importorskip({'rouge': 'rouge_score', 'bleu': 'sacrebleu'}[name])
    metric = METRICS[name](AB)
    with pytest.raises(ValueError, match='got 2 predictions for 1 targets'):
        measured(metric, 'ab', 'a')
    with pytest.raises(ValueError, match='got no predictions'):
        measured(metric, '', '')


def test_metrics_are_chosen_by_name_and_ones_own_stand_beside_them():
    def own(predictions, rows):
        return {'own': len(rows)}

    names = [*itertools.chain(*(measured(metric, 'ab', 'ab') for metric in metrics_of(
        Judge(('a', 'b'), ('f1', own, 'matthews')), 'rank')))]
    assert names == ['f1', 'own', 'matthews']
    assert measured(metrics_of(FREE, 'greedy')[1], ['', 'x'], 'xx') == {'illegal': 0.5}
    assert len(metrics_of(Judge(metrics=('illegal',)), 'greedy')) == 1
    with pytest.raises(ValueError, match="metrics of task toy name 'acuracy'; expected some of a"):
        metrics_of(Judge(metrics=('acuracy',)), 'rank')


@pytest.mark.parametrize('judge, told', [(ABC, '3'), (FREE, 'none')])
def test_f1_of_no_class_is_refused(judge, told):
    with pytest.raises(ValueError, match=f'metric f1 is of one of two labels, but task toy has '
                                         f'{told}; choose macro_f1'):
        f1(judge)


def test_the_page_of_metrics_has_them_all():
    page = pathlib.Path(__file__).parents[2] / 'docs/howto/metrics.md'
    told = ' '.join(line.split(' | ')[0] for line in page.read_text().splitlines()
                    if line.startswith('| `'))
    assert all(f'`{name}`' in told for name in PERFECT)
