"""Training on the workers: how it is started, kept, followed, resumed and stopped."""

import signal
import subprocess

import pytest

from tests.tpu_scripts.conftest import KIND, QUICK, RUN, TARGET

ALL = (*TARGET, *KIND, *RUN, *QUICK)
# Trains until `go` is there, one checkpoint at a time, and saves when it is told to end.
PATIENT = '''
step=$(ls "$output/checkpoints" 2>/dev/null | sort -n | tail -n 1)
echo "resumed from ${step:-0}" >> "$STAND_IN_WORLD/resumed-$TPU_WORKER_ID"
first && checkpoint $((step + 1))
touch "$STAND_IN_WORLD/trains-$TPU_WORKER_ID"
trap 'exit 0' TERM
until [ -e "$STAND_IN_WORLD/go" ]; do sleep 0.02; done
'''
NASTY = [
    'train', '--gin.file_task.inputs_template=review: {text}', "--gin.a='single' and \"double\"",
    '--gin.b=$HOME `id` $(id) ${x} \\ back', '--gin.c={"0": "no", "1": "yes"}', '--gin.d=a;b|c&d>e',
    '--gin.e=*?[!a]~#', '--gin.f=two  spaces\tand a tab', '--gin.g=line\nbreak', '', '-- ', '%s %d',
]


@pytest.fixture
def ready(world):
    """A TPU that is set up."""
    world.must('create.sh', *TARGET, *KIND, *QUICK)
    world.must('setup.sh', *TARGET, *QUICK)
    return world


def launch(world, *flags):
    return world.must('launch.sh', *TARGET, *RUN, *QUICK, '--sync_seconds=0', *flags, '--', 'train')


def test_arguments_arrive_as_they_are(ready):
    ready.must('launch.sh', *TARGET, *RUN, *QUICK, '--', *NASTY)
    for worker in (0, 1):
        ready.wait_for((ready.home(worker) / 'runs/tickets/exit_code').exists, 'the end')
        folder = ready.home(worker) / 'runs/tickets/output'
        # The workers of a slice must find each other.
        assert ready.argv(worker) == [*NASTY, f'--output={folder}', '--distributed']


@pytest.mark.slow
def test_a_single_worker_is_told_nothing_of_others(world):
    world.workers(1)
    world.must('run.sh', *ALL, '--', 'train')
    assert '--distributed' not in world.argv()


@pytest.mark.slow
def test_a_command_that_knows_no_other_hosts_is_refused_on_several(ready):
    done = ready.call('launch.sh', *TARGET, *RUN, *QUICK, '--', 'predict')
    assert done.returncode == 1
    assert 'jax-prompt predict does not run on several hosts' in done.stderr


def test_files_stand_beside_the_command(ready):
    (ready.folder / 'my data.csv').write_text('body,team\n')
    ready.train('cat "my data.csv" > "$STAND_IN_WORLD/read-$TPU_WORKER_ID"')
    launch(ready, '--copy=my data.csv')
    for worker in (0, 1):
        read = ready.folder / f'read-{worker}'
        ready.wait_for(lambda read=read: read.exists() and read.read_text(), 'the file')
        assert read.read_text() == 'body,team\n'


@pytest.mark.slow
def test_a_second_launch_is_refused_while_the_first_runs(ready):
    ready.train(PATIENT)
    launch(ready)
    again = ready.call('launch.sh', *TARGET, *RUN, *QUICK, '--', 'train')
    other = ready.call('launch.sh', *TARGET, '--run=other', *QUICK, '--', 'train')
    setup = ready.call('setup.sh', *TARGET, *QUICK)
    for done in (again, other, setup):
        assert done.returncode == 3
        assert 'a run is in progress on prompts' in done.stderr
    assert ready.costs()
    assert (ready.folder / 'resumed-0').read_text() == 'resumed from 0\n'
    (ready.folder / 'go').touch()
    ready.wait_for((ready.home() / 'runs/tickets/exit_code').exists, 'the end')
    launch(ready)


def test_launching_where_nothing_is_set_up_deletes_nothing(world):
    world.must('create.sh', *TARGET, *KIND, *QUICK)
    done = world.call('launch.sh', *TARGET, *RUN, *QUICK, '--', 'train')
    assert done.returncode == 2
    assert 'prompts is not set up; run setup.sh first' in done.stderr
    assert world.costs()


@pytest.mark.slow
def test_set_up_happens_once_for_each_state_of_the_sources(ready):
    calls = (ready.folder / 'python_calls').read_text()
    assert calls.count('uv==') == 2 and '--managed-python' in calls
    assert 'source/tpu_scripts/requirements-tpu.txt' in calls
    ready.must('setup.sh', *TARGET, *QUICK)
    assert (ready.folder / 'python_calls').read_text() == calls
    ready.must('setup.sh', *TARGET, *QUICK, '--with_demo')
    assert 'traceforge-title-model==' in (ready.folder / 'python_calls').read_text()


