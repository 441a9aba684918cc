"""Training states on disk: bit-identical, whole whenever the run was killed, damage reported."""

import gc
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_prompt.training import state as train_state
from jax_prompt.training.state import TrainStateStore
from jax_prompt.types import TrainState

# Reads that Orbax gives up complain once more when they are collected.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


def make_state(step, rows=3, optimizer=None):
    """A state whose every number follows from its step."""
    optimizer = optimizer or optax.chain(optax.clip(1.0), optax.adafactor(0.3))
    params = {'prompt': jax.random.normal(jax.random.key(step), (rows, 5))}
    opt_state = jax.tree.map(lambda leaf: jnp.asarray(leaf + step * 0.37, jnp.asarray(leaf).dtype),
                             optimizer.init(params))
    return TrainState(step=jnp.int32(step), params=params, opt_state=opt_state)


def assert_same_state(got, expected):
    """Two states have the same structure, dtypes and bits."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert isinstance(ours, np.ndarray) and ours.dtype == theirs.dtype
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def restore(folder, template=None):
    """Open a folder as a new process would, and restore its newest state."""
    store = TrainStateStore(folder)
    try:
        return store.restore_latest(template if template is not None else make_state(0))
    finally:
        store.close()


@pytest.fixture
def three_steps(tmp_path):
    """A folder with checkpoints of steps 10, 20 and 30."""
    store = TrainStateStore(tmp_path / 'checkpoints')
    for step in (10, 20, 30):
        store.save(make_state(step), {'step': step})
    store.close()
    return tmp_path / 'checkpoints'


@pytest.mark.parametrize('optimizer', [
    optax.sgd(0.1), optax.adamw(0.3), optax.adafactor(0.3),
    optax.adafactor(0.3, min_dim_size_to_factor=2),
    optax.inject_hyperparams(optax.adam)(learning_rate=0.1)],
    ids=['sgd', 'adamw', 'adafactor', 'factored', 'injected'])
def test_restored_states_are_bit_identical(optimizer, tmp_path):
    state = make_state(7, optimizer=optimizer)
    # Numbers that a detour through text or another precision would change.
    awkward = np.asarray([np.nan, -0.0, 1e-42, np.pi, np.finfo(np.float32).max], np.float32)
    state = state.replace(params={'prompt': state.params['prompt'].at[0].set(awkward)})
    host = {'best': 1 / 3, 'digest': 'äöü', 'history': [1, None, True], 'nested': {'a': -1e300}}
    store = TrainStateStore(tmp_path)
    assert store.restore_latest(state) is None
    store.save(state, host)
    store.close()
    got, got_host = restore(tmp_path, make_state(0, optimizer=optimizer))
    assert_same_state(got, state)
    assert got_host == host


def test_the_newest_is_restored_and_the_oldest_removed(tmp_path):
    store = TrainStateStore(tmp_path, keep=2)
    for step in (1, 5, 30, 200):
        store.save(make_state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['200', '30']
    state, host = store.restore_latest(make_state(0))
    assert int(state.step) == 200 and host == {}


def test_a_state_on_devices_is_restored_on_the_host(tmp_path):
    mesh = jax.make_mesh((1,), ('data',))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    store = TrainStateStore(tmp_path)
    empty = TrainState(jnp.int32(4), {'rows': jnp.zeros((0, 5)), 'more': jnp.ones(3)}, ())
    store.save(jax.device_put(empty, sharding))
    state, _ = store.restore_latest(jax.device_put(empty, sharding))
    assert_same_state(state, empty)


def test_saving_a_step_again(tmp_path):
    """The same state is left alone; another state of the same step replaces it."""
    store = TrainStateStore(tmp_path)
    store.save(make_state(3), {'best': 0.5})
    before = (tmp_path / '3').stat().st_ino
    store.save(make_state(3), {'best': 0.5})
    assert (tmp_path / '3').stat().st_ino == before
    store.save(make_state(3), {'best': 0.6})
    assert store.restore_latest(make_state(0))[1] == {'best': 0.6}


def every_damage(folder, ways):
    """Each of these ways to damage each file: cut, emptied, removed, (one byte) changed."""
    for path in sorted(p for p in pathlib.Path(folder).rglob('*') if p.is_file()):
        content = path.read_bytes()
        middle = len(content) // 2
        left = {'cut': content[:middle], 'emptied': b'', 'removed': None,
                'changed': content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:]}
        for way in ways:
            yield f'{path.name} {way}', path, left[way]


@pytest.mark.parametrize('ways', [
    ('cut', 'changed'), pytest.param(('emptied', 'removed'), marks=pytest.mark.slow)])
def test_any_damage_to_the_newest_is_harmless_or_reported(ways, three_steps, tmp_path, caplog):
    """Never a wrong number: the newest state bit for bit, or the one before it and a report."""
    shutil.copytree(three_steps, tmp_path / 'pristine')
    reported = []
    for name, path, left in list(every_damage(three_steps / '30', ways)):
        shutil.rmtree(three_steps)
        shutil.copytree(tmp_path / 'pristine', three_steps)
        path.unlink() if left is None else path.write_bytes(left)
        caplog.clear()
        state, host = restore(three_steps)
        assert_same_state(state, make_state(host['step']))
        warnings = [record.getMessage() for record in caplog.records
                    if record.name.startswith('jax_prompt')]
        if host['step'] == 30:
            assert not warnings
            continue
        assert host['step'] == 20, name
        assert len(warnings) == 1 and f'{three_steps}/30 is damaged (' in warnings[0]
        assert 'using the one of step 20' in warnings[0] and '\n' not in warnings[0]
        reported.append(name)
    assert any(name.startswith('metadata') for name in reported)
    assert len(reported) > 5
    gc.collect()


@pytest.mark.parametrize('mixture', ['arrays', 'host state'])
def test_a_mixture_of_two_checkpoints_is_noticed(mixture, three_steps, caplog):
    """Each file whole by itself, as a copy that was broken off leaves them."""
    if mixture == 'arrays':
        shutil.rmtree(three_steps / '30' / 'state')
        shutil.copytree(three_steps / '10' / 'state', three_steps / '30' / 'state')
    else:
        record = three_steps / '30' / 'host' / 'metadata'
        record.write_text(record.read_text().replace('"step": 30', '"step": 31'))
    assert int(restore(three_steps)[0].step) == 20
    assert '30 is damaged (its ' in caplog.text and 'match' in caplog.text


@pytest.mark.parametrize('notes', ['[1]', '{"commit_timestamp_nsecs": "x"}', '{"metrics": 1}', '['])
def test_what_orbax_notes_of_a_checkpoint_is_no_obstacle(notes, three_steps):
    (three_steps / '30' / '_CHECKPOINT_METADATA').write_text(notes)
    assert int(restore(three_steps)[0].step) == 30


def test_a_renamed_checkpoint_is_not_taken_for_another_step(three_steps, caplog):
    (three_steps / '20').rename(three_steps / '40')
    assert int(restore(three_steps)[0].step) == 30
    assert '40 is damaged (it is of step 20); using the one of step 30' in caplog.text


def test_a_checkpoint_of_another_run_is_refused(three_steps, tmp_path):
    store = TrainStateStore(tmp_path / 'other', run='another')
    store.save(make_state(40), {'step': 40})
    store.close()
    shutil.copytree(tmp_path / 'other' / '40', three_steps / '40')
    with pytest.raises(ValueError, match='40 is of another run; move it away to go on from the'):
        restore(three_steps)
    shutil.move(three_steps / '40', tmp_path)
    assert int(restore(three_steps)[0].step) == 30


def truncate_largest(folder):
    """Halve the largest files of a checkpoint: the one with the prompt, and Orbax's copy of it."""
    sizes = {path: path.stat().st_size for path in folder.glob('state/**/d/*')}
    for path, size in sizes.items():
        if size == max(sizes.values()):
            path.write_bytes(path.read_bytes()[:size // 2])


def test_a_damaged_checkpoint_does_not_block_its_step(three_steps, caplog):
    truncate_largest(three_steps / '30')
    store = TrainStateStore(three_steps)
    with caplog.at_level(logging.WARNING):
        state, _ = store.restore_latest(make_state(0))
    assert int(state.step) == 20 and 'is damaged' in caplog.text
    assert (three_steps / 'unusable-30').is_dir() and not (three_steps / '30').exists()
    store.save(make_state(30), {'again': True})
    assert store.restore_latest(make_state(0))[1] == {'again': True}
    store.close()
    # A second accident at the same step replaces what was set aside.
    truncate_largest(three_steps / '30')
    assert int(restore(three_steps)[0].step) == 20
    assert int(restore(three_steps)[0].step) == 20


def test_saving_over_a_damaged_checkpoint(three_steps):
    truncate_largest(three_steps / '30')
    (three_steps / '30' / 'host' / 'metadata').write_text('{')
    store = TrainStateStore(three_steps)
    store.save(make_state(30), {'again': True})
    assert store.restore_latest(make_state(0))[1] == {'again': True}


def test_a_half_deleted_old_checkpoint_is_no_obstacle(three_steps):
    """What a kill in the middle of the removal of the oldest leaves behind."""
    for name in ('state', 'host', '_CHECKPOINT_METADATA', 'commit_success.txt'):
        path = three_steps / '10' / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert int(restore(three_steps)[0].step) == 30
    store = TrainStateStore(three_steps)
    store.save(make_state(40))
    assert int(store.restore_latest(make_state(0))[0].step) == 40


def test_no_checkpoint_can_be_read(three_steps):
    for step in ('10', '20', '30'):
        truncate_largest(three_steps / step)
    with pytest.raises(ValueError, match=r'no checkpoint in .*checkpoints can be read \(30: .*; '
                                         r'20: .*; 10: .*\); remove or rename the folder'):
        restore(three_steps)
    assert (three_steps / '30').is_dir()


@pytest.mark.parametrize('changes, message', [
    (dict(rows=4), r'30 has float32\[3, 5\] for .* but this run needs float32\[4, 5\]'),
    (dict(optimizer=optax.sgd(0.1)), r'30 has \w+\[.*\] for .* but this run needs nothing'),
    (dict(optimizer=optax.adam(0.1)), r'30 has nothing for .* but this run needs \w+\[.*\]'),
], ids=['rows', 'fewer', 'other'])
def test_another_configuration_is_refused(changes, message, three_steps):
    """Not taken for damage: nothing is set aside."""
    with pytest.raises(ValueError, match=message + '; it is of another configuration: use the'):
        restore(three_steps, make_state(0, **changes))
    assert sorted(p.name for p in three_steps.iterdir()) == ['10', '20', '30']


def test_another_format_is_refused(three_steps, monkeypatch):
    store = TrainStateStore(three_steps)
    with monkeypatch.context() as later_version:
        later_version.setattr(train_state, '_FORMAT', 99)
        store.save(make_state(40))
    with pytest.raises(ValueError, match='40 has format 99; expected 2'):
        restore(three_steps)


SAVER = '''
import sys
sys.path.insert(0, sys.argv[2])
from test_state import TrainStateStore, make_state
store = TrainStateStore(sys.argv[1], keep=2)
restored = store.restore_latest(make_state(0))
step = 0 if restored is None else restored[1]['step']
print('start', step, flush=True)
while True:
    step += 1
    store.save(make_state(step), {'step': step})
    print('saved', step, flush=True)
'''


def test_killed_while_saving(tmp_path):
    """After SIGKILL at any moment the newest state is whole, and no older than the last save."""
    folder = tmp_path / 'checkpoints'
    last = 0
    for delay in (0.0, 0.021):
        process = subprocess.Popen(
            [sys.executable, '-c', SAVER, str(folder), os.path.dirname(__file__)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline() == f'start {last}\n', process.stderr.read()
        for _ in range(3):
            last = int(process.stdout.readline().split()[1])
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        for line in process.communicate()[0].splitlines():
            last = int(line.split()[1])
        state, host = restore(folder)
        assert host['step'] in (last, last + 1)
        assert_same_state(state, make_state(host['step']))
        last = host['step']
    store = TrainStateStore(folder)
    store.save(make_state(last + 1))
    store.close()
    assert all(path.name.isdigit() for path in folder.iterdir())
