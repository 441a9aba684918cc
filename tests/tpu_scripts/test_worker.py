"""What runs on a worker: the run's folder in the bucket, whose it is, and how the run stands."""

import os
import pathlib
import re
import subprocess

import pytest

from tests.tpu_scripts.conftest import SCRIPTS

RUN = ('tickets', 'gs://my-bucket/runs')
WAIT = 'checkpoint 1; until [ -e "$STAND_IN_WORLD/go" ]; do sleep 0.02; done'


class Machine:
    """A machine with one worker, and its own disk."""

    def __init__(self, world, name: str, **environment: str):
        self.world = world
        self.base = world.folder / name
        self.base.mkdir()
        (self.base / 'setup.done').touch()
        self.folder = self.base / 'runs/tickets'
        self.environment = {
            **world.environment, 'HOME': str(self.base), 'JAX_PROMPT_BASE': str(self.base),
            'JAX_PROMPT_PROGRAM': str(world.folder / 'program'), 'TPU_WORKER_ID': '0',
            'JAX_PROMPT_TICK_SECONDS': '0.05', 'JAX_PROMPT_GRACE_SECONDS': '1', **environment}

    def start(self, *words: str) -> subprocess.Popen:
        return subprocess.Popen(
            ['bash', SCRIPTS / 'worker.sh', *words], env=self.environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def call(self, *words: str) -> subprocess.CompletedProcess:
        process = self.start(*words)
        out, _ = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out)

    def run(self, *words: str) -> subprocess.CompletedProcess:
        """Run a training to its end, as a container does."""
        return self.call('foreground', *RUN, '0', *(words or ('train',)))


@pytest.fixture
def machine(world):
    return Machine(world, 'machine')


def test_checkpoints_are_whole_in_the_bucket_at_every_moment(world, machine):
    """Files are deleted there only once all new ones are there."""
    world.train('checkpoint 1; checkpoint 2; rm -r "$output/checkpoints/1"')
    (world.bucket / 'output/checkpoints/0').mkdir(parents=True)
    (world.bucket / 'output/checkpoints/0/state').write_text('step 0')
    world.train('rm -r "$output/checkpoints/0"; checkpoint 1')
    world.rules({'match': 'rsync .*snapshot gs:', 'times': -1})
    done = machine.run()
    assert done.returncode == 74, done.stdout  # trained, but not in the bucket
    assert (world.bucket / 'output/checkpoints/0/state').exists()
    world.rules()
    assert machine.run().returncode == 0
    assert sorted(path.name for path in (world.bucket / 'output/checkpoints').iterdir()
                  if any(path.iterdir())) == ['1']
    copies = [call for call in world.calls if 'rsync' in call and call[3].startswith('gs:')]
    assert '--delete-unmatched-destination-objects' not in copies[-2]
    assert '--delete-unmatched-destination-objects' in copies[-1]


def test_half_written_checkpoints_stay_here(world, machine):
    world.train('checkpoint 1; checkpoint 2.orbax-checkpoint-tmp-7')
    assert machine.run().returncode == 0
    assert [path.name for path in (world.bucket / 'output/checkpoints').iterdir()] == ['1']


def test_a_folder_with_nothing_in_it_deletes_nothing_in_the_bucket(world, machine):
    world.train('checkpoint 1')
    machine.run()
    world.train('rm -r "$output"')
    machine.run()
    assert (world.bucket / 'output/checkpoints/1/state').exists()


@pytest.mark.slow
def test_a_new_machine_goes_on_and_the_old_one_no_longer_writes(world, machine):
    world.train(WAIT)
    old = machine.start('foreground', *RUN, '0', 'train')
    saved = world.bucket / 'output/checkpoints/1/state'
    world.wait_for(saved.exists, 'the first checkpoint')
    world.train('checkpoint 2')
    new = Machine(world, 'new')
    assert new.run().returncode == 0
    assert (new.folder / 'output/checkpoints/1/state').exists()
    world.train('checkpoint 9')
    (world.folder / 'go').touch()
    out, _ = old.communicate(timeout=60)
    assert old.returncode == 74
    assert 'was taken over by' in out
    assert {path.name for path in (world.bucket / 'output/checkpoints').iterdir()} == {'1', '2'}


def test_what_a_machine_has_beyond_the_bucket_is_saved_before_it_is_read(world, machine):
    world.train('checkpoint 1')
    machine.run()
    (machine.folder / 'output/checkpoints/2').mkdir()
    (machine.folder / 'output/checkpoints/2/state').write_text('step 2')
    world.train('cat "$output"/checkpoints/*/state > "$STAND_IN_WORLD/seen"')
    assert machine.run().returncode == 0
    assert (world.folder / 'seen').read_text().split() == ['step', '1', 'step', '2']


def test_other_workers_read_the_bucket_and_never_write_the_run(world):
    (world.bucket / 'output').mkdir(parents=True)
    (world.bucket / 'output/run.json').write_text('{}')
    world.train('cp "$output/run.json" "$STAND_IN_WORLD/seen"; touch "$output/mine"')
    second = Machine(world, 'second', TPU_WORKER_ID='1', TPU_WORKER_HOSTNAMES='a,b')
    assert second.run().returncode == 0
    assert (world.folder / 'seen').read_text() == '{}'
    assert not (world.bucket / 'output/mine').exists()
    assert not (world.bucket / 'owner').exists()
    assert world.argv(1)[-1] == '--distributed'


