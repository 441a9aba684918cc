"""Nothing that costs money is left when a step fails, is interrupted, or never ends."""

import os
import signal

import pytest

from tests.tpu_scripts.conftest import KIND, QUICK, RUN, TARGET

TRAIN = ('--', 'train')
ALL = (*TARGET, *KIND, *RUN, *QUICK, *TRAIN)
CREATE = (*TARGET, *KIND, *QUICK)


def test_a_run_leaves_its_results_and_nothing_else(world):
    # Numbers as people write them: bash alone would read them as wrong ones of the base 8.
    numbers = [f'--{flag}=08' for flag in ('wait_minutes', 'sync_seconds', 'max_restarts',
                                           'delete_attempts')]
    done = world.must('run.sh', *ALL[:-2], *numbers, *TRAIN)
    assert not world.costs()
    assert world.verbs()[0] == 'tpu-vm create'
    assert world.verbs()[-1] == 'tpu-vm delete'
    assert (world.folder / 'runs/tickets/output/checkpoints/1/state').exists()
    assert len(list((world.folder / 'runs/tickets/logs').iterdir())) == 2
    assert 'nothing named prompts is left' in done.stderr
    assert list((world.folder / 'tmp').iterdir()) == []


def test_create_leaves_the_vm_and_delete_removes_it(world):
    world.must('create.sh', *CREATE)
    assert world.verbs() == ['tpu-vm create'] and world.costs()
    world.must('delete.sh', *TARGET, *QUICK)
    assert not world.costs()
    # Once more: nothing is there, which is what was asked for.
    world.must('delete.sh', *TARGET, *QUICK)


@pytest.mark.parametrize('step, effect, kind', [
    (' create ', False, ()), (' create ', True, ('--queued',)), (' scp ', False, ()),
    ('worker.sh setup', False, ('--queued',)), ('worker.sh start', True, ()),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in [
        (' create ', True, ()), ('command=true', True, ('--queued',)), ('tar -xzf', True, ()),
        ('worker.sh check --', False, ()), ('worker.sh claim', True, ()),
        ('worker.sh start', False, ('--queued',)),
        ('storage rsync gs://my-bucket/runs/tickets runs/', False, ())]),
])
def test_whichever_step_fails_nothing_is_left(world, step, effect, kind):
    """Whether or not the cloud did what was asked before it said that it failed."""
    world.rules({'match': step, 'times': -1, 'effect': effect, 'code': 1})
    done = world.call('run.sh', *ALL[:-2], *kind, *TRAIN)
    assert done.returncode == 1, done.stderr
    assert 'failed; deleting prompts so that it costs nothing' in done.stderr
    assert not world.costs()


def test_an_address_with_quotes_runs_nothing_on_the_workers(world):
    address = f"https://127.0.0.1:9/x'$(touch${{IFS}}{world.folder}/here)'"
    done = world.call('run.sh', *ALL[:-2], f'--git_url={address}', '--git_ref=v1', *TRAIN)
    assert done.returncode == 1
    assert 'the workers could not clone the repository' in done.stderr
    assert not (world.folder / 'here').exists() and not world.costs()


@pytest.mark.parametrize('state', ['FAILED', 'SUSPENDED', 'SUSPENDING'])
def test_a_request_that_is_not_granted_is_deleted(world, state):
    world.states('queued-resources', 'WAITING_FOR_RESOURCES', 'PROVISIONING', state)
    # The first look, which finds nothing, must not use up a state.
    world.rules({'match': 'queued-resources describe', 'stderr': 'NOT_FOUND: not there'})
    done = world.call('create.sh', *CREATE, '--queued')
    assert done.returncode == 1
    assert f'prompts will not come: queued-resources is {state}' in done.stderr
    assert 'queued-resources delete' in world.verbs() and not world.costs()


def test_a_request_that_waits_too_long_is_deleted(world):
    world.rules({'match': 'queued-resources describe', 'stderr': 'NOT_FOUND: not there'})
    world.states('queued-resources', *3 * ['WAITING_FOR_RESOURCES'])
    done = world.call('create.sh', *CREATE, '--queued', '--wait_minutes=0')
    assert done.returncode == 1
    assert 'still WAITING_FOR_RESOURCES after 0 minutes' in done.stderr
    assert not world.costs()


def test_a_vm_that_becomes_ready_late_is_waited_for(world):
    world.states('tpu-vm', 'CREATING', 'STARTING')
    world.rules({'match': 'tpu-vm describe', 'stderr': 'NOT_FOUND: not there'})
    done = world.must('create.sh', *CREATE)
    assert 'tpu-vm is CREATING; waiting' in done.stderr


@pytest.mark.parametrize('group', ['tpu-vm', 'queued-resources'])
def test_what_was_there_before_is_never_deleted(world, group):
    (world.folder / group).write_text('READY')
    done = world.call('run.sh', *ALL)
    assert done.returncode == 2
    assert 'prompts is there already' in done.stderr
    assert world.verbs() == [] and world.costs()


def test_what_somebody_created_a_moment_earlier_is_never_deleted(world):
    (world.folder / 'tpu-vm').write_text('READY')
    world.rules({'match': 'tpu-vm describe', 'stderr': 'NOT_FOUND: not yet'})
    done = world.call('create.sh', *CREATE)
    assert done.returncode == 2
    assert 'is there already' in done.stderr
    assert world.verbs() == ['tpu-vm create'] and world.costs()


def test_nothing_is_created_while_it_is_not_known_what_is_there(world):
    world.rules({'match': 'describe', 'times': -1, 'stderr': 'ERROR: no network'})
    done = world.call('create.sh', *CREATE)
    assert done.returncode == 1
    assert 'cannot tell whether prompts is there already, so nothing was created' in done.stderr
    assert 'no network' in done.stderr
    assert world.verbs() == []


