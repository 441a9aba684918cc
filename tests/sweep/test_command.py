"""`jax-prompt sweep`: whole sweeps in the tiny world, killed and shared, and what it refuses."""

import json
import pathlib
import signal
import sqlite3
import sys
import time

import numpy as np
import pytest

from jax_prompt import cli
from jax_prompt.prompts.file import load_prompt
from jax_prompt.training.run import train
from tests.training.processes import finish, start


def arguments(world, output, space, *more):
    return ['sweep', f'--model={world / "model"}', f'--task={world / "reviews.csv"}',
            f'--output={output}', '--gin.prompt.rows=5', f'--gin.sweep.space={space}',
            '--gin.file_task.inputs_template=review : {text}',
            '--gin.file_task.labels={"0": "negative", "1": "positive"}',
            '--gin.settings.steps=4', '--gin.settings.batch_size=8',
            '--gin.settings.evaluate_every=2', '--gin.settings.max_buckets=1', *more]


def best_is_what_train_gives(folder, tmp_path):
    """Train with best.gin; its prompt is that of the best trial."""
    best = folder / 'best.gin'
    number = int(best.read_text().splitlines()[0].split('trial ')[1].rstrip('.'))
    assert cli.main(['train', f'--gin_file={best}', f'--output={tmp_path / "again"}',
                     '--gin.train.quiet=True']) == 0
    again, trial = (load_prompt(path / 'prompt.safetensors') for path in (
        tmp_path / 'again', folder / 'trials' / f'{number:04d}'))
    np.testing.assert_array_equal(again.prompt.rows, trial.prompt.rows)
    assert again.metadata.metrics == trial.metadata.metrics
    return trial.metadata.metrics


def test_trials_share_programs_and_the_best_is_what_train_gives(world, tmp_path, compilations,
                                                                monkeypatch, capsys):
    counted = []

    def counting(*given):
        before = len(compilations)
        outcome = train(*given)
        counted.append(len(compilations) - before)
        return outcome

    monkeypatch.setattr('jax_prompt.sweep.run.train', counting)
    monkeypatch.setattr('jax_prompt.training.run.draw_curves', lambda *_: None)
    monkeypatch.setattr('jax_prompt.sweep.report._draw_parallel', lambda *_: b'')
    space = "{'adafactor.learning_rate': [0.1, 0.4]}"
    sweep = tmp_path / 'sweep'
    assert cli.main(arguments(world, sweep, space, '--gin.study.sampler=grid')) == 0
    assert counted[0] > 0 and counted[1:] == [0]
    metrics = best_is_what_train_gives(sweep, tmp_path)
    printed = capsys.readouterr().out
    assert f'accuracy {metrics["accuracy"]:.4f} on validation' in printed
    assert f'jax-prompt train --gin_file={sweep / "best.gin"}' in printed


@pytest.mark.slow
def test_methods_starts_and_layouts_may_vary_and_longer_prompts_start_from_shorter(world, tmp_path):
    space = ("{'prompt.rows': [3, 5], 'prompt.method': [None, '@dpt()'], "
             "'prompt.initializer': ['@uniform()', '@class_labels()'], 'dpt.rank': [2], "
             "'layout.placement': ['before', 'around'], 'train.optimizer': ['@adamw()']}")
    sweep = tmp_path / 'sweep'
    assert cli.main(arguments(world, sweep, space, '--trials=7', '--gin.study.warm_start=True',
                              '--gin.settings.steps=2')) == 0
    rows = (sweep / 'trials.csv').read_text().splitlines()
    assert len(rows) == 8 and 'complete' in rows[1] and 'fail' not in ''.join(rows)
    best_is_what_train_gives(sweep, tmp_path)


@pytest.mark.slow
def test_killed_twice_and_worked_on_by_two_no_trial_is_lost_or_run_twice(world, tmp_path):
    sweep = tmp_path / 'sweep'
    space = "{'adafactor.learning_rate': {'low': 0.05, 'high': 1.0, 'log': True}}"
    command = [sys.executable, '-m', 'jax_prompt.cli', *arguments(
        world, sweep, space, '--trials=6', '--gin.settings.steps=400',
        '--gin.settings.evaluate_every=100')]

    def checkpoints():
        return len(list(sweep.glob('trials/*/checkpoints/[1-9]*')))

    processes = [start(command, tmp_path / 'cache') for _ in range(2)]
    for victim in (0, 1):
        seen = checkpoints()
        while checkpoints() < seen + 2:  # two are saved: it is amid a trial
            assert processes[victim].poll() is None, finish(processes[victim])
            time.sleep(0.05)
        processes[victim].send_signal(signal.SIGKILL)
        processes[victim].wait()
        processes[victim] = start(command, tmp_path / 'cache')
    assert [code for code, _ in finish(*processes)] == [0, 0]
    with sqlite3.connect(sweep / 'study.db') as study:
        states = [state for state, in study.execute('select state from trials order by number')]
    assert len(states) == 6 and set(states) <= {'COMPLETE', 'PRUNED'}
    assert [path.name for path in sorted(sweep.glob('trials/*'))] == [
        f'{number:04d}' for number in range(6)]
    for path in sweep.glob('trials/*/metrics.jsonl'):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        steps = [line['step'] for line in lines
                 if (line['split'], line['name']) == ('train', 'loss')]
        assert steps == sorted(set(steps))  # each of them once, whatever was killed
    best_is_what_train_gives(sweep, tmp_path)


@pytest.mark.parametrize('space, told', [
    (None, 'no search space given; name one with --gin.sweep.space='),
    ("{'prompt.length': [1]}", "'length'"),
    ("{'promt.rows': [1]}", 'promt'),
    ("{'prompt.rows': ['long']}", "prompt.rows is 'long'; expected a whole number (in the search"),
    ("{'prompt.rows': {'low': 5, 'high': 5}}", 'the range of prompt.rows is empty'),
    ("{'residual.width': [5]}", 'residual.width in the search space has no effect'),
    ("{'model.dtype': ['bfloat16']}", 'model.dtype in the search space has no effect'),
    ("{'prompt.method': ['@residul()']}", 'residul'),
    ("{'STEPS': [5]}", 'STEPS'),
    ('5', 'sweep.space is 5; expected'),
], ids=range(10))
def test_a_space_that_gin_cannot_use_is_told_in_one_line(world, tmp_path, capsys, space, told):
    given = arguments(world, tmp_path / 'sweep', space)
    if space is None:
        given = [one for one in given if not one.startswith('--gin.sweep.space')]
    capsys.readouterr()
    assert cli.main(given) == 2
    printed = capsys.readouterr()
    assert told in printed.err and len(printed.err.strip().splitlines()) == 1, printed.err
    assert not pathlib.Path(tmp_path / 'sweep').exists()