@pytest.mark.parametrize('what', ['storage cat', 'storage ls', 'storage cp', 'rsync gs:'])
def test_a_bucket_that_cannot_be_used_is_told_before_training(world, machine, what):
    (world.bucket / 'output').mkdir(parents=True)
    (world.bucket / 'output/run.json').write_text('{}')
    world.rules({'match': what, 'times': -1, 'stderr': 'ERROR: 403 permission denied'})
    done = machine.run()
    assert done.returncode == 1
    assert '403 permission denied' in done.stdout
    assert not (world.folder / 'argv-0').exists()


def test_an_end_that_is_asked_for_is_told_from_one_that_is_earned(world, machine):
    world.train(f'trap "checkpoint 5; exit 0" TERM; {WAIT}')
    process = machine.start('foreground', *RUN, '300', 'train')
    world.wait_for((machine.folder / 'output/checkpoints/1/state').exists, 'training')
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert (world.bucket / 'output/checkpoints/5/state').exists()


def test_a_training_that_will_not_end_is_killed(world, machine):
    world.train(f'trap "" TERM; {WAIT}')
    process = machine.start('foreground', *RUN, '300', 'train')
    world.wait_for((machine.folder / 'output/checkpoints/1/state').exists, 'training')
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 137, out
    assert (world.bucket / 'output/checkpoints/1/state').exists()


@pytest.mark.parametrize('code', [0, 1, 2, 42])
def test_the_code_of_the_training_is_the_code_of_the_run(world, machine, code):
    world.train(f'exit {code}')
    assert machine.run().returncode == code
    assert f'state=finished code={code}\n' in machine.call('status', 'tickets').stdout


def test_where_a_run_stands(world, machine):
    assert 'state=none' in machine.call('status', 'tickets').stdout
    world.train(WAIT)
    assert machine.call('start', *RUN, '300', 'train').returncode == 0
    assert 'state=running' in machine.call('status', 'tickets').stdout
    assert 'state=other' in machine.call('status', 'other').stdout
    assert machine.call('check').returncode == 3
    os.killpg(int((machine.folder / 'pid').read_text()), 9)
    world.wait_for(lambda: 'state=lost' in machine.call('status', 'tickets').stdout, 'its loss')


def test_a_training_that_outlives_its_supervisor_still_has_the_chips(world, machine):
    world.train(WAIT)
    machine.call('start', *RUN, '300', 'train')
    os.kill(int((machine.folder / 'pid').read_text()), 9)
    assert machine.call('start', *RUN, '300', 'train').returncode == 3
    (world.folder / 'go').touch()
    world.wait_for(lambda: machine.call('check').returncode != 3, 'its end')


def test_commands_other_than_train_get_no_folder(world, machine):
    assert machine.run('evaluate', '--split=test').returncode == 0
    assert world.argv() == ['evaluate', '--split=test']


def test_the_metadata_server_tells_which_worker_this_is(world, machine):
    curl = world.folder / 'bin/curl'
    curl.write_text('#!/bin/sh\ncase "$*" in\n'
                    '*Metadata-Flavor*attributes/agent-worker-number) echo 1 ;;\n'
                    '*attributes/worker-network-endpoints) echo a:b:10.0.0.1,a:b:10.0.0.2 ;;\n'
                    '*) exit 1 ;;\nesac\n')
    curl.chmod(0o755)
    del machine.environment['TPU_WORKER_ID']
    world.train('')
    assert machine.run().returncode == 0
    assert 'worker=1' in machine.call('status', 'tickets').stdout
    curl.write_text('#!/bin/sh\nexit 7\n')
    done = machine.call('status', 'tickets')
    assert done.returncode == 1
    assert 'cannot tell which worker this is' in done.stdout


def test_the_pinned_packages_are_those_of_the_project():
    """Every requirement of the project is pinned, once, and by a version that it allows."""
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = {}
    for line in (SCRIPTS / 'requirements-tpu.txt').read_text().splitlines():
        if not line.startswith('#'):
            name, version = line.split('==')
            assert canonicalize_name(name) not in pins
            pins[canonicalize_name(name)] = version
    project = tomllib.loads(
        (pathlib.Path(__file__).parents[2] / 'pyproject.toml').read_text())
    extras = project['project']['optional-dependencies']
    wanted = [*project['project']['dependencies'], *extras['tpu'], *extras['onnx'],
              *extras['seqio'], *project['build-system']['requires'], 'libtpu']
    for requirement in map(Requirement, wanted):
        pinned = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pinned), f'{requirement} but {pinned}'
    tested = (SCRIPTS.parent / 'constraints.txt').read_text()
    for name, pinned in pins.items():
        assert re.search(rf'^{name}==({re.escape(pinned)})( ;|$)', tested, re.MULTILINE), name
