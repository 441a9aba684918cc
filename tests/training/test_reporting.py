"""Metrics survive kills, and the pictures and the card tell what they should."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from jax_prompt.files import write_file
from jax_prompt.training import card as card_module
from jax_prompt.training.card import fenced, format_bytes, results_table, table
from jax_prompt.training.curves import draw_curves
from jax_prompt.training.reporting import MetricsLog, read_metrics


def write_steps(log, steps):
    for step in steps:
        log.write(step, 'train', {'loss': 1.0 / (step + 1), 'accuracy': 0.5})


# metrics.jsonl


def test_each_metric_is_a_line_of_json(tmp_path):
    with MetricsLog(tmp_path / 'run', tensorboard=False) as log:
        log.write(7, 'validation', {'loss': np.float32(0.5), 'accuracy': np.array(0.25)})
    lines = (tmp_path / 'run/metrics.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {'step': 7, 'split': 'validation', 'name': 'loss', 'value': 0.5},
        {'step': 7, 'split': 'validation', 'name': 'accuracy', 'value': 0.25},
    ]


def test_a_value_that_is_not_finite_is_null(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write(1, 'train', {'loss': math.nan, 'norm': math.inf})

    def refuse(constant):
        raise AssertionError(f'{constant} is not JSON')

    text = (tmp_path / 'metrics.jsonl').read_text()
    values = [json.loads(line, parse_constant=refuse)['value'] for line in text.splitlines()]
    assert values == [None, None]
    assert all(math.isnan(record['value']) for record in read_metrics(tmp_path / 'metrics.jsonl'))


def test_a_new_run_starts_empty(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        write_steps(log, [1, 2])
    MetricsLog(tmp_path, tensorboard=False).close()
    assert read_metrics(tmp_path / 'metrics.jsonl') == []


@pytest.mark.parametrize('half_line', ['', '{"step": 9, "split": "tr'])
@pytest.mark.parametrize('checkpoint', [0, 3, 6])
def test_a_resumed_run_leaves_the_lines_of_an_uninterrupted_one(tmp_path, half_line, checkpoint):
    with MetricsLog(tmp_path / 'whole', tensorboard=False) as log:
        write_steps(log, range(10))
    with MetricsLog(tmp_path / 'killed', tensorboard=False) as log:
        write_steps(log, range(7))
    path = tmp_path / 'killed/metrics.jsonl'
    with open(path, 'a') as file:
        file.write(half_line)
    with MetricsLog(tmp_path / 'killed', resume_step=checkpoint, tensorboard=False) as log:
        write_steps(log, range(checkpoint + 1, 10))
    assert path.read_bytes() == (tmp_path / 'whole/metrics.jsonl').read_bytes()


def test_a_run_can_be_resumed_before_it_wrote_anything(tmp_path):
    with MetricsLog(tmp_path, resume_step=5, tensorboard=False) as log:
        write_steps(log, [6])
    assert [record['step'] for record in read_metrics(tmp_path / 'metrics.jsonl')] == [6, 6]


def test_lines_of_a_killed_process_are_there(tmp_path):
    code = f"""
        import os, signal
        from jax_prompt.training.reporting import MetricsLog
        log = MetricsLog({str(tmp_path)!r}, tensorboard=False)
        log.write(1, 'train', {{'loss': 1.0}})
        log.write(2, 'train', {{'loss': 0.5}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    killed = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)], env=environment, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert [record['step'] for record in read_metrics(tmp_path / 'metrics.jsonl')] == [1, 2]


@pytest.mark.parametrize('line', ['nonsense', '{"step": 1}', '[1]', '{"step": 1, "split": "train", '
                                  '"name": "loss", "value": "much"}'])
def test_a_line_that_is_no_metric_is_named(tmp_path, line):
    path = tmp_path / 'metrics.jsonl'
    good = '{"step": 1, "split": "train", "name": "loss", "value": 1.0}\n'
    path.write_text(good + line + '\n' + good)
    with pytest.raises(ValueError, match=r'metrics\.jsonl:2 is not a metric: got .*expected'):
        read_metrics(path)


def test_missing_metrics_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='no metrics at .*metrics.jsonl'):
        read_metrics(tmp_path / 'metrics.jsonl')


