"""Weights trained by any number of devices and processes: the same model, each with its part."""

import json
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.training.processes import (
    command,
    finish,
    start,
    start_together,
    wait_for_checkpoint,
)

pytestmark = pytest.mark.slow

QUICK = {'steps': 12, 'batch_size': 16, 'evaluate_every': 6, 'log_every': 1, 'max_buckets': 1,
         'dropout_rate': 0.0}
#: Sums over devices are added in another order, and twelve updates carry that on.
TOLERANCE = 1e-4


#: Each process compiles for itself what gathers the parts of weights for a checkpoint.
PATIENCE = 900


def arguments(world, output, *more, **settings):
    """Return the command that trains all weights by Adafactor, its second moments factored."""
    return [*command(world, output, **QUICK | settings), '--gin_file=methods/model_tuning.gin',
            '--gin.prompt.rows=0', '--gin.adafactor.factored_from=8', *more]


def losses(run):
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    return np.array([line['value'] for line in lines
                     if line['split'] == 'train' and line['name'] == 'loss'])


def assert_same_run(one, other):
    np.testing.assert_allclose(losses(one), losses(other), rtol=TOLERANCE)
    ours, theirs = (load_file(run / 'model' / 'model.safetensors') for run in (one, other))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name],
                                   atol=TOLERANCE * np.abs(ours[name]).max(), err_msg=name)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='module')
def alone(world, cache, tmp_path_factory):
    """A run on one device."""
    run = tmp_path_factory.mktemp('alone') / 'run'
    (code, errors), = finish(start(arguments(world, run), cache))
    assert code == 0, errors
    assert len(losses(run)) == 12 and losses(run)[-1] < 0.8 * losses(run)[0]
    return run


@pytest.mark.parametrize('more', [
    ['--mesh=data:4,model:2'], ['--mesh=data:4,model:2', '--gin.mesh.shard_weights_over_data=True',
                               '--gin.settings.microbatches=2']], ids=['split', 'fully sharded'])
def test_eight_devices_train_as_one(world, cache, alone, tmp_path, more):
    (code, errors), = finish(start(arguments(world, tmp_path / 'run', *more), cache, devices=8))
    assert code == 0, errors
    assert_same_run(alone, tmp_path / 'run')


def test_two_processes_train_as_one_and_go_on_where_they_were_killed(world, cache, alone,
                                                                    tmp_path):
    """Each has a part of the weights, of which no process sees the others."""
    mesh = ['--mesh=data:2,model:2', '--gin.mesh.shard_weights_over_data=True']
    whole = arguments(world, tmp_path / 'whole', *mesh)
    for code, errors in finish(*start_together(whole, cache, devices=2), timeout=PATIENCE):
        assert code == 0, errors
    assert_same_run(alone, tmp_path / 'whole')
    words = arguments(world, tmp_path / 'parts', *mesh)
    processes = start_together(words, cache, devices=2)
    wait_for_checkpoint(tmp_path / 'parts', 6, processes[0], timeout=PATIENCE)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    finish(*processes)
    for code, errors in finish(*start_together(words, cache, devices=2), timeout=PATIENCE):
        assert code == 0, errors
    for name in ('metrics.jsonl', 'model/model.safetensors', 'model/jax_prompt.json'):
        assert (tmp_path / 'parts' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()
