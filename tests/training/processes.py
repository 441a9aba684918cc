"""Runs of the command in processes of their own, one or several that make one program."""

import os
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]


def command(world, output, **settings):
    """Return the arguments that train in the tiny world; settings are those of TrainSettings."""
    return [sys.executable, '-m', 'jax_prompt.cli', 'train', f'--model={world / "model"}',
            f'--task={world / "reviews.csv"}', f'--output={output}', '--gin.prompt.rows=5',
            '--gin.file_task.inputs_template=review : {text}',
            '--gin.file_task.labels={"0": "negative", "1": "positive"}',
            *(f'--gin.settings.{name}={value}' for name, value in settings.items())]


def start(arguments, cache, devices=1, process=None, stderr=subprocess.PIPE):
    """Start one process with so many CPU devices; `process` is (port, number, index) of several."""
    if process is not None:
        port, number, index = process
        arguments = [*arguments, f'--coordinator=127.0.0.1:{port}', f'--num_processes={number}',
                     f'--process_id={index}']
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}'
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    environment = os.environ | {'XLA_FLAGS': flags, 'XDG_CACHE_HOME': str(cache),
                                'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': path}
    return subprocess.Popen(arguments, env=environment, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=stderr, text=True)


def free_port():
    """Return a port that nothing listened on a moment ago."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def start_together(arguments, cache, devices, number=2):
    """Start processes that make one program over loopback."""
    port = free_port()
    return [start(arguments, cache, devices, (port, number, index)) for index in range(number)]


def finish(*processes, timeout=300):
    """Wait for processes; return the exit code and standard error of each."""
    try:
        errors = [process.communicate(timeout=timeout)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, errors, strict=True)]


def newest_checkpoint(run):
    """Return the newest whole checkpoint's step, -1 where there is none."""
    folder = run / 'checkpoints'
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] \
        if folder.is_dir() else []
    return max(steps, default=-1)


def wait_for_checkpoint(run, step, process, timeout=240):
    """Wait until a run has saved this step or a later one."""
    deadline = time.monotonic() + timeout
    while newest_checkpoint(run) < step:
        assert process.poll() is None, 'the run ended too early'
        assert time.monotonic() < deadline
        time.sleep(0.005)
