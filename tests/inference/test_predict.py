"""Prediction over texts: in order, in bounded memory, at few shapes, each as it is alone."""

import functools
import itertools
import logging

import numpy as np
import pytest

from jax_prompt.data.features import FeatureConverter
from jax_prompt.inference.generate import make_generator
from jax_prompt.inference.predict import Prediction, Predictor, by_generation, by_rank, predict
from jax_prompt.inference.rank import make_label_scorer
from jax_prompt.prompts.layout import Layout

LABELS = {'bad': (5, 4, 7), 'fine': (9,), 'good': (10, 18)}


class Letters:
    """A vocabulary of 26 letters (ids 3 to 28) and white space (2)."""

    eos_id, pad_id, vocab_size = 1, 0, 29

    def encode(self, text):
        return [ord(letter) - ord('a') + 3 if letter != ' ' else 2 for letter in text]

    def decode(self, ids):
        return ''.join(' ' if i == 2 else chr(i - 3 + ord('a')) for i in ids if i > 1)


def converter(**fields):
    return FeatureConverter(layout=fields.pop('layout', Layout('before')), num_rows=4,
                            vocab_size=29, **{'inputs_length': 12} | fields)


def texts(count, seed=0):
    draw = np.random.default_rng(seed)
    return [''.join(chr(ord('a') + i) for i in draw.integers(0, 26, draw.integers(0, 11)))
            for _ in range(count)]


def echo(seen=None):
    """Return a predictor that gives back the letters it was shown, and notes the shapes."""

    def run(ids_BS):
        if seen is not None:
            seen.append(ids_BS.copy())
        return ids_BS

    def read(ids_BS):
        return [Prediction(Letters().decode(i for i in row if i < 29)) for row in ids_BS.tolist()]

    return Predictor(run, read)


def outputs(inputs, predictor=None, **options):
    options = {'buckets': (8, 16), 'batch_size': 4, 'window': 10} | options
    found = predict(inputs, Letters(), options.pop('converter', converter()),
                    predictor or echo(), **options)
    return [prediction.text for prediction in found]


@pytest.mark.parametrize('count', [0, 1, 4, 9, 10, 11, 57])
@pytest.mark.parametrize('window', [1, 10, 100])
def test_predictions_come_in_the_order_of_the_texts(count, window):
    inputs = texts(count)
    assert outputs(inputs, window=window) == inputs


def test_batches_have_few_shapes_and_short_texts_do_not_pay_for_long_ones():
    seen = []
    outputs(texts(40), echo(seen), buckets=(6, 8, 12), window=40)
    assert {ids.shape for ids in seen} == {(4, 6), (4, 8), (4, 12), (4, 16)}
    # Rows: 4 virtual tokens, the letters, the end token. Sorted, so only one batch a bucket mixes.
    needed = sum(max(np.count_nonzero(row) for row in ids) for ids in seen)
    assert sum(ids.shape[1] for ids in seen) <= needed + 3 * len(seen)


def test_a_batch_is_filled_up_with_pads():
    seen = []
    outputs(['abc'], echo(seen))
    assert seen[0].tolist() == [[29, 30, 31, 32, 3, 4, 5, 1], [0] * 8, [0] * 8, [0] * 8]


def test_buckets_are_chosen_by_the_first_window_and_completed_by_doubling():
    seen = []
    long = converter(inputs_length=60)
    inputs = ['ab'] * 10 + ['a' * 20] * 10 + ['a' * 200]
    outputs(inputs, echo(seen), buckets=None, converter=long)
    assert [ids.shape[1] for ids in seen] == [8, 8, 8, 32, 32, 32, 64]
    assert np.count_nonzero(seen[-1][0]) == 64


def test_no_more_than_a_window_is_read_ahead():
    taken = []
    endless = (taken.append(i) or 'abc' for i in itertools.count())
    found = predict(endless, Letters(), converter(), echo(), (16,), 4, window=10)
    assert not taken
    assert [next(found).text for _ in range(11)] == ['abc'] * 11
    assert len(taken) == 20