def test_the_checkout_is_copied_as_it_is_now_and_stays_untouched(world, checkout, tmp_path):
    copied = tmp_path / 'copied'
    subprocess.run(['cp', '-a', checkout, copied], check=True)
    world.scripts = copied / 'tpu_scripts'
    (copied / 'pyproject.toml').write_text('changed')
    (copied / 'secret.txt').write_text('not tracked')
    status = ['git', '-C', copied, 'status', '--porcelain']
    before = subprocess.run(status, capture_output=True).stdout
    world.must('create.sh', *TARGET, *KIND, *QUICK)
    done = world.must('setup.sh', *TARGET, *QUICK)
    assert 'changes that are not committed; they are copied too' in done.stderr
    assert (world.home() / 'source/pyproject.toml').read_text() == 'changed'
    assert not (world.home() / 'source/secret.txt').exists()
    assert subprocess.run(status, capture_output=True).stdout == before


def test_a_repository_and_version_can_be_named_instead(world, checkout):
    world.must('create.sh', *TARGET, *KIND, *QUICK)
    shown = world.must('setup.sh', *TARGET, '--dry_run', '--git_url=https://example.com/a.git',
                       '--git_ref=v1.2').stdout
    assert "git fetch -q --depth=1" in shown and 'https://example.com/a.git' in shown
    assert ' scp ' not in shown


def test_a_worker_that_fails_to_set_up_is_set_up_again(world):
    world.must('create.sh', *TARGET, *KIND, *QUICK)
    program = world.folder / 'program'
    working = program.read_text()
    program.write_text('#!/bin/sh\nexit 1\n')
    done = world.call('setup.sh', *TARGET, *QUICK, '--keep_on_failure')
    assert done.returncode == 1 and world.costs()
    program.write_text(working)
    world.must('setup.sh', *TARGET, *QUICK)
    assert (world.home() / 'setup.done').exists()


@pytest.mark.slow
def test_logs_are_shown_and_followed_to_the_end(ready):
    ready.train(PATIENT)
    launch(ready)
    shown = ready.must('logs.sh', *TARGET, RUN[0], '--worker=1').stdout
    assert 'training on worker 1' in shown
    process = ready.start('logs.sh', *TARGET, RUN[0], '--follow')
    (ready.folder / 'go').touch()
    assert 'ended with code 0' in ready.finish(process).stdout
    missing = ready.call('logs.sh', *TARGET, '--run=other')
    assert missing.returncode == 1
    assert 'there is no log of other' in missing.stderr
    assert ready.costs()


def test_a_stopped_run_saves_and_is_not_taken_for_done(ready):
    ready.train(PATIENT)
    launch(ready)
    ready.wait_for((ready.folder / 'trains-0').exists, 'training')
    ready.must('stop.sh', *TARGET, RUN[0])
    assert (ready.home() / 'runs/tickets/exit_code').read_text() == '143\n'
    assert (ready.bucket / 'output/checkpoints/1/state').exists()
    ready.must('stop.sh', *TARGET, RUN[0])  # nothing left to stop


def test_a_run_that_is_taken_away_goes_on_from_the_bucket(world):
    world.train(PATIENT)
    process = world.start('run.sh', *ALL, '--spot', '--queued', '--sync_seconds=0', '--', 'train')
    for times in (1, 2):
        # What the bucket has is what the next TPU can go on from.
        saved = world.bucket / f'output/checkpoints/{times}/state'
        world.wait_for(saved.exists, f'checkpoint {times} in the bucket')
        world.wait_for(lambda times=times: len(
            list(world.bucket.glob('logs/*-worker-0.log'))) == times, 'the log in the bucket')
        if times == 2:
            (world.folder / 'go').touch()
        else:
            world.preempt()
    done = world.finish(process)
    assert done.returncode == 0, done.stderr
    assert 'prompts was taken away (PREEMPTED); resuming tickets' in done.stderr
    for worker in (0, 1):  # all workers read what worker 0 had written
        assert (world.folder / f'resumed-{worker}').read_text() == (
            'resumed from 0\nresumed from 1\n')
    assert world.verbs().count('queued-resources create') == 2
    assert not world.costs()
    # The logs of both TPUs are there.
    assert len(list((world.folder / 'runs/tickets/logs').glob('*-worker-0.log'))) == 2


