"""Comparisons of tiny trainings: shared programs, no leak, and kills that change nothing."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import pytest

from jax_prompt.comparison import table
from jax_prompt.comparison.clock import Clock
from jax_prompt.comparison.contender import Fitted, Plain
from jax_prompt.comparison.records import ComparisonFolder
from jax_prompt.comparison.run import Comparison, ComparisonSettings, run_comparison
from jax_prompt.comparison.tuning import Tuning, _Curve
from jax_prompt.models.open import open_model
from jax_prompt.prompts.prompt import no_prompt
from jax_prompt.training.settings import PromptSettings, TrainSettings

MARKER = 'filler7'


@pytest.fixture(scope='module')
def model(world):
    return open_model(str(world / 'model'))


@dataclasses.dataclass(frozen=True)
class Spy:
    """A contender that keeps what it is given."""

    trials: list
    name: str = 'spy'
    seeded: bool = True
    sized: bool = True
    error: str = ''

    def config(self):
        return {'kind': self.name}

    def check(self, task):
        pass

    def fit(self, trial):
        self.trials.append(trial)
        if self.error:
            raise ValueError(self.error)
        return Fitted((no_prompt(trial.opened.model.d_model),))


def marked(task):
    """Return the task with a word in each text of the test that no other has."""
    def test():
        return [dataclasses.replace(row, columns=row.columns | {
            'text': f'{MARKER} {row.columns["text"]}'}) for row in task.rows('test')]

    return dataclasses.replace(task, splits={**task.splits, 'test': test})


def test_nothing_of_the_test_reaches_a_contender(model, task, tmp_path):
    trials, folder = [], ComparisonFolder(tmp_path / 'out')
    comparison = Comparison((marked(task),), (Spy(trials),), ComparisonSettings((0, 1), (8, None)))
    run_comparison(model, comparison, folder)
    assert len(trials) == 4
    for trial in trials:
        texts = [trial.task.render(row) for split in trial.task.splits
                 for row in trial.task.rows(split)]
        assert set(trial.task.splits) == {'train', 'validation'} and texts
        assert not any(MARKER in text for text in texts)
        assert len(trial.task.rows('train')) in (8, 417)
    record = folder.record(next(comparison.cells()))
    assert len(record.answers) == len(task.rows('test'))


def test_a_comparison_keeps_the_dtype_that_was_measured_for_it(world, task, tmp_path, monkeypatch):
    def opened(faster):
        monkeypatch.setattr('jax_prompt.models.open.bfloat16_is_faster', lambda: faster)
        return open_model(str(world / 'model'), dtype='auto')

    trials, folder = [], ComparisonFolder(tmp_path / 'out')
    for seeds, faster in (((0,), True), ((0, 1), False)):
        run_comparison(opened(faster), Comparison((task,), (Spy(trials),),
                                                  ComparisonSettings(seeds)), folder)
    assert [trial.opened.model.factors for trial in trials] == ['bfloat16', 'bfloat16']


def test_what_is_done_is_not_done_again_and_what_fails_stops_nobody(model, task, tmp_path):
    good, bad, reports = [], [], []
    folder = ComparisonFolder(tmp_path / 'out')
    comparison = Comparison((task,), (Spy(bad, 'bad', error='no luck'), Spy(good), Plain()),
                            ComparisonSettings((3, 4)))
    for _ in range(2):
        with pytest.raises(ValueError, match=r'2 of 5 trials failed, the first one \(reviews, bad, '
                                             r'all examples, seed 3\): no luck; the same command'):
            run_comparison(model, comparison, folder, lambda: reports.append(
                [line.runs for line in table.groups_of(comparison, folder)[0].lines]))
    assert len(good) == 2 and len(bad) == 4
    assert reports[:2] == [[1, 1], [2, 1]]


def test_a_clock_leaves_compiling_out():
    import jax
    import jax.numpy as jnp

    with Clock() as clock:
        time.sleep(0.02)
        jax.jit(lambda x: jax.jit(jnp.tanh)(x) @ x.T + 3)(jnp.ones((7, 5))).block_until_ready()
    assert 0.02 <= clock.seconds < clock.wall


def test_seconds_of_a_training_go_on_where_a_kill_left_them(tmp_path):
    clock = types.SimpleNamespace(seconds=100.0)
    path = tmp_path / 'curve.json'

    def run(began, *notes):
        clock.seconds = began
        curve = _Curve(path, clock)
        for step, at in notes:
            clock.seconds = at
            assert curve.note(step, {'accuracy': step / 100})
        return [(one['step'], one['seconds']) for one in curve.points()]

    assert run(100.0, (0, 101.0), (10, 105.0), (20, 109.0)) == [(0, 1.0), (10, 5.0), (20, 9.0)]
    # Killed at step 20 before its checkpoint was there: steps 11 to 20 are done again.
    assert run(7.0, (20, 12.0), (30, 15.0))[1:] == [(10, 5.0), (20, 10.0), (30, 13.0)]


TRAINING = TrainSettings(steps=8, batch_size=8, evaluate_every=4, max_buckets=1,
                         evaluation_batch_size=32)


def test_training_takes_part(model, task, tmp_path):
    contender = Tuning('direct', PromptSettings(rows=3), settings=TRAINING)
    comparison = Comparison((task,), (contender,), ComparisonSettings((1,), (16,)))
    folder = ComparisonFolder(tmp_path / 'out')
    run_comparison(model, comparison, folder)
    one, = (folder.record(cell) for cell in comparison.cells())
    assert one.trained_numbers == 3 * 16 and one.stored_bytes > 0
    assert [point['examples'] for point in one.curve] == [0, 32, 64]
    assert one.validation == next(point for point in one.curve
                                  if point['examples'] == one.examples)['metrics']
    assert one.validated == 16 and one.seconds_an_answer > 0
    cell = next(comparison.cells())
    assert (folder.trial(cell) / 'run/prompt.safetensors').exists()
    assert not (folder.trial(cell) / 'run/checkpoints').exists()


GIN = '''
compare.contenders = [@plain(), @low_rank/tuning(), @ensemble/tuning(), @last_layers/tuning()]
ensemble/prompt.ensemble = 2
prompt.rows = 3
settings.steps = 10
settings.batch_size = 8
settings.evaluate_every = 2
settings.max_buckets = 1
low_rank/tuning.recipe = 'methods/dpt.gin'
low_rank/dpt.rank = 2
low_rank/STEPS = 10
low_rank/warmup_schedule.warmup_steps = 2
low_rank/settings.batch_size = 8
low_rank/prompt.rows = 3
last_layers/tuning.recipe = 'methods/last_layers.gin'
last_layers/model_tuning.layers = 1
comparison.seeds = (3,)
comparison.sizes = (24,)
file_task.inputs_template = 'review : {text}'
file_task.labels = {'0': 'negative', '1': 'positive'}
'''


def kept(output):
    """Return the table without what no two runs have alike."""
    groups = json.loads((output / 'table.json').read_text())
    return [{**group, 'lines': [{name: value for name, value in line.items()
                                 if 'seconds' not in name} for line in group['lines']]}
            for group in groups]


@pytest.mark.slow
def test_a_comparison_that_is_killed_twice_ends_with_the_same_table(world, tmp_path):
    (tmp_path / 'compare.gin').write_text(GIN)
    cache = {'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'xla'),
             'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1'}

    def start(output):
        return subprocess.Popen(
            [sys.executable, '-m', 'jax_prompt', 'compare', f'--gin_file={tmp_path}/compare.gin',
             f'--model={world / "model"}', f'--task={world / "reviews.csv"}', f'--output={output}'],
            env=os.environ | cache, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def curves(output):
        return [*pathlib.Path(output).glob('runs/*/*/*/curve.json')]

    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    process = start(whole)
    assert process.wait() == 0, process.stdout.read()
    for count in (1, 2):  # in the middle of the first training, and of a later one
        process = start(killed)
        while process.poll() is None and not (
                len(curves(killed)) == count and len(json.loads(max(
                    curves(killed), key=lambda path: path.stat().st_mtime_ns).read_text())) > 2):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert len([*killed.glob('runs/*/*/*/record.json')]) <= count
    process = start(killed)
    assert process.wait() == 0, process.stdout.read()
    assert kept(killed) == kept(whole)
    assert (killed / 'comparison.html').exists()
    trained = [line['trained_numbers'] for line in kept(whole)[0]['lines']]
    assert trained[:3] == [0, 3 * 2 + 2 * 16, 2 * 3 * 16] and trained[3] > 1000
