"""How texts are answered: calibrated labels, beams, and samples with a seed for each line."""

import contextlib
import json

import numpy as np
import pytest

from jax_prompt.inference.answering import AnswerSettings
from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.beam import BeamSettings
from jax_prompt.inference.calibration import (
    CONTENT_FREE,
    Calibration,
    calibrated_probabilities,
    content_free_log_probabilities,
    contextual_calibration,
)
from jax_prompt.inference.decodings import beam_search
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.sampling import SamplingSettings
from jax_prompt.predict.bulk import BulkSettings, LineSettings, answer_lines, predict_file
from jax_prompt.predict.inputs import open_lines
from jax_prompt.predict.parts import Parts
from jax_prompt.prompts.layout import Layout
from tests.inference.many_prompts import open_tiny, prompt_file, prompts

SHAPES = Shapes(batch_sizes=(8,), lengths=(48,), labels=((8, 4),), targets=(8,), shared_labels=1)


@pytest.fixture(scope='module')
def engine(world):
    opened = open_tiny(world / 'model')
    engine = Engine(opened, SHAPES, capacity=256, decodings={'beam': beam_search(3)})
    for name, file in prompts(opened).items():
        engine.add(name, file)
    return engine


def answers(engine, name, texts, **settings):
    """Answer lines of text with one prompt."""
    bulk = BulkSettings(name, LineSettings('lines'), AnswerSettings(**settings))
    found = list(answer_lines(engine, [f'{text}\n'.encode() for text in texts], bulk))
    return [line for one in found for line in one.text.splitlines()]


def scores(engine, name, inputs):
    found = engine.run(engine.rows_of(engine.prompt(name), inputs))
    return np.array([list(one.scores.values()) for one in found])


@pytest.mark.parametrize('name', ['mood', 'words', 'pair'])
def test_calibration_takes_away_what_labels_score_without_content(engine, name):
    prompt = engine.prompt(name)
    inputs = [dict.fromkeys(prompt.task.columns, text) for text in ('the film', 'a warm plot')]
    empty = [dict.fromkeys(prompt.task.columns, text) for text in CONTENT_FREE]
    options = contextual_calibration(engine, prompt, prompt.labels, 2.0)
    found = engine.run(engine.rows_of(prompt, inputs, options=options))
    expected_BC = calibrated_probabilities(
        scores(engine, name, inputs), content_free_log_probabilities(scores(engine, name, empty)),
        2.0)
    odds_BC = np.array([list(one.probabilities.values()) for one in found])
    np.testing.assert_allclose(odds_BC, expected_BC, atol=1e-5)
    words = prompt.labels.words
    assert [one.text for one in found] == [words[best] for best in odds_BC.argmax(axis=1)]
    # The scores stay what the model gave.
    np.testing.assert_allclose([list(one.scores.values()) for one in found],
                               scores(engine, name, inputs), rtol=1e-5)


def test_without_content_all_labels_are_equally_likely(engine):
    prompt = engine.prompt('mood')
    options = contextual_calibration(engine, prompt, prompt.labels)
    found = engine.run(engine.rows_of(prompt, CONTENT_FREE, options=options))
    odds_BC = np.array([list(one.probabilities.values()) for one in found])
    plain_BC = np.array([list(one.probabilities.values()) for one in
                         engine.run(engine.rows_of(prompt, CONTENT_FREE))])
    # Of the three texts' mean; of the plain ones it is far from it.
    assert abs(odds_BC.mean(axis=0)[0] - 0.5) < 0.1 < abs(plain_BC.mean(axis=0)[0] - 0.5)


def test_what_is_measured_once_is_remembered_for_prompt_and_labels(engine, monkeypatch):
    prompt = engine.prompt('mood')
    first = contextual_calibration(engine, prompt, prompt.labels)
    monkeypatch.setattr(engine, 'run', lambda rows: pytest.fail('asked once more'))
    again = contextual_calibration(engine, prompt, prompt.labels, 3.0)
    assert again.content_free_C is first.content_free_C and again.temperature == 3.0
    with pytest.raises(BaseException, match='asked once more'):
        contextual_calibration(engine, prompt, engine.label_set(['film', 'hero']))


