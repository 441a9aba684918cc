"""Rows and what is read from a batch: what is wrong with one row is no other row's matter."""

import types

import numpy as np
import pytest

from jax_prompt.inference.beam import BeamSettings
from jax_prompt.inference.calibration import Calibration
from jax_prompt.inference.rank import LabelSet
from jax_prompt.inference.rows import Prediction, Row, Running
from jax_prompt.inference.sampling import SamplingSettings
from jax_prompt.models.base import Tokens

LABELS = LabelSet(('dull', 'great'), np.zeros((2, 2), np.int32), np.zeros((2, 2), np.float32))


def make_row(labels=LABELS, max_tokens=4, options=None):
    return Row("prompt 'x'", np.zeros(1, np.int32), False, labels, max_tokens, 'sample', options,
               ('group',))


def running(rows, *parts):
    """Return a batch whose parts, (numbers of rows, values), are there already."""
    opened = types.SimpleNamespace(
        model=types.SimpleNamespace(tokens=Tokens(pad=0, eos=1, start=0)),
        vocabulary=types.SimpleNamespace(decode=str))
    return Running(tuple(rows), tuple((numbers, lambda values=values: (np.array(values),))
                                      for numbers, values in parts), opened)


def test_a_row_whose_scores_are_no_numbers_fails_alone():
    rows = [make_row(), make_row(), make_row(options=Calibration(None, 2.0)),
            make_row(options=Calibration(np.zeros(3))), make_row()]
    batch = running(rows, ([4, 0, 1], [[-1, -2], [-2, -1], [np.nan, -1], [0, 0]]),
                    ([2, 3], [[-1, np.inf], [-1, -1]]))
    last, wrong_C, filler = batch.outcomes()[4], batch.outcomes()[3], batch.outcomes()[0]
    assert (filler.text, last.text) == ('great', 'dull')
    assert np.isclose(last.probabilities['dull'], 1 / (1 + np.exp(-1)))
    for error in batch.outcomes()[1:3]:
        assert isinstance(error, ValueError)
        assert "prompt 'x' gives scores that are not finite" in str(error)
    assert isinstance(wrong_C, ValueError)
    with pytest.raises(ValueError, match="line 1 of a file: prompt 'x' gives scores that are not"):
        batch.answers('line {} of a file'.format)


def test_outcomes_are_the_answers_where_nothing_is_wrong():
    rows = [make_row(labels=None, max_tokens=count) for count in (2, 4)]
    batch = running(rows, ([1, 0], [[5, 6, 1, 0], [7, 8, 9, 1]]))
    assert batch.answers(str) == batch.outcomes() == [Prediction('[7, 8]'), Prediction('[5, 6]')]


@pytest.mark.parametrize('settings', [SamplingSettings(min_tokens=5), BeamSettings(min_tokens=5)])
def test_limits_that_no_output_can_keep_are_refused_when_the_row_is_made(settings):
    with pytest.raises(ValueError, match='min_tokens=5; expected a number from 0 to max_tokens=2'):
        make_row(labels=None, max_tokens=2, options=settings)
    assert make_row(labels=None, max_tokens=5, options=settings).options is settings


def test_a_prediction_says_what_it_holds():
    assert Prediction('yes').to_dict() == {'prediction': 'yes'}
    assert Prediction('no', {'no': -1.0}, {'no': 1.0}).to_dict() == {
        'prediction': 'no', 'scores': {'no': -1.0}, 'probabilities': {'no': 1.0}}
