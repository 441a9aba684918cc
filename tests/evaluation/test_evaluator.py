"""The evaluator: metrics over the predictions of a split's rows, whichever way they are made."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from jax_prompt.data.examples import load_examples
from jax_prompt.data.features import FeatureConverter
from jax_prompt.data.tasks.rows import Row
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation import evaluator as evaluation
from jax_prompt.evaluation.evaluator import Evaluator, scores_of
from jax_prompt.inference.rank import score_targets
from jax_prompt.inference.rows import Prediction
from jax_prompt.models.forward import encode, score
from jax_prompt.models.t5.model import T5
from jax_prompt.prompts.layout import Layout
from jax_prompt.prompts.prompt import Prompt, no_prompt
from jax_prompt.training.step import token_loss
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
        assert metrics['accuracy'] == np.mean(expected_BC.argmax(1) == examples.labels)


def test_the_loss_is_that_which_training_reports(opened, prompt):
    task = make_task(labels={'0': 'dull', '1': 'warm and great film'}, targets_length=6)
    examples = load_examples(task, 'validation', opened.vocabulary)
    converter = FeatureConverter.for_model(task, opened.vocabulary, opened.model, Layout(), 3)
    batch = converter.convert(examples).batch(range(len(examples)), 40)
    logits_BLV = jax.jit(functools.partial(score, opened.model))(opened.frozen, prompt, batch)
    sums = token_loss(logits_BLV, batch['decoder_target_tokens'], batch['decoder_loss_weights'])[1]
    # 16 rows and more are encoded packed on a CPU, and decoded in two parts; fewer are not.
    for ways, batch_size in (['rank'], 5), (['greedy'], 5), (['greedy'], 16), (['loss'], 5):
        evaluator = Evaluator(opened, task, Layout(), ways, batch_size)
        metrics = evaluator(prompt, examples)
        assert metrics['loss'] == pytest.approx(float(sums['loss'] / sums['tokens']), rel=1e-5)
    assert set(metrics) == {'loss'} and evaluator.most_common(examples)[1] == {}
    assert Evaluator(opened, task, Layout(), ('loss', 'rank')).ways == ('rank',)


def test_target_scores_are_the_same_with_few_logits_at_a_time(opened, prompt, monkeypatch):
    ids_BS = np.array([[3, 7, 9, 1], [5, 1, 0, 0]])
    targets_BL = np.array([[9, 8, 7, 1], [4, 1, 0, 0]])

    @jax.jit
    def scores(prompt):
        encoded = encode(opened.model, opened.frozen, prompt, ids_BS)
        whole_B = score_targets(opened.model, opened.frozen, *encoded, targets_BL)
        monkeypatch.setattr('jax_prompt.inference.rank.LOGITS_BYTES', 1)
        return whole_B, score_targets(opened.model, opened.frozen, *encoded, targets_BL)

    whole_B, one_by_one_B = scores(prompt)
    np.testing.assert_allclose(whole_B, one_by_one_B, rtol=1e-6)


def test_exact_match_compares_each_text_with_its_own_target(opened, prompt, monkeypatch):
    task = make_task(labels=None)
    examples = load_examples(task, 'validation', opened.vocabulary)
    evaluator = Evaluator(opened, task, Layout())
    said = [' 0', '1 ', '1', '1', '0', '0'] * 2
    monkeypatch.setattr(evaluation, 'predict', lambda opened, prompt, rows, *_: [
        Prediction(text, target_score=-1.0) for text, _ in zip(said, rows, strict=True)])
    assert evaluator(prompt, examples)['exact_match'] == 4 / 6


@dataclasses.dataclass(frozen=True)
class Always(T5):
    """A T5 that writes the same token over and over."""

    token: int = 0

    def step_logits(self, frozen, hidden, cache):
        return super().step_logits(frozen, hidden, cache).at[self.token].add(1e4)


@pytest.mark.parametrize(('word', 'matches'), [('{', 0), ('great', 1)])
def test_exact_match_is_of_the_texts_that_predict_writes(opened, prompt, caplog, word, matches):
    token = opened.vocabulary.encode(word)[-1]
    always = dataclasses.replace(opened, model=Always(opened.model.config, token=token))
    # What cannot be written, what is cut to its first token, and what is written as a whole.
    rows = [{'text': 'the film', 'label': label} for label in ('{', 'great and warm', ' great ')]
    task = TextTask('toy', {'validation': lambda: rows}, targets_length=1)
    examples = load_examples(task, 'validation', opened.vocabulary)
    metrics, predictions = Evaluator(always, task, Layout()).measure(prompt, examples)
    assert len({one.text for one in predictions['greedy']}) == 1
    assert metrics['exact_match'] == matches / 3
    assert "1 of 3 targets of toy validation cannot be written by the vocabulary: '{' at row 1" in (
        caplog.text)
    assert '3 of 3 targets were longer than 1 tokens and were cut; no answer can be' in caplog.text


def test_both_ways_and_which_comes_first(opened, prompt):
    examples = load_examples(make_task(), 'validation', opened.vocabulary)
    for ways in (('rank', 'greedy'), ('greedy', 'rank')):
        evaluator = Evaluator(opened, make_task(), Layout(), ways)
        metrics, predictions = evaluator.measure(prompt, examples)
        names = {'rank': ['accuracy'], 'greedy': ['exact_match', 'illegal']}
        assert list(metrics) == [*names[ways[0]], *names[ways[1]], 'loss']
        assert set(predictions) == set(ways)
        assert all(one.scores is None for one in predictions['greedy'])


def test_a_task_brings_metrics_that_read_any_column(opened, prompt):
    def places(predictions, rows):
        assert len(predictions) == len(rows) and isinstance(rows[0], Row)
        return {'places': float(sum(row.columns['place'] for row in rows)), 'rows': len(rows)}

    task = make_task(metrics=(places,))
    assert 'metrics' not in task.to_dict()
    examples = load_examples(task, 'validation', opened.vocabulary)
    metrics = Evaluator(opened, task, Layout())(prompt, examples)
    assert metrics == {'places': 66.0, 'rows': 12, 'loss': metrics['loss']}
    for taken in ('rows', 'loss'):
        twice = make_task(metrics=(places, lambda *_, taken=taken: {taken: 1.0}))
        with pytest.raises(ValueError, match=f"two metrics of task toy are called '{taken}'"):
            Evaluator(opened, twice, Layout())(prompt, examples)


def test_answers_that_are_all_the_same_are_told_and_what_they_would_give(
        opened, prompt, monkeypatch, caplog):
    examples = load_examples(make_task(), 'validation', opened.vocabulary)
    examples = dataclasses.replace(examples, rows=[Row({'label': '1', 'text': ''}, ''),
                                                   *examples.rows[1:]])
    evaluator = Evaluator(opened, make_task(), Layout())
    assert evaluator.most_common(examples) == ('warm film', {'accuracy': 7 / 12})
    scores = {'dull': -1.0, 'warm film': -2.0}
    for said, told in (['dull'] * 12, True), (['dull', *['warm film'] * 11], False):
        caplog.clear()
        monkeypatch.setattr(evaluation, 'predict', lambda *_, said=said: [
            Prediction(text, scores) for text in said])
        evaluator(prompt, examples)
        assert ("toy validation: the answer to all 12 examples is 'dull'" in caplog.text) == told


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
