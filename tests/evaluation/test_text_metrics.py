"""Metrics of generated answers against the benchmarks' scripts, restated, and their libraries."""

import collections
import re
import string
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_prompt.evaluation.text_metrics import bleu, multirc, record, rouge, squad
from tests.evaluation.judged import Judge, measured

FREE, TRUE = Judge(), Judge(('False', 'True'))
WORDS = st.lists(st.sampled_from(['The', 'a', 'cat', 'cat.', 'dog', 'an', "dog's", ',', 'Émile', '',
                                  'sat ', '.']), max_size=8).map(' '.join)
GOLDS = st.lists(WORDS.filter(str.strip), min_size=1, max_size=3)
QUICKLY = settings(max_examples=40, deadline=None, derandomize=True)


def official_squad(prediction, golds):
    """The rules of SQuAD 1.1's script, step by step as it has them."""
    def normalize(text):
        text = ''.join(one for one in text.lower() if one not in set(string.punctuation))
        return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split())

    def token_f1(gold):
        said, right = normalize(prediction).split(), normalize(gold).split()
        same = sum((collections.Counter(said) & collections.Counter(right)).values())
        if same == 0:
            return 0
        precision, recall = same / len(said), same / len(right)
        return 2 * precision * recall / (precision + recall)

    return (max(map(token_f1, golds)),
            max(normalize(prediction) == normalize(gold) for gold in golds))


@QUICKLY
@given(st.lists(st.tuples(WORDS, GOLDS), min_size=1, max_size=6))
def test_squad_is_the_official_one(pairs):
    predicted, golds = zip(*pairs, strict=True)
    scores = [official_squad(*pair) for pair in pairs]
    found = measured(squad(FREE), predicted, golds)
    assert found == {'f1': pytest.approx(sum(one[0] for one in scores) / len(scores)),
                     'exact_match': pytest.approx(sum(one[1] for one in scores) / len(scores))}


def test_record_counts_each_query_once():
    predicted, golds = ['Ann', 'Eve', 'Bo Li'], [('Ann', 'Annie'), ('Annie', 'Ann'), ('Li',)]
    assert measured(record(FREE), predicted, golds, group=[7, 7, 9]) == {
        'f1': pytest.approx((1 + 2 / 3) / 2), 'exact_match': 0.5}
    assert measured(record(FREE), predicted, golds, group=[[0, 1], [0, 1], [0, 2]]) == measured(
        record(FREE), predicted, golds, group=[7, 7, 9])
    assert measured(record(FREE), predicted, golds)['exact_match'] == 1 / 3


def test_multirc_asks_for_all_answers_to_a_question():
    right = ['True', 'False', 'True', 'False']
    predicted = ['True', 'True', 'True', 'False']
    # Of F1a: two of two found, one false alarm.
    assert measured(multirc(TRUE), predicted, right, group=[[0, 0], [0, 0], [0, 1], [0, 1]]) == {
        'f1a': pytest.approx(0.8), 'exact_match': 0.5}
    # 'maybe' is no label: for F1a the wrong one, here a false alarm.
    assert measured(multirc(TRUE), ['True', 'maybe', 'True', 'False'], right, group='aabb') == {
        'f1a': pytest.approx(0.8), 'exact_match': 0.5}
    with pytest.raises(ValueError, match="needs a column 'group' that tells .*; row 0 has none"):
        measured(multirc(TRUE), predicted, right)
    with pytest.raises(ValueError, match='metric f1a is of one of two labels, but task toy has no'):
        multirc(FREE)


SENTENCES = st.lists(st.sampled_from('the a cat dogs dog sat on mats . run running'.split()),
                     max_size=12).map(' '.join)


@QUICKLY
@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=4))
def test_rouge_is_the_mean_of_the_librarys_scores(pairs):
    scoring = pytest.importorskip('rouge_score.rouge_scorer')
    names = ['rouge1', 'rouge2', 'rougeLsum']
    scorer = scoring.RougeScorer(names, use_stemmer=False)
    scores = [scorer.score(gold.replace(' . ', ' .\n'), said.replace(' . ', ' .\n'))
              for said, gold in pairs]
    predicted, golds = zip(*pairs, strict=True)
    assert measured(rouge(FREE), predicted, golds) == {
        name: pytest.approx(sum(one[name].fmeasure for one in scores) / len(scores))
        for name in names}
    # Of several right answers the best one counts.
    twice = measured(rouge(FREE), predicted, [('nothing alike', gold) for gold in golds])
    assert twice == pytest.approx(measured(rouge(FREE), predicted, golds))


@QUICKLY
@given(st.lists(st.tuples(SENTENCES, SENTENCES, SENTENCES), min_size=1, max_size=4))
def test_bleu_is_the_librarys(triples):
    sacrebleu = pytest.importorskip('sacrebleu')
    predicted, first, second = zip(*triples, strict=True)
    assert measured(bleu(FREE), predicted, first)['bleu'] == pytest.approx(
        sacrebleu.corpus_bleu(predicted, [first]).score / 100)
    assert measured(bleu(FREE), predicted, [*zip(first, second, strict=True)])['bleu'] == (
        pytest.approx(sacrebleu.corpus_bleu(predicted, [first, second]).score / 100))


def test_bleu_takes_rows_with_another_number_of_right_answers():
    sacrebleu = pytest.importorskip('sacrebleu')
    predicted = ['the cat sat on the mat', 'it rained all day long today']
    golds = [('a cat sat on the mat', 'the cat sat on a mat'), ('it rained all day long',)]
    assert measured(bleu(FREE), predicted, golds)['bleu'] == pytest.approx(
        sacrebleu.corpus_bleu(predicted, [[one[0] for one in golds], [golds[0][1], None]]).score
        / 100)


def test_metrics_whose_package_is_missing_say_what_to_install(monkeypatch):
    for module, metric in (('rouge_score.rouge_scorer', rouge), ('sacrebleu.metrics', bleu)):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ValueError, match=f"needs the Python package {module.split('.')[0]}, .*"
                                             r"install it by: pip install 'jax-prompt\[metrics\]'"):
            metric(FREE)