def test_texts_that_were_cut_are_counted_in_one_line(caplog):
    with caplog.at_level(logging.WARNING):
        found = outputs(['a' * 11, 'b' * 12, 'c' * 30] * 5 + ['d'])
    assert found == ['a' * 11, 'b' * 11, 'c' * 11] * 5 + ['d']
    assert [record.getMessage() for record in caplog.records] == [
        '10 of 16 inputs were longer than 12 tokens and were cut; the prompt never is']


def test_nothing_is_said_where_nothing_was_cut(caplog):
    outputs(['abc'])
    assert not caplog.records


def test_the_layout_of_the_converter_is_used():
    seen = []
    outputs(['abc'], echo(seen), converter=converter(layout=Layout('after')))
    assert seen[0][0].tolist() == [3, 4, 5, 29, 30, 31, 32, 1]


def test_a_text_that_cannot_be_laid_out_is_named():
    marked = converter(layout=Layout('marker', marker='z'), marker_id=28)
    assert outputs(['azb'], converter=marked) == ['ab']
    with pytest.raises(ValueError, match="input 12: marker 'z' .* is missing"):
        outputs(['z'] * 11 + ['a'], converter=marked)


@pytest.mark.parametrize('sizes', [{'batch_size': 0}, {'window': 0}, {'buckets': (8, 0)}])
def test_impossible_sizes_are_refused_before_anything_is_read(sizes):
    name = next(iter(sizes)).removesuffix('s')
    with pytest.raises(ValueError, match=f'{name}=0 for prediction; expected at least 1'):
        predict(iter(()), Letters(), converter(), echo(), **sizes)


@functools.cache
def generator(model):
    return make_generator(model, 6)


@functools.cache
def scorer(model):
    return make_label_scorer(model, tuple(LABELS.values()))


def test_each_text_is_generated_from_as_if_it_were_alone(one_case):
    generate, inputs = generator(one_case.model), texts(21)
    predictor = by_generation(generate, one_case.frozen, one_case.prompt, Letters().decode,
                              one_case.model.config)
    found = outputs(inputs, predictor)
    for text, answer in zip(inputs, found, strict=True):
        ids = np.zeros((4, 16), np.int32)
        row = [29, 30, 31, 32, *Letters().encode(text), 1]
        ids[0, :len(row)] = row
        tokens = np.asarray(generate(one_case.frozen, one_case.prompt, ids))[0].tolist()
        tokens = tokens[:tokens.index(1)] if 1 in tokens else tokens
        assert answer == Letters().decode(tokens).strip()
    assert len(set(found)) > 3


def test_each_text_is_classified_as_if_it_were_alone(one_case):
    score, inputs = scorer(one_case.model), texts(21)
    predictor = by_rank(score, one_case.frozen, one_case.prompt, list(LABELS))
    found = list(predict(inputs, Letters(), converter(), predictor, (8, 16), 4, 10))
    assert len({prediction.text for prediction in found}) > 1
    for text, prediction in zip(inputs, found, strict=True):
        ids = np.zeros((4, 16), np.int32)
        row = [29, 30, 31, 32, *Letters().encode(text), 1]
        ids[0, :len(row)] = row
        alone = np.asarray(score(one_case.frozen, one_case.prompt, ids))[0]
        assert list(prediction.scores) == list(LABELS)
        np.testing.assert_allclose(list(prediction.scores.values()), alone, rtol=1e-4)
        assert prediction.text == list(LABELS)[alone.argmax()]
        assert max(prediction.probabilities, key=prediction.probabilities.get) == prediction.text
        assert sum(prediction.probabilities.values()) == pytest.approx(1.0)


def test_a_prediction_says_what_it_holds():
    assert Prediction('a title').to_dict() == {'prediction': 'a title'}
    ranked = Prediction('good', {'bad': -3.0, 'good': -1.0}, {'bad': 0.1, 'good': 0.9})
    assert ranked.to_dict() == {'prediction': 'good', 'scores': {'bad': -3.0, 'good': -1.0},
                                'probabilities': {'bad': 0.1, 'good': 0.9}}