def test_tensorboard_gets_the_same_scalars(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(3, 'train', {'loss': math.nan})
        log.write(4, 'validation', {'accuracy': np.float32(0.75)})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / 'tensorboard'))
    events.Reload()
    assert events.Tags()['scalars'] == ['train/loss', 'validation/accuracy']
    assert [math.isnan(event.value) for event in events.Scalars('train/loss')] == [True]
    (event,) = events.Scalars('validation/accuracy')
    assert (event.step, event.value) == (4, 0.75)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'card.md'
    write_file(path, b'old')
    with monkeypatch.context() as patch, pytest.raises(OSError, match='no space') as raised:
        def fail(descriptor):
            raise OSError(errno.ENOSPC, 'no space')

        patch.setattr(os, 'fsync', fail)
        write_file(path, b'new', overwrite=True)
    assert raised.value.filename == str(path)
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['card.md']
    write_file(path, b'new', overwrite=True)
    assert path.read_bytes() == b'new'


# curves.png


def colors(path):
    """Return the set of colours in a picture."""
    with Image.open(path) as image:
        assert image.format == 'PNG' and min(image.size) > 300
        return {color for _, color in image.convert('RGB').getcolors(1 << 24)}


BLUE, GRAY, ORANGE, RED = (31, 119, 180), (127, 127, 127), (255, 127, 14), (214, 39, 40)


def test_curves_show_each_split_in_its_colour(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write(0, 'validation', {'loss': 1.0, 'accuracy': 0.6})
        for step in range(1, 101):
            log.write(step, 'train', {'loss': 1 / step, 'accuracy': 0.8, 'examples_per_second': 31})
        log.write(100, 'validation', {'loss': math.nan, 'accuracy': 0.8})
    draw_curves(tmp_path / 'metrics.jsonl', tmp_path / 'curves.png')
    assert {BLUE, GRAY} <= colors(tmp_path / 'curves.png')
    assert ORANGE not in colors(tmp_path / 'curves.png')
    with MetricsLog(tmp_path, resume_step=100, tensorboard=False) as log:
        log.write(100, 'test', {'loss': 0.5, 'accuracy': 0.8})
    draw_curves(tmp_path / 'metrics.jsonl', tmp_path / 'curves.png', kept_steps={'': 100})
    assert {BLUE, GRAY, ORANGE} <= colors(tmp_path / 'curves.png')


def test_what_was_measured_once_is_a_level_line(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        log.write(0, 'validation', {'accuracy': 0.6})
        log.write(100, 'validation', {'accuracy': 0.8})
        log.write(100, 'no prompt', {'accuracy': 0.67})
    draw_curves(tmp_path / 'metrics.jsonl', tmp_path / 'curves.png')
    assert {BLUE, RED} <= colors(tmp_path / 'curves.png')


@pytest.mark.parametrize('points', [0, 1, 2])
def test_few_points_are_drawn(tmp_path, points):
    with MetricsLog(tmp_path, tensorboard=False) as log:
        for step in range(points):
            log.write(step, 'validation', {'loss': 1.0, 'accuracy': 0.6})
    draw_curves(tmp_path / 'metrics.jsonl', tmp_path / 'curves.png')
    assert (BLUE in colors(tmp_path / 'curves.png')) == (points > 0)


# card.md


def test_metrics_stand_in_one_table_whatever_each_heading_has():
    text = results_table({'no prompt': {'accuracy': 0.672},
                          'after': {'accuracy': 0.84621, 'loss': 0.36}})
    assert '| no prompt | 0.672 |  |' in text and '| after | 0.8462 | 0.36 |' in text


def test_templates_cannot_break_the_card_open():
    template = 'first line\n```\n| cell | {text}'
    assert fenced(template) == f'````\n{template}\n````'
    assert '| layout | a \\| b c |' in table(('what', 'value'), [('layout', 'a | b\nc')])


@pytest.mark.parametrize(
    'count, text',
    [(999, '999 bytes'), (1000, '1 kB'), (41_600, '41.6 kB'), (307_844_608, '308 MB')],
)
def test_sizes_read_well(count, text):
    assert format_bytes(count) == text
    assert text in card_module.size_line(count, 10 * count)