@pytest.mark.slow
def test_resume_makes_a_tpu_where_none_is_left_and_deletes_it_at_the_end(world):
    saved = world.bucket / 'output/checkpoints/5'
    saved.mkdir(parents=True)
    (saved / 'state').write_text('step 5')
    (world.folder / 'go').touch()
    world.train(PATIENT)
    world.must('resume.sh', *ALL, '--', 'train')
    assert (world.folder / 'resumed-0').read_text() == 'resumed from 5\n'
    assert not world.costs()


@pytest.mark.slow
def test_resume_tries_again_while_there_is_no_capacity(world):
    world.rules({'match': ' create ', 'times': 2, 'stderr': 'ERROR: no more capacity'})
    done = world.must('resume.sh', *ALL, '--', 'train')
    assert 'no TPU yet (attempt 2 of 10)' in done.stderr
    assert world.verbs().count('tpu-vm create') == 3
    assert not world.costs()


@pytest.mark.slow
def test_a_host_that_is_lost_shortly_before_the_state_says_so_is_no_failure(world):
    """Training ends because a peer is gone; starting it again fails; then the TPU is PREEMPTED."""
    world.train('if [ -e "$STAND_IN_WORLD/again" ]; then '
                '! first || checkpoint 1; exit 0; fi; sleep 0.3; exit 75')
    process = world.start('run.sh', *ALL, '--', 'train')
    world.wait_for((world.folder / 'argv-0').exists, 'training')
    (world.folder / 'again').touch()
    world.rules({'match': 'worker.sh check --', 'code': 255})
    (world.folder / 'tpu-vm.states').write_text('READY READY PREEMPTED')
    done = world.finish(process)
    assert done.returncode == 0, done.stderr
    assert 'prompts was taken away (PREEMPTED)' in done.stderr
    assert not world.costs()


@pytest.mark.slow
def test_what_cannot_be_set_up_is_given_up(world):
    world.rules({'match': 'worker.sh setup', 'times': -1})
    done = world.call('resume.sh', *ALL, '--', 'train')
    assert done.returncode == 1
    assert world.verbs().count('tpu-vm create') == 3
    assert not world.costs()


@pytest.mark.slow
def test_resume_gives_up_in_the_end_and_leaves_nothing(world):
    world.rules({'match': ' create ', 'times': -1})
    done = world.call('resume.sh', *ALL, '--', 'train')
    assert done.returncode == 1
    assert 'giving up on a new TPU; the run is in the bucket' in done.stderr
    assert not world.costs()


def test_a_signal_ends_the_watching_and_the_run_goes_on(ready):
    ready.train(PATIENT)
    launch(ready)
    process = ready.start('resume.sh', *ALL, '--', 'train')
    ready.wait_for(lambda: 'status' in str(ready.calls), 'a look')
    process.send_signal(signal.SIGINT)
    done = ready.finish(process)
    assert done.returncode == 130
    assert 'tickets goes on and prompts costs money' in done.stderr
    assert ready.costs()
    (ready.folder / 'go').touch()
    ready.must('resume.sh', *ALL, '--keep', '--', 'train')
    assert ready.costs()


@pytest.mark.slow
def test_a_run_that_fails_is_started_again_and_given_up(world):
    world.train('first && exit 1; exit 0')
    done = world.call('run.sh', *ALL, '--max_restarts=1', '--', 'train')
    assert done.returncode == 1
    assert 'tickets failed; starting it again (restart 1 of 1)' in done.stderr
    assert 'tickets failed 2 times' in done.stderr
    assert not world.costs()


@pytest.mark.slow
def test_what_the_user_must_mend_is_not_tried_again(world):
    world.train('echo "prompt.rows=-1; expected at least 0"; exit 2')
    done = world.call('run.sh', *ALL, '--', 'train')
    assert done.returncode == 1
    assert 'ended with what only you can mend' in done.stderr
    assert 'prompt.rows=-1; expected at least 0' in done.stdout
    assert 'starting it again' not in done.stderr
    assert not world.costs()


@pytest.mark.slow
def test_another_run_in_progress_is_left_alone(ready):
    ready.train(PATIENT)
    launch(ready)
    done = ready.call('resume.sh', *TARGET, *KIND, *QUICK, '--run=other', RUN[1], '--', 'train')
    assert done.returncode == 3
    assert 'another run is in progress on prompts, which is left alone' in done.stderr
    assert ready.costs()


@pytest.mark.slow
def test_workers_that_do_not_answer_for_a_while_are_waited_for(world):
    world.rules({'match': 'worker.sh status', 'times': 3})
    done = world.must('run.sh', *ALL, '--', 'train')
    assert 'tickets is unreachable' in done.stderr


def test_fetching_what_is_not_there_says_so(world):
    done = world.call('fetch.sh', *TARGET, *RUN)
    assert done.returncode == 1
    assert 'fetching from the bucket failed' in done.stderr
