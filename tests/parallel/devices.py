"""Run a script of these tests on forced CPU devices, and read the JSON that it prints last."""

import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parents[1]


def run(script: str, devices: int = 8, arguments: tuple[str, ...] = ()) -> Any:
    """Run a script in a process with this many CPU devices; return the JSON it prints last."""
    return _result(_start(script, devices, arguments))


def run_together(script: str, processes: int, devices: int) -> list[Any]:
    """Run a script in several processes at once, with a free port, their number and their index."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    started = [_start(script, devices, (str(port), str(processes), str(index)))
               for index in range(processes)]
    return [_result(process) for process in started]


def _start(script: str, devices: int, arguments: tuple[str, ...]) -> subprocess.Popen:
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={devices}'
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    environment = {**os.environ, 'PYTHONPATH': path, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags,
                   'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}
    return subprocess.Popen([sys.executable, FOLDER / script, *arguments], env=environment,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def _result(process: subprocess.Popen) -> Any:
    try:
        output, errors = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]
    return json.loads(output.splitlines()[-1])