def test_a_creation_that_shows_up_late_is_found_and_deleted(world):
    """The create call failed; the first look finds nothing, a later one does."""
    absent = {'match': 'describe', 'times': 4, 'stderr': 'NOT_FOUND: not yet'}
    # Two looks before the creation, two right after it.
    world.rules({'match': ' create ', 'effect': True}, absent)
    done = world.call('create.sh', *CREATE)
    assert done.returncode == 1
    assert not world.costs(), done.stderr


def test_a_deletion_is_tried_again_and_made_sure_of(world):
    world.must('create.sh', *CREATE)
    world.rules({'match': ' delete ', 'times': 3})
    done = world.must('delete.sh', *TARGET, *QUICK)
    assert 'attempt 3 of 5' in done.stderr
    assert not world.costs()


def test_a_deletion_that_never_works_is_told_loudly(world):
    world.rules({'match': ' delete ', 'times': -1}, {'match': 'worker.sh setup'})
    done = world.call('run.sh', *ALL)
    assert done.returncode == 4
    assert 'prompts MAY STILL BE THERE AND COST MONEY' in done.stderr
    assert 'gcloud compute tpus tpu-vm delete prompts --zone=us-west4-a' in done.stderr


def test_an_unknown_state_is_not_taken_for_absence(world):
    world.must('create.sh', *CREATE)
    world.rules({'match': 'describe', 'times': 4, 'stderr': 'ERROR: no network'})
    world.must('delete.sh', *TARGET, *QUICK)
    assert not world.costs()


def test_a_failure_is_kept_where_that_is_asked_for(world):
    world.rules({'match': 'worker.sh setup'})
    done = world.call('run.sh', *ALL[:-2], '--keep_on_failure', *TRAIN)
    assert done.returncode == 1
    assert 'it costs money until' in done.stderr and 'delete.sh --name=prompts' in done.stderr
    assert world.costs()


@pytest.mark.parametrize('step, effect, sign, code', [
    (' create ', True, signal.SIGINT, 130), ('worker.sh setup', False, signal.SIGTERM, 143),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in [
        (' create ', False, signal.SIGINT, 130), (' scp ', False, signal.SIGTERM, 143),
        ('worker.sh start', True, signal.SIGHUP, 129)]),
])
def test_interrupted_in_the_middle_of_a_step_nothing_is_left(world, step, effect, sign, code):
    world.rules({'match': step, 'hang': True, 'effect': effect})
    process = world.start('run.sh', *ALL)
    world.wait_for((world.folder / 'hanging').exists, 'the step')
    os.kill(process.pid, sign)
    done = world.finish(process)
    assert done.returncode == code, done.stderr
    assert 'failed; deleting prompts so that it costs nothing' in done.stderr
    assert not world.costs()


def test_interrupted_while_training_the_last_steps_are_saved_first(world):
    # Worker 0 alone saves, and it may be the last to begin.
    world.train('trap "first && checkpoint 7; exit 0" TERM\nfirst && checkpoint 1\n'
                'first && touch "$STAND_IN_WORLD/trains"; while :; do sleep 0.05; done')
    process = world.start('run.sh', *ALL)
    world.wait_for((world.folder / 'trains').exists, 'training')
    os.kill(process.pid, signal.SIGINT)
    done = world.finish(process)
    assert done.returncode == 130, done.stderr
    assert not world.costs()
    assert (world.bucket / 'output/checkpoints/7/state').exists()


def test_signals_do_not_cut_the_deletion_short(world):
    world.rules({'match': 'worker.sh setup'}, {'match': ' delete ', 'hang': True})
    process = world.start('run.sh', *ALL)
    world.wait_for((world.folder / 'hanging').exists, 'the deletion')
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(process.pid, sign)
    # The deletion that hangs is ended, which the script sees as one that failed, and tries again.
    os.kill(int((world.folder / 'hanging').read_text()), signal.SIGKILL)
    done = world.finish(process)
    assert done.returncode == 1
    assert 'attempt 1 of 5' in done.stderr
    assert not world.costs()


@pytest.mark.parametrize('script', ['setup.sh', 'launch.sh'])
def test_a_step_of_its_own_that_fails_deletes_the_vm(world, script):
    world.must('create.sh', *CREATE)
    world.must('setup.sh', *TARGET, *QUICK)
    world.rules({'match': 'worker.sh (setup|start)'})
    flags = (*RUN, *TRAIN) if script == 'launch.sh' else ()
    done = world.call(script, *TARGET, *QUICK, *flags)
    assert done.returncode == 1
    assert not world.costs()


def test_a_vm_that_holds_a_run_of_no_bucket_is_not_deleted(world):
    world.must('create.sh', *CREATE)
    world.must('setup.sh', *TARGET, *QUICK)
    world.must('launch.sh', *TARGET, *QUICK, '--run=tickets', *TRAIN)
    world.wait_for((world.home() / 'runs/tickets/exit_code').exists, 'the end of the run')
    world.rules({'match': 'worker.sh setup'})
    done = world.call('setup.sh', *TARGET, *QUICK)
    assert done.returncode == 1
    assert 'holds a run that is in no bucket, so it is not deleted' in done.stderr
    assert world.costs()
    world.must('fetch.sh', *TARGET, '--run=tickets')
    assert (world.folder / 'runs/tickets/output/checkpoints/1/state').exists()
    assert 'training on worker 0' in (world.folder / 'runs/tickets/log').read_text()
