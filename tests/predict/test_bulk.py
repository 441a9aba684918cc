"""Bulk prediction: order kept, tasks mixed, memory bounded, and a killed run goes on."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.inference.answering import AnswerSettings
from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.engine import Engine
from jax_prompt.predict import bulk
from jax_prompt.predict.bulk import BulkSettings, LineSettings, predict_file
from jax_prompt.progress import ProgressBar
from jax_prompt.prompts.prompt import Prompt
from tests.inference.many_prompts import open_tiny, prompts, requests

SHAPES = Shapes(batch_sizes=(8,), lengths=(48,), labels=((8, 4),), targets=(16,), shared_labels=1)
SETTINGS = BulkSettings(lines=LineSettings(prompt_column='task', window=10))
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def engine(world):
    opened = open_tiny(world / 'model')
    engine = Engine(opened, SHAPES, capacity=256)
    for name, file in prompts(opened).items():
        engine.add(name, file)
    return engine


def write_inputs(path, count, seed=0):
    """Write requests of all tasks, in no order."""
    with open(path, 'w', encoding='utf-8') as file:
        for number, (name, inputs) in enumerate(requests(count, seed)):
            fields = inputs if isinstance(inputs, dict) else {'text': inputs}
            file.write(json.dumps({'id': number, 'task': name, 'sign': 'ä', **fields}) + '\n')
    return path


def read(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text('utf-8').splitlines()]


class Watch(ProgressBar):
    """Keeps what a run tells, and stops it behind so many windows, as ctrl-C would."""

    def __init__(self, windows=99):
        super().__init__(0, quiet=True)
        self.left, self.told, self.said = windows, [], []

    def update(self, step, examples=0, **numbers):
        if examples:
            self.told.append((step, examples, numbers['lines']))
            if len(self.told) == self.left:
                raise KeyboardInterrupt

    def say(self, text):
        self.said.append(text)


def stop(engine, inputs, output, settings=SETTINGS, windows=2):
    """Answer so many windows."""
    with pytest.raises(KeyboardInterrupt):
        predict_file(engine, inputs, output, settings, Watch(windows))


def test_lines_of_many_tasks_are_answered_in_order_each_as_alone(engine, tmp_path):
    inputs = write_inputs(tmp_path / 'in.jsonl', 37)
    total, _ = predict_file(engine, inputs, tmp_path / 'out.jsonl', SETTINGS)
    found = read(tmp_path / 'out.jsonl')
    assert total == 37 and [record['id'] for record in found] == list(range(37))
    assert sorted(os.listdir(tmp_path)) == ['in.jsonl', 'out.jsonl']
    for asked, answered in zip(read(inputs), found, strict=True):
        assert {key: answered[key] for key in asked} == asked
        if asked['id'] % 3:
            continue
        alone = engine.run([engine.row(asked['task'], asked)])[0]
        assert answered['prediction'] == alone.text
        if alone.scores is not None:
            np.testing.assert_allclose(list(answered['scores'].values()),
                                       list(alone.scores.values()), rtol=1e-5, atol=1e-5)


def test_plain_lines_are_answered_by_lines(engine, tmp_path):
    (tmp_path / 'in.txt').write_text('\ufeffthe film was great\r\nthe plot\n\nlast', 'utf-8')
    settings = BulkSettings('mood', LineSettings('lines', window=3))
    predict_file(engine, tmp_path / 'in.txt', tmp_path / 'out.txt', settings)
    expected = engine.run(engine.rows([('mood', text) for text in (
        'the film was great', 'the plot', '', 'last')]))
    assert (tmp_path / 'out.txt').read_text().splitlines() == [one.text for one in expected]


def test_a_line_without_a_task_falls_to_the_default(engine, tmp_path):
    lines = [{'text': 'film', 'task': None}, {'text': 'film'}, {'text': 'film', 'task': 'mood'}]
    (tmp_path / 'in.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    settings = BulkSettings('mood', LineSettings(prompt_column='task'))
    predict_file(engine, tmp_path / 'in.jsonl', tmp_path / 'out.jsonl', settings)
    first, second, third = read(tmp_path / 'out.jsonl')
    assert first['scores'] == second['scores'] == third['scores']


def test_a_line_that_names_nothing_is_the_plain_models_and_a_blank_one_has_no_answer(engine,
                                                                                     tmp_path):
    (tmp_path / 'in.jsonl').write_text('{"text": "film", "task": null}\n\r\n'
                                       '{"text": "film", "task": ""}\n \n\n')
    settings = BulkSettings(lines=LineSettings(prompt_column='task', window=2))
    assert predict_file(engine, tmp_path / 'in.jsonl', tmp_path / 'out.jsonl', settings)[0] == 2
    plain, = engine.run([engine.row(None, 'film')])
    assert [one['prediction'] for one in read(tmp_path / 'out.jsonl')] == 2 * [plain.text]


def test_an_interrupted_run_goes_on_and_writes_the_same_bytes(engine, tmp_path):
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 47), tmp_path / 'out.jsonl'
    whole, watch = Watch(), Watch()
    counted = predict_file(engine, inputs, tmp_path / 'whole.jsonl', SETTINGS, whole)
    for _ in range(2):
        stop(engine, inputs, output)
        assert not output.exists()
    assert predict_file(engine, inputs, output, SETTINGS, watch) == counted
    assert watch.told == whole.told[4:] == [(inputs.stat().st_size, 7, 47)]
    assert watch.said == [f'{inputs}: an earlier run answered 4 windows of 10 lines; going on']
    assert whole.said == [] and [lines for _, _, lines in whole.told] == [10, 20, 30, 40, 47]
    assert output.read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def test_an_answer_takes_away_what_an_earlier_one_put_in(engine, tmp_path):
    old = {'prediction': 'old', 'scores': {'old': 1.0}, 'probabilities': {'old': 1.0}}
    (tmp_path / 'in.jsonl').write_text(json.dumps(old | {'text': 'film', 'id': 1}))
    predict_file(engine, tmp_path / 'in.jsonl', tmp_path / 'out.jsonl', BulkSettings('title'))
    answer, = read(tmp_path / 'out.jsonl')
    assert answer.keys() == {'text', 'id', 'prediction'} and answer['prediction'] != 'old'


def test_a_wrong_line_is_named_and_can_be_mended(engine, tmp_path):
    inputs = write_inputs(tmp_path / 'in.jsonl', 30)
    lines = inputs.read_text().splitlines()
    (tmp_path / 'bad.jsonl').write_text('\n'.join([*lines[:24], '{oops', *lines[25:]]) + '\n')
    with pytest.raises(ValueError, match=r'^line 25 of .*bad.jsonl is not JSON'):
        predict_file(engine, tmp_path / 'bad.jsonl', tmp_path / 'out.jsonl', SETTINGS)
    (tmp_path / 'bad.jsonl').write_text(inputs.read_text())
    watch = Watch()
    predict_file(engine, tmp_path / 'bad.jsonl', tmp_path / 'out.jsonl', SETTINGS, watch)
    assert len(watch.told) == 1  # twenty lines were answered before
    assert [record['id'] for record in read(tmp_path / 'out.jsonl')] == list(range(30))


@pytest.mark.parametrize('line, message', [
    ('{"text": "film", "task": "nobody"}', "line 2 of .*: no prompt 'nobody' in use"),
    ('{"text": "film", "tsak": "mood"}', "column 'task' is not there at line 2 of .*, which has "
                                         "'text', 'tsak'; expected the name of a prompt"),
    ('{"text": "film", "task": 3}', "column 'task' at line 2 of .* holds 3; expected the name"),
    ('{"texts": "film", "task": "mood"}', "column 'text' is not there at line 2 of"),
    ('[]', 'line 2 of .* is a JSON list'),
    ('{"text": "a <extra_id_99>", "task": "marked"}', 'line 2 of .*: marker .* stands 2 times'),
])
def test_what_is_wrong_is_named_by_its_line_and_leaves_nothing(engine, tmp_path, line, message):
    (tmp_path / 'in.jsonl').write_text('{"text": "film", "task": "mood"}\n' + line + '\n')
    with pytest.raises(ValueError, match=message):
        predict_file(engine, tmp_path / 'in.jsonl', tmp_path / 'out.jsonl', SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ['in.jsonl']


def test_bytes_that_are_no_text_are_refused(engine, tmp_path):
    (tmp_path / 'in.txt').write_bytes(b'film\nb\xe4d\n')
    with pytest.raises(ValueError, match='line 2 of .* is not UTF-8 text .* at byte 2 of the line'):
        predict_file(engine, tmp_path / 'in.txt', tmp_path / 'out.txt',
                     BulkSettings('mood', LineSettings('lines')))


def other(engine, opened=(), **changed):
    """Return an engine with something changed."""
    found = {name: getattr(engine, name) for name in (
        'shapes', 'prompts', 'prompt', 'rows_of', 'run')}
    return types.SimpleNamespace(**found | changed | {
        'opened': types.SimpleNamespace(**vars(engine.opened) | dict(opened))})


def other_engines(engine):
    """Return engines whose answers are not those of this one, by what differs."""
    model, name = engine.opened.model, 'mood'
    file = dataclasses.replace(engine.prompts[name].file,
                               prompt=Prompt(np.zeros((5, 16), np.float32)))
    return {
        'model': other(engine, {'fingerprint': 'others'}),
        'vocabulary': other(engine, {'vocabulary_fingerprint': 'others'}),
        'numerics.dtype': other(engine, {'model': dataclasses.replace(
            model, dtype=jnp.dtype('bfloat16'))}),
        'weight dtype': other(engine, {'frozen': jax.tree.map(
            lambda leaf: leaf.astype('bfloat16'), engine.opened.frozen)}),
        'numerics.scan_layers': other(engine, {'model': dataclasses.replace(
            model, scan_layers=not model.scan_layers)}),
        'prompt mood': other(engine, prompts=engine.prompts | {
            name: dataclasses.replace(engine.prompts[name], file=file)}),
        'batches': other(engine, shapes=dataclasses.replace(SHAPES, batch_sizes=(4,))),
    }


def test_another_runs_output_is_not_gone_on_with(engine, tmp_path, monkeypatch):
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 30), tmp_path / 'out.jsonl'
    stop(engine, inputs, output)
    begun = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
    another = 'out.jsonl.parts was left by another run: {}[a-z_.]* was .* and is now .*; give'
    for name, changed in other_engines(engine).items():
        with pytest.raises(ValueError, match=another.format(name)):
            predict_file(changed, inputs, output, SETTINGS)
    with pytest.raises(ValueError, match='another run: settings.lines.window was 10 and is now 9, '
                                         'settings.answers.seed was 0 and is now 3; give'):
        predict_file(engine, inputs, output, BulkSettings(
            None, LineSettings(prompt_column='task', window=9), AnswerSettings(seed=3)))
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=another.format('version')):
        patch.setattr(bulk, '__version__', '0.0.0')
        predict_file(engine, inputs, output, SETTINGS)
    assert begun == {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
    write_inputs(inputs, 30, seed=1)
    with pytest.raises(ValueError, match='^line 1 of .* one of the 9 behind it has changed since'):
        predict_file(engine, inputs, output, SETTINGS)


def test_prompts_may_come_and_go_between_two_processes(engine, tmp_path):
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 30), tmp_path / 'out.jsonl'
    counted = predict_file(engine, inputs, tmp_path / 'whole.jsonl', SETTINGS)
    stop(engine, inputs, output)
    used = {record['task'] for record in read(inputs)[20:]}
    come_and_gone = {'later': engine.prompts['mood']} | {
        name: engine.prompts[name] for name in used}
    stop(other(engine, prompts=come_and_gone), inputs, output, windows=1)
    assert predict_file(engine, inputs, output, SETTINGS) == counted
    assert output.read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()


def test_inputs_that_were_cut_are_counted_over_all_processes(engine, tmp_path):
    (tmp_path / 'in.txt').write_text('film film film film film\nfilm\n' * 6)
    settings = BulkSettings('short', LineSettings('lines', window=4))
    stop(engine, tmp_path / 'in.txt', tmp_path / 'out', settings, windows=1)
    assert predict_file(engine, tmp_path / 'in.txt', tmp_path / 'out', settings) == (12, 6)


@pytest.mark.parametrize('wrong, message', [
    (dict(format='csv'), "input format 'csv' is unknown; choose one of lines, jsonl"),
    (dict(format='lines', prompt_column='task'), 'only jsonl has columns'),
    (dict(window=0), 'window=0 for prediction; expected at least 1'),
])
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        LineSettings(**wrong)


PROCESS = """
    import pathlib, sys, time
    from jax_prompt.predict import bulk
    from jax_prompt.progress import ProgressBar
    from jax_prompt.inference.engine import Engine
    from tests.inference.many_prompts import open_tiny, prompts
    from tests.predict.test_bulk import SETTINGS, SHAPES

    world, inputs, output, slow = sys.argv[1:]
    opened = open_tiny(pathlib.Path(world) / 'model')
    engine = Engine(opened, SHAPES, capacity=256)
    for name, file in prompts(opened).items():
        engine.add(name, file)

    class Slow(ProgressBar):
        def update(self, step, examples=0, **numbers):
            if examples:
                print(numbers['lines'], flush=True)
                time.sleep(float(slow))

    bulk.predict_file(engine, inputs, output, SETTINGS, Slow(0, quiet=True))
