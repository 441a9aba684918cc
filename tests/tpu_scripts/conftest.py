"""A small cloud for the scripts: see stand_in.py."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = ROOT / 'tpu_scripts'
STAND_IN = pathlib.Path(__file__).with_name('stand_in.py')

TARGET = ('--name=prompts', '--zone=us-west4-a', '--project=my-project')
KIND = ('--accelerator_type=v5litepod-16',)
RUN = ('--run=tickets', '--bucket=gs://my-bucket/runs')
QUICK = ('--poll_seconds=0.02', '--delete_attempts=5')

# What stands for jax-prompt on a worker: it records its arguments, then does what `train` says.
PROGRAM = """#!/bin/bash
[ "$1" != --help ] || exit 0
[ "$2" != --help ] || { [ "$1" = predict ] || echo "  --distributed"; exit 0; }
printf '%s\\0' "$@" > "$STAND_IN_WORLD/argv-$TPU_WORKER_ID"
for word in "$@"; do case $word in --output=*) output=${word#--output=} ;; esac; done
checkpoint() { mkdir -p "$output/checkpoints/$1"; echo "step $1" > "$output/checkpoints/$1/state"; }
first() { [ "$TPU_WORKER_ID" = 0 ]; }
echo "training on worker $TPU_WORKER_ID"
. "$STAND_IN_WORLD/train"
"""

# What stands for the image's Python: it "installs" by putting the program in its place.
PYTHON = """#!/bin/bash
echo "python3 $*" >> "$STAND_IN_WORLD/python_calls"
if [ "$2 $3" = "uv venv" ]; then
  mkdir -p "${@: -1}/bin"
  cp "$STAND_IN_WORLD/program" "${@: -1}/bin/jax-prompt"
fi
"""


def _heed_signals() -> None:
    """Let a script be interrupted, also where the tests run in the background.

    A shell cannot trap what was ignored when it began, as interrupts and hang-ups then are.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class World:
    """A cloud in a folder."""

    def __init__(self, folder: pathlib.Path, checkout: pathlib.Path):
        self.folder = folder
        self.scripts = checkout / 'tpu_scripts'
        self.bucket = folder / 'buckets/my-bucket/runs/tickets'
        for name in ('bin', 'worker_bin', 'home', 'tmp'):
            (folder / name).mkdir()
        self._program(
            # Imported, so that it is compiled once.
            'bin/gcloud', f'#!/bin/sh\nPYTHONPATH={STAND_IN.parent} exec {sys.executable} -S -c '
            '"import sys, stand_in; sys.exit(stand_in.main(sys.argv[1:]))" "$@"\n')
        self._program('worker_bin/python3', PYTHON)
        self._program('program', PROGRAM)
        self.workers(2)
        self.train('! first || checkpoint 1')

    def _program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    def workers(self, number: int) -> None:
        (self.folder / 'num_workers').write_text(str(number))

    def train(self, text: str) -> None:
        """Say what training does, in bash."""
        (self.folder / 'train').write_text(text)

    def rules(self, *rules: dict) -> None:
        """Say which calls fail: match (a pattern), code, times, stderr, effect, hang."""
        (self.folder / 'rules.json').write_text(json.dumps(rules))

    def states(self, group: str, *states: str) -> None:
        """Line up what the next looks at a state will see."""
        (self.folder / f'{group}.states').write_text('\n'.join(states))

    @property
    def environment(self) -> dict[str, str]:
        return {'PATH': f"{self.folder / 'bin'}:/usr/bin:/bin", 'HOME': str(self.folder / 'home'),
                'STAND_IN_WORLD': str(self.folder), 'TMPDIR': str(self.folder / 'tmp'),
                'GIT_CONFIG_NOSYSTEM': '1'}

    def start(self, script: str, *flags: str) -> subprocess.Popen:
        return subprocess.Popen(
            [self.scripts / script, *flags], env=self.environment, cwd=self.folder,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True, preexec_fn=_heed_signals)

    def finish(self, process: subprocess.Popen, timeout: float = 120):
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def call(self, script: str, *flags: str) -> subprocess.CompletedProcess:
        """Run a script to its end."""
        return self.finish(self.start(script, *flags))

    def must(self, script: str, *flags: str) -> subprocess.CompletedProcess:
        done = self.call(script, *flags)
        assert done.returncode == 0, done.stderr
        return done

    @property
    def calls(self) -> list[list[str]]:
        record = self.folder / 'calls'
        return [json.loads(line) for line in record.read_text().splitlines()] if (
            record.exists()) else []

    def verbs(self) -> list[str]:
        """What was asked of the cloud, in order, without looks at states and storage."""
        return [' '.join(call[2:4]) for call in self.calls
                if call[0] == 'compute' and call[3] != 'describe']

    def costs(self) -> bool:
        """Whether anything is there that costs money."""
        return (self.folder / 'tpu-vm').exists() or (self.folder / 'queued-resources').exists()

    def argv(self, worker: int = 0) -> list[str]:
        """The arguments that the program on a worker was last given."""
        return (self.folder / f'argv-{worker}').read_text().split('\0')[:-1]

    def home(self, worker: int = 0) -> pathlib.Path:
        return self.folder / 'workers' / str(worker) / 'jax_prompt'

    def wait_for(self, condition, what: str) -> None:
        for _ in range(3000):
            if condition():
                return
            time.sleep(0.02)
        raise AssertionError(f'waited in vain for {what}')

    def preempt(self) -> None:
        """Take the VM away, as the cloud does: without a word."""
        (self.folder / 'tpu-vm').write_text('PREEMPTED')
        for pid in self.folder.glob('workers/*/jax_prompt/runs/*/pid'):
            os.killpg(int(pid.read_text()), signal.SIGKILL)

    def close(self) -> None:
        """End whatever a test that failed half-way left running."""
        for pattern in ('workers/*/jax_prompt/runs/*/pid', '*/runs/*/pid'):
            for pid in self.folder.glob(pattern):
                with contextlib.suppress(ProcessLookupError, ValueError):
                    os.killpg(int(pid.read_text()), signal.SIGKILL)


@pytest.fixture(scope='session')
def checkout(tmp_path_factory):
    """A git checkout that holds the scripts and little else, so that copying it is quick."""
    folder = tmp_path_factory.mktemp('checkout')
    shutil.copytree(SCRIPTS, folder / 'tpu_scripts')
    (folder / 'pyproject.toml').write_text('[project]\nname = "jax-prompt"\n')
    git = ['git', '-C', folder, '-c', 'user.name=t', '-c', 'user.email=t@example.com']
    for command in (['init', '-q'], ['add', '.'], ['commit', '-q', '-m', 'all']):
        subprocess.run([*git, *command], check=True)
    return folder


@pytest.fixture
def world(tmp_path, checkout):
    """A cloud with nothing in it."""
    world = World(tmp_path, checkout)
    yield world
    world.close()