def test_another_prompt_of_the_same_name_is_measured_anew(world):
    opened = open_tiny(world / 'model')
    engine, task = Engine(opened, SHAPES, capacity=64), dict(labels=['great', 'dull'])
    found = []
    for seed in (1, 2):
        engine.add('x', prompt_file(opened, 3, Layout(), seed, **task))
        prompt = engine.prompt('x')
        found.append(contextual_calibration(engine, prompt, prompt.labels).content_free_C)
    assert abs(found[0] - found[1]).max() > 1e-3


def test_a_place_that_the_input_marks_cannot_be_calibrated(world):
    opened = open_tiny(world / 'model')
    engine = Engine(opened, SHAPES, capacity=64)
    engine.add('x', prompt_file(opened, 3, Layout('marker'), labels=['great', 'dull']))
    prompt = engine.prompt('x')
    with pytest.raises(ValueError, match='the input without content: .*extra_id_99'):
        contextual_calibration(engine, prompt, prompt.labels)


def test_bulk_prediction_calibrates_and_divides_by_the_temperature(engine, tmp_path):
    inputs = tmp_path / 'in.jsonl'
    inputs.write_text(''.join(json.dumps({'text': text}) + '\n' for text in ('the film', 'hero')))
    for calibrate in (False, True):
        settings = BulkSettings('mood', answers=AnswerSettings(
            calibrate=calibrate, label_temperature=2.5))
        predict_file(engine, inputs, tmp_path / f'{calibrate}.jsonl', settings)
        prompt = engine.prompt('mood')
        options = contextual_calibration(engine, prompt, prompt.labels, 2.5) if calibrate else (
            Calibration(None, 2.5))
        expected = engine.run(engine.rows_of(prompt, ['the film', 'hero'], options=options))
        found = [json.loads(line) for line in open(tmp_path / f'{calibrate}.jsonl')]
        assert [one['probabilities'] for one in found] == [
            pytest.approx(one.probabilities, abs=1e-6) for one in expected]


def test_beams_answer_as_the_search_itself(engine):
    texts, prompt = ['the film', 'a hero and a plot', 'warm'], engine.prompt('title')
    expected = engine.run(engine.rows_of(prompt, texts, decoding='beam',
                                         options=BeamSettings(0.3)))
    found = answers(engine, 'title', texts, num_beams=3, length_penalty=0.3)
    assert found == [one.text for one in expected]
    settings = AnswerSettings(num_beams=3, length_penalty=0.3, max_tokens=5)
    row, = settings.rows(engine, prompt, ['film'], ['line 1'], [(0, 1)])
    assert (row.decoding, row.options, row.max_tokens) == ('beam', BeamSettings(0.3), 5)
    assert AnswerSettings(num_beams=3).decodings.keys() == {'beam'}
    assert not AnswerSettings().decodings


def test_each_line_draws_from_its_own_seed_and_always_the_same(engine):
    texts = ['the film'] * 12
    found = answers(engine, 'title', texts, temperature=30.0, seed=4)
    assert len(set(found)) > 6
    assert found == answers(engine, 'title', texts, temperature=30.0, seed=4)
    assert found != answers(engine, 'title', texts, temperature=30.0, seed=5)
    # As many as fit into a window make no difference.
    bulk = BulkSettings('title', LineSettings('lines', window=5),
                        AnswerSettings(temperature=30.0, seed=4))
    lines = [f'{text}\n'.encode() for text in texts]
    windows = ''.join(one.text for one in answer_lines(engine, lines, bulk))
    assert windows.splitlines() == found


