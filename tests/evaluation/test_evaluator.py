"""The evaluator: metrics over the predictions of a split's rows, whichever way they are made."""

import dataclasses

import numpy as np
import pytest

from jax_prompt.data.examples import load_examples
from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation import evaluator as evaluation
from jax_prompt.evaluation.evaluator import Evaluator, scores_of
from jax_prompt.inference.rows import Prediction
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt, no_prompt
from tests.inference.many_prompts import open_tiny
from tests.inference.whole import make_label_scorer

TEXTS = [f'the {word} was {verdict}' for word in ('film', 'plot', 'cast', 'hero')
         for verdict in ('great', 'dull and weak', 'great and warm')]


@pytest.fixture(scope='module')
def opened(world):
    return open_tiny(world / 'model')


@pytest.fixture(scope='module')
def prompt(opened):
    drawn = np.random.default_rng(0).normal(size=(3, opened.model.d_model))
    return Prompt(drawn.astype(np.float32))


def make_task(**fields):
    rows = [{'text': text, 'label': str(number % 2), 'place': number}
            for number, text in enumerate(TEXTS)]
    return TextTask('toy', {'validation': lambda: rows}, 'review : {text}', **{
        'labels': {'0': 'dull', '1': 'warm film'}} | fields)


def test_scores_are_those_of_each_example_alone(opened, prompt):
    task = make_task()
    examples = load_examples(task, 'validation', opened.vocabulary)
    score = make_label_scorer(opened.model, [opened.vocabulary.encode(word)
                                             for word in task.label_words])
    evaluator = Evaluator(opened, task, Layout('around'), batch_size=5)
    for tuned in (prompt, no_prompt(opened.model.d_model)):
        features = FeatureConverter.for_model(
            task, opened.vocabulary, opened.model, Layout('around'), len(tuned.rows)
        ).convert(examples)
        ids = features.batch(range(len(features)), 40)['encoder_input_tokens']
        expected_BC = np.asarray(score(opened.frozen, tuned, ids))
        metrics, predictions = evaluator.measure(tuned, examples)
        np.testing.assert_allclose(scores_of(predictions['rank']), expected_BC, rtol=1e-5,
                                   atol=1e-5)
        assert metrics == {'accuracy': np.mean(expected_BC.argmax(1) == examples.labels)}


def test_exact_match_compares_each_text_with_its_own_target(opened, prompt, monkeypatch):
    task = make_task(labels=None)
    examples = load_examples(task, 'validation', opened.vocabulary)
    evaluator = Evaluator(opened, task, Layout())
    said = [' 0', '1 ', '1', '1', '0', '0'] * 2
    monkeypatch.setattr(evaluation, 'predict', lambda opened, prompt, rows, *_: [
        Prediction(text) for text, _ in zip(said, rows, strict=True)])
    assert evaluator(prompt, examples) == {'exact_match': 4 / 6}


def test_both_ways_and_which_comes_first(opened, prompt):
    examples = load_examples(make_task(), 'validation', opened.vocabulary)
    for ways in (('rank', 'greedy'), ('greedy', 'rank')):
        evaluator = Evaluator(opened, make_task(), Layout(), ways)
        metrics, predictions = evaluator.measure(prompt, examples)
        names = {'rank': 'accuracy', 'greedy': 'exact_match'}
        assert list(metrics) == [names[way] for way in ways] and set(predictions) == set(ways)
        assert all(one.scores is None for one in predictions['greedy'])


def test_a_task_brings_metrics_that_read_any_column(opened, prompt):
    def places(predictions, rows):
        assert len(predictions) == len(rows) and isinstance(rows[0], Row)
        return {'places': float(sum(row.columns['place'] for row in rows)), 'rows': len(rows)}

    task = make_task(metrics=(places,))
    assert 'metrics' not in task.to_dict()
    examples = load_examples(task, 'validation', opened.vocabulary)
    assert Evaluator(opened, task, Layout())(prompt, examples) == {'places': 66.0, 'rows': 12}


def test_lengths_given_count_no_virtual_tokens_and_longer_inputs_get_their_own(opened, prompt):
    task = make_task()
    examples = load_examples(task, 'validation', opened.vocabulary)
    evaluator = Evaluator(opened, task, Layout(), lengths=(7,))
    longest = examples.inputs.lengths.max() + 1
    assert 7 < longest
    for rows in (3, 0):
        how = evaluator.prepare(examples, rows)[1]
        assert how.shapes.lengths == (7 + rows, 16)
    assert evaluator.prepare(examples, 3) is evaluator.prepare(examples, 3)


def test_scores_that_are_not_finite_are_no_metric(opened, prompt):
    examples = load_examples(make_task(), 'validation', opened.vocabulary)
    broken = dataclasses.replace(prompt, rows=prompt.rows * np.nan)
    with pytest.raises(ValueError, match='^row .* of .*: the prompt gives scores that are not fin'):
        Evaluator(opened, make_task(), Layout())(broken, examples)


def test_ranking_needs_labels(opened):
    with pytest.raises(ValueError, match='task toy has no labels to rank; it is free text'):
        Evaluator(opened, make_task(labels=None), Layout(), ['rank'])
