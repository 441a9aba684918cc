"""Devices and processes by the number: the same curve, and none is lost without a word."""

import functools
import json
import signal
import subprocess

import jax
import numpy as np
import pytest

from jax_prompt.prompts.file import load_prompt
from tests.training.processes import (
    command,
    finish,
    free_port,
    start,
    start_together,
    wait_for_checkpoint,
)

pytestmark = pytest.mark.slow

QUICK = {'steps': 20, 'batch_size': 16, 'evaluate_every': 10, 'log_every': 1, 'max_buckets': 1}
# Long enough that a signal sent at the first checkpoint arrives while it trains.
LONG = QUICK | {'steps': 160, 'evaluate_every': 20, 'log_every': 7, 'dropout_rate': 0.1}

#: Sums over devices are added in another order; twenty updates at a high rate carry that on.
TOLERANCE = 1e-4


def curve(run):
    """Return the losses of a run, step by step."""
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    return np.array([line['value'] for line in lines
                     if line['split'] == 'train' and line['name'] == 'loss'])


def assert_same_run(one, other, tolerance=TOLERANCE):
    assert len(curve(one)) == QUICK['steps']
    np.testing.assert_allclose(curve(one), curve(other), rtol=tolerance)
    prompts = [load_prompt(run / 'prompt.safetensors').prompt.rows for run in (one, other)]
    np.testing.assert_allclose(*prompts, atol=tolerance * np.abs(prompts[0]).max())


def assert_identical(one, other):
    for name in ('prompt.safetensors', 'metrics.jsonl'):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def alone(world, cache, tmp_path_factory):
    """A run on one device."""
    run = tmp_path_factory.mktemp('alone') / 'run'
    assert finish(start(command(world, run, **QUICK), cache))[0][0] == 0
    return run


@pytest.mark.parametrize(('mesh', 'more'), [
    ('data:8', {}), ('data:4,model:2', {'microbatches': 2}),
    ('data:4,model:2', {'shard_weights_over_data': True})])
def test_eight_devices_train_as_one(world, cache, alone, tmp_path, mesh, more):
    sharded = more.pop('shard_weights_over_data', False)
    arguments = [*command(world, tmp_path / 'run', **QUICK, **more), f'--mesh={mesh}',
                 f'--gin.mesh.shard_weights_over_data={sharded}']
    (code, errors), = finish(start(arguments, cache, devices=8))
    assert code == 0, errors
    assert_same_run(alone, tmp_path / 'run')


def test_two_processes_train_as_one(world, cache, alone, tmp_path):
    arguments = [*command(world, tmp_path / 'run', **QUICK), '--mesh=data:4,model:2']
    for code, errors in finish(*start_together(arguments, cache, devices=4)):
        assert code == 0, errors
    assert_same_run(alone, tmp_path / 'run')


def test_added_rows_noise_averages_and_a_chosen_start_are_those_of_one_process(world, cache,
                                                                               tmp_path):
    runs = {name: [*command(world, tmp_path / name, **QUICK, noise=0.05, adversarial=0.01,
                            prompt_dropout=0.1, average=0.9),
                   '--gin.prompt.method=@dept()', '--gin.dept.rank=2',
                   '--gin.prompt.initializer=@best_of()', '--gin.best_of.draws=3',
                   '--gin.best_of.starts=[@class_labels()]', '--gin.adafactor.learning_rate=0.05']
            for name in ('one', 'two')}
    assert finish(start(runs['one'], cache))[0][0] == 0
    for code, errors in finish(*start_together([*runs['two'], '--mesh=data:4,model:2'], cache,
                                                devices=4)):
        assert code == 0, errors
    assert_same_run(tmp_path / 'one', tmp_path / 'two')


def test_prefixes_on_two_processes_are_those_of_one(world, cache, tmp_path):
    runs = {name: [*command(world, tmp_path / name, **QUICK),
                   '--gin.prompt.method=@prefix_tuning()', '--gin.prefix_tuning.length=3',
                   '--gin.prefix_tuning.width=4', '--gin.train.optimizer=@adamw()',
                   '--gin.adamw.learning_rate=0.01'] for name in ('one', 'two')}
    ends = finish(start(runs['one'], cache), *start_together(
        [*runs['two'], '--mesh=data:2,model:2'], cache, devices=2))
    assert [code for code, _ in ends] == [0] * 3, ends
    assert_same_run(tmp_path / 'one', tmp_path / 'two')
    one, two = (load_prompt(tmp_path / name / 'prompt.safetensors').prompt.prefix for name in runs)
    assert set(one) == {'encoder', 'decoder', 'cross'}
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), one, two)


