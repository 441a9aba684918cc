"""The history: appended whole, read past what a kill left, drawn."""

import json
import logging
import os
import pathlib
import subprocess
import sys

import pytest

from jax_prompt.monitoring import history
from jax_prompt.monitoring.history import append_history, draw_history, read_history

ROOT = pathlib.Path(__file__).parents[2]
QUALITY = {'metric': 'accuracy', 'value': 0.8, 'size': 100, 'interval': [0.7, 0.9],
           'reference': 0.85, 'margin': 0.02, 'rises': False}
DRIFT = {'lengths': {'test': 'Kolmogorov-Smirnov', 'size': 0.1, 'p': 0.3, 'drifted': False}}


def record(day, version='1', fallen=False, name='mood', **more):
    return {'time': f'2026-01-{day:02}T06:00:00+00:00', 'name': name, 'version': version,
            'fallen': fallen, 'quality': QUALITY, 'drift': DRIFT, **more}


def test_a_line_that_a_kill_cut_short_costs_nothing_else(tmp_path, caplog):
    path = tmp_path / 'new' / 'history.jsonl'
    append_history(path, [record(1), record(2)])
    before = path.read_bytes()
    with path.open('ab') as file:
        file.write(b'{"time": "2026-01-03T0')
    append_history(path, [record(4)])
    assert path.read_bytes().startswith(before)
    with caplog.at_level(logging.WARNING):
        assert [one['time'].day for one in read_history(path)] == [1, 2, 4]
    assert 'line 3 cannot be read and is passed over' in caplog.text


_WORKER = """
import pathlib, sys
from jax_prompt.monitoring.history import append_history
for number in range(20):
    append_history(pathlib.Path(sys.argv[1]), [{'time': '2026-01-01', 'worker': int(sys.argv[2]),
                                                'number': number, 'filler': 'x' * 3000}])
"""


def test_two_processes_append_at_once_and_lose_nothing(tmp_path):
    path = tmp_path / 'history.jsonl'
    workers = [subprocess.Popen([sys.executable, '-c', _WORKER, str(path), str(worker)], cwd=ROOT)
               for worker in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    assert sorted((one['worker'], one['number']) for one in lines) == [
        (worker, number) for worker in range(2) for number in range(20)]


@pytest.mark.parametrize('ending', [pytest.param('png', marks=pytest.mark.slow), 'svg'])
def test_it_is_drawn_with_what_is_missing_left_out(tmp_path, ending):
    path, picture = tmp_path / 'history.jsonl', tmp_path / f'history.{ending}'
    append_history(path, [record(1), record(2, fallen=True), record(3, '2'),
                          record(3, name='pair', quality=None), record(4, name='team', drift={})])
    draw_history(path, picture)
    content = picture.read_bytes()
    assert content.startswith(b'\x89PNG' if ending == 'png' else b'<?xml')
    if ending == 'svg':
        assert b'no labelled data' in content and b'<!-- fallen -->' in content


def test_another_kind_of_picture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ends in '.gif'; expected .png or .svg"):
        draw_history(tmp_path / 'history.jsonl', tmp_path / 'history.gif')


def test_a_disk_that_is_full_is_said_and_what_was_there_stays(tmp_path, monkeypatch):
    path = tmp_path / 'history.jsonl'
    append_history(path, [record(1)])
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(history.os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        append_history(path, [record(2)])
    assert path.read_bytes().startswith(before)