"""


@pytest.mark.slow
def test_killed_again_and_again_the_bytes_are_those_of_a_run_that_was_not(world, tmp_path):
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 203), tmp_path / 'out.jsonl'
    environment = {**os.environ, 'PYTHONPATH': str(ROOT),
                   'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'xla'),
                   'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
    draw = np.random.default_rng(0)

    def start(to, slow):
        return subprocess.Popen(
            [sys.executable, '-c', textwrap.dedent(PROCESS), world, inputs, to, str(slow)],
            env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    whole = start(tmp_path / 'whole.jsonl', 0)
    assert len(whole.stdout.readlines()) == 21 and whole.wait() == 0
    answered = []
    for _ in range(5):
        with start(output, 0.05) as process:
            for _ in range(int(draw.integers(1, 4))):
                answered.append(int(process.stdout.readline()))
            time.sleep(float(draw.uniform(0, 0.1)))  # anywhere in the next window
            process.send_signal(signal.SIGKILL)
        assert not output.exists() and (tmp_path / 'out.jsonl.parts').exists()
    with start(output, 0) as process:
        answered += [int(line) for line in process.stdout]
    assert answered == sorted(set(answered)) and answered[-1] == 203
    assert output.read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()
    assert not list(tmp_path.glob('*out.jsonl.*'))