def test_a_line_draws_the_same_in_a_stream_and_in_a_file_however_many_hosts_share_it(
        engine, tmp_path, monkeypatch):
    inputs, output = tmp_path / 'in.txt', tmp_path / 'out.txt'
    inputs.write_bytes('\ufeffthe film\r\n'.encode() + 'thé film\n'.encode() * 15 + b'the film')
    bulk = BulkSettings('title', LineSettings('lines', window=6), AnswerSettings(temperature=30.0))
    predict_file(engine, inputs, output, bulk)
    drawn = output.read_text()
    assert len(set(drawn.splitlines())) > 8
    with open_lines(str(inputs)) as lines:
        assert ''.join(one.text for one in answer_lines(engine, lines, bulk)) == drawn
    output.unlink()
    missing = Parts.missing
    for index in (2, 0, 1):  # one after the other, they find that the others are not done
        monkeypatch.setattr(Parts, 'missing', lambda self, windows, index=index: missing(
            self, windows, (index, 3)))
        with contextlib.nullcontext() if index == 1 else pytest.raises(ValueError, match='again'):
            predict_file(engine, inputs, output, bulk)
    assert output.read_text() == drawn


def test_filters_and_lengths_reach_the_sampler(engine):
    texts = ['the film', 'warm hero']
    assert answers(engine, 'title', texts, temperature=30.0, top_k=1) == answers(
        engine, 'title', texts)
    assert answers(engine, 'title', texts, temperature=30.0, top_p=0.0) == answers(
        engine, 'title', texts)
    prompt = engine.prompt('title')
    expected = engine.run(engine.rows_of(prompt, texts, max_tokens=2, options=SamplingSettings()))
    assert answers(engine, 'title', texts, max_tokens=2) == [one.text for one in expected]


@pytest.mark.parametrize(('settings', 'message'), [
    (dict(num_beams=0), 'num_beams=0; expected 1'),
    (dict(num_beams=2, temperature=0.5), 'num_beams=2 with temperature=0.5'),
    (dict(label_temperature=0.0), 'temperature=0.0 of labels; expected a number above 0'),
    (dict(temperature=-1.0), 'temperature=-1.0; expected a number from 0'),
    (dict(top_p=2.0), 'top_p=2.0'), (dict(seed=-1), 'seed=-1'),
    (dict(length_penalty=11.0), 'length_penalty=11.0'), (dict(max_tokens=0), 'max_tokens=0'),
])
def test_settings_outside_their_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AnswerSettings(**settings)


@pytest.mark.parametrize(('has_labels', 'settings', 'message'), [
    (True, dict(num_beams=2), 'num_beams=2 would do nothing: the task has labels'),
    (True, dict(temperature=0.5), 'temperature=0.5 would do nothing: the task has labels'),
    (True, dict(max_tokens=4), 'max_tokens=4 would do nothing: the task has labels'),
    (True, dict(top_k=4), 'top_k=4 would do nothing: the task has labels'),
    (False, dict(calibrate=True), 'calibrate=True would do nothing: the task is free text'),
    (False, dict(label_temperature=2.0), 'label_temperature=2.0 would do nothing'),
    (False, dict(top_p=0.5), 'top_p=0.5 would do nothing: nothing is drawn unless temperature'),
    (None, dict(top_k=4, seed=1), 'top_k=4 would do nothing: nothing is drawn'),
    (None, dict(length_penalty=0.5), 'length_penalty=0.5 would do nothing: .* unless num_beams'),
])
def test_settings_that_would_do_nothing_are_told(has_labels, settings, message):
    with pytest.raises(ValueError, match=message):
        AnswerSettings(**settings).check_effects(has_labels)


@pytest.mark.parametrize(('has_labels', 'settings'), [
    (True, dict(calibrate=True, label_temperature=2.0)), (True, dict(seed=3)), (False, dict()),
    (False, dict(temperature=0.5, top_k=4, top_p=0.5, seed=3, max_tokens=4)),
    (False, dict(num_beams=2, length_penalty=0.5)),
    (None, dict(calibrate=True, num_beams=2, max_tokens=4)),
])
def test_settings_that_do_something_pass(has_labels, settings):
    AnswerSettings(**settings).check_effects(has_labels)