@pytest.mark.parametrize('method', ['direct', 'mpt'])
def test_prompts_of_one_run_train_on_many_devices_and_processes_as_on_one(world, cache, tmp_path,
                                                                        method):
    arguments = {name: [*command(world, tmp_path / name, **QUICK), '--ensemble=2',
                        f'--gin.prompt.method=@{method}()'] for name in ('one', 'eight', 'two')}
    ends = finish(start(arguments['one'], cache),
                  start([*arguments['eight'], '--mesh=data:8'], cache, devices=8),
                  *start_together(arguments['two'], cache, devices=1))
    assert [code for code, _ in ends] == [0] * 4, ends
    for other in ('eight', 'two'):
        np.testing.assert_allclose(curve(tmp_path / 'one'), curve(tmp_path / other), rtol=TOLERANCE)
        for name in ('reviews-1', 'reviews-2'):
            prompts = [load_prompt(tmp_path / run / f'{name}.safetensors').prompt.rows
                       for run in ('one', other)]
            np.testing.assert_allclose(*prompts, atol=TOLERANCE * np.abs(prompts[0]).max())


@pytest.fixture(scope='module')
def together(world, cache, tmp_path_factory):
    """A run of two processes that nobody disturbs."""
    run = tmp_path_factory.mktemp('together') / 'run'
    for code, errors in finish(*start_together(command(world, run, **LONG), cache, devices=1)):
        assert code == 0, errors
    return run


@pytest.mark.parametrize('victim', [0, 1])
def test_a_process_is_killed_and_both_are_started_again(world, cache, together, tmp_path, victim):
    run = tmp_path / 'run'
    arguments = command(world, run, **LONG)
    processes = start_together(arguments, cache, devices=1)
    wait_for_checkpoint(run, 40, processes[0])
    processes[victim].kill()
    ends = finish(*processes)
    assert ends[victim][0] == -signal.SIGKILL
    code, errors = ends[1 - victim]
    # The collectives or the coordination service notice, whichever is first.
    assert code not in (0, 2), errors
    assert 'another host of the job was lost' in errors or 'another task died' in errors, errors
    for code, errors in finish(*start_together(arguments, cache, devices=1)):
        assert code == 0, errors
    assert_identical(run, together)


def test_a_notice_to_one_process_stops_both_with_a_checkpoint(world, cache, together, tmp_path):
    run = tmp_path / 'run'
    arguments = command(world, run, **LONG)
    processes = start_together(arguments, cache, devices=1)
    wait_for_checkpoint(run, 40, processes[0])
    processes[1].send_signal(signal.SIGTERM)
    for code, errors in finish(*processes):
        assert code == 143 and 'told to stop; saved at step' in errors, errors
    for code, errors in finish(*start_together(arguments, cache, devices=1)):
        assert code == 0, errors
    assert_identical(run, together)


def test_sigterm_saves_and_the_same_command_goes_on(world, cache, tmp_path):
    whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
    assert finish(start(command(world, whole, **LONG), cache))[0][0] == 0
    arguments, stops = command(world, stopped, **LONG), []
    for after in (0, 60):
        process = start(arguments, cache)
        wait_for_checkpoint(stopped, after, process)
        process.send_signal(signal.SIGTERM)
        (code, errors), = finish(process)
        assert code == 143, errors
        stops.append(int(errors.split('saved at step ')[1].split(';')[0]))
    assert any(step % LONG['log_every'] for step in stops)
    assert finish(start(arguments, cache))[0][0] == 0
    assert_identical(whole, stopped)


def test_hosts_that_mean_different_runs_are_told_apart(world, cache, tmp_path):
    arguments = [command(world, tmp_path / 'run', **QUICK | {'seed': seed}) for seed in (0, 1)]
    port = free_port()
    told = [errors for _, errors in finish(*(
        start(arguments[index], cache, 1, (port, 2, index)) for index in range(2)))]
    assert any('the first host holds a run of another configuration' in errors
               and 'settings.seed is 0 there and 1 here' in errors for errors in told), told


def test_hosts_that_are_named_by_halves_are_refused(world, cache, tmp_path):
    for flag in ('--num_processes=2', '--coordinator=nowhere'):
        process = subprocess.Popen([*command(world, tmp_path / 'run', **QUICK), flag],
                                   stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        (code, errors), = finish(process)
        assert code == 2 and 'name all three, or none on a cluster' in errors
