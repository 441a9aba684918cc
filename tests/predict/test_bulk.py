"""Bulk prediction: order kept, tasks mixed, memory bounded, and no kill loses or doubles a line."""

import dataclasses
import errno
import fcntl
import io
import json
import logging
import os
import pathlib
import resource
import signal
import subprocess
import sys
import textwrap
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_prompt.inference.answering import AnswerSettings
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.shapes import Shapes
from jax_prompt.predict import bulk
from jax_prompt.predict.bulk import BulkSettings, predict_file
from jax_prompt.predict.journal import Journal
from jax_prompt.predict.progress import Progress, ProgressLine
from jax_prompt.predict.shares import (
    check_mark,
    leave_mark,
    merge_parts,
    part_path,
    share_of,
    take_mark_away,
)
from tests.inference.many_prompts import open_tiny, prompts, requests

SHAPES = Shapes(batch_sizes=(8,), lengths=(48,), labels=((8, 4),), targets=(16,), shared_labels=1)
SETTINGS = BulkSettings(prompt_column='task', window=10)
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def engine(world):
    opened = open_tiny(world / 'model')
    engine = Engine(opened, SHAPES, capacity=256)
    for name, file in prompts(opened).items():
        engine.add(name, file)
    return engine


def write_inputs(path, count, seed=0):
    """Write requests of all tasks, in no order."""
    with open(path, 'w', encoding='utf-8') as file:
        for number, (name, inputs) in enumerate(requests(count, seed)):
            fields = inputs if isinstance(inputs, dict) else {'text': inputs}
            file.write(json.dumps({'id': number, 'task': name, 'sign': 'ä', **fields}) + '\n')
    return path


def read(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text('utf-8').splitlines()]


def test_lines_of_many_tasks_are_answered_in_order_each_as_alone(engine, tmp_path):
    inputs = write_inputs(tmp_path / 'in.jsonl', 37)
    done = predict_file(engine, inputs, tmp_path / 'out.jsonl', SETTINGS)
    found = read(tmp_path / 'out.jsonl')
    assert done.lines == 37 and [record['id'] for record in found] == list(range(37))
    assert os.listdir(tmp_path) == ['in.jsonl', 'out.jsonl'] or len(os.listdir(tmp_path)) == 2
    for asked, answered in zip(read(inputs), found, strict=True):
        assert {key: answered[key] for key in asked} == asked
        alone = engine.run([engine.row(asked['task'], asked)])[0]
        assert answered['prediction'] == alone.text
        if alone.scores is not None:
            np.testing.assert_allclose(list(answered['scores'].values()),
                                       list(alone.scores.values()), rtol=1e-5, atol=1e-5)


def test_plain_lines_are_answered_by_lines(engine, tmp_path):
    (tmp_path / 'in.txt').write_text('\ufeffthe film was great\r\nthe plot\n\nlast', 'utf-8')
    settings = BulkSettings(prompt='mood', format='lines', window=3)
    predict_file(engine, tmp_path / 'in.txt', tmp_path / 'out.txt', settings)
    expected = engine.run(engine.rows([('mood', text) for text in (
        'the film was great', 'the plot', '', 'last')]))
    assert (tmp_path / 'out.txt').read_text().splitlines() == [one.text for one in expected]


def test_a_line_without_a_task_falls_to_the_default(engine, tmp_path):
    lines = [{'text': 'film', 'task': None}, {'text': 'film'}, {'text': 'film', 'task': 'mood'}]
    (tmp_path / 'in.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    settings = BulkSettings(prompt='mood', prompt_column='task')
    predict_file(engine, tmp_path / 'in.jsonl', tmp_path / 'out.jsonl', settings)
    first, second, third = read(tmp_path / 'out.jsonl')
    assert first['scores'] == second['scores'] == third['scores']


def test_a_line_that_names_nothing_is_the_plain_models(engine, tmp_path):
    (tmp_path / 'in.jsonl').write_text('{"text": "film", "task": null}\n'
                                       '{"text": "film", "task": ""}\n')
    predict_file(engine, tmp_path / 'in.jsonl', tmp_path / 'out.jsonl', SETTINGS)
    plain, = engine.run([engine.row(None, 'film')])
    assert [one['prediction'] for one in read(tmp_path / 'out.jsonl')] == 2 * [plain.text]


def test_no_more_than_a_window_is_read_ahead(engine):
    taken = []
    endless = (taken.append(1) or 'film' for _ in iter(int, 1))
    found = bulk.answer_lines(engine, endless, BulkSettings('mood', format='lines', window=7))
    assert not taken
    assert next(found).lines == 7 and len(taken) == 7


@pytest.mark.parametrize('count', [2, 3, 5])
def test_shares_of_several_hosts_join_to_the_whole(engine, tmp_path, count):
    inputs = write_inputs(tmp_path / 'in.jsonl', 23)
    for index in reversed(range(count)):  # in any order
        predict_file(engine, inputs, tmp_path / 'out.jsonl', SETTINGS, (index, count))
    assert not (tmp_path / 'out.jsonl').exists()
    merge_parts(tmp_path / 'out.jsonl', count)
    assert [record['id'] for record in read(tmp_path / 'out.jsonl')] == list(range(23))
    assert sorted(os.listdir(tmp_path)) == ['in.jsonl', 'out.jsonl']


def test_a_share_that_is_answered_is_not_answered_again_until_all_are_joined(engine, tmp_path):
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 23), tmp_path / 'out.jsonl'
    done = predict_file(engine, inputs, output, SETTINGS, (0, 2))
    part = pathlib.Path(part_path(output, (0, 2)))
    written = part.read_bytes()
    again = predict_file(engine, inputs, output, SETTINGS, (0, 2),
                         progress=lambda _: pytest.fail('answered again'))
    assert again == done and part.read_bytes() == written
    part.unlink()  # what is not there any more is made again
    predict_file(engine, inputs, output, SETTINGS, (0, 2))
    assert part.read_bytes() == written


def test_a_kill_while_the_parts_are_joined_is_mended(engine, tmp_path, monkeypatch):
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 23), tmp_path / 'out.jsonl'

    def answer_and_join(steps=None):
        """Do as two hosts do, killed behind so many steps of the join."""
        for index in range(2):
            predict_file(engine, inputs, output, SETTINGS, (index, 2))
        with monkeypatch.context() as patch:
            left = iter(range(99) if steps is None else range(steps))
            for step in (os.replace, os.unlink):
                patch.setattr(os, step.__name__, lambda *paths, step=step: (
                    step(*paths) if next(left, None) is not None else stop_after(1)(paths)))
            merge_parts(output, 2)

    answer_and_join()
    whole = output.read_bytes()
    for steps in range(5):
        output.unlink()
        with pytest.raises(KeyboardInterrupt):
            answer_and_join(steps)
        answer_and_join()
        assert output.read_bytes() == whole
        assert sorted(os.listdir(tmp_path)) == ['in.jsonl', 'out.jsonl']


def test_a_joined_output_that_is_a_link_stays_one(engine, tmp_path):
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 5), tmp_path / 'out.jsonl'
    (tmp_path / 'real').mkdir()
    output.symlink_to(tmp_path / 'real' / 'out.jsonl')
    for index in range(2):
        predict_file(engine, inputs, output, SETTINGS, (index, 2))
    merge_parts(output, 2)
    assert output.is_symlink() and len(read(output)) == 5
    assert os.listdir(tmp_path / 'real') == ['out.jsonl']


def test_hosts_see_whether_they_share_a_disk(tmp_path):
    (tmp_path / 'other').mkdir()
    mark = leave_mark(tmp_path / 'out')
    check_mark(tmp_path / 'out', mark)
    for path, said in ((tmp_path / 'other/out', mark), (tmp_path / 'out', 'of an earlier job')):
        with pytest.raises(ValueError, match='out of this host is not the one that the first host'):
            check_mark(path, said)
    take_mark_away(tmp_path / 'out')
    assert os.listdir(tmp_path) == ['other']


@pytest.mark.parametrize('text', ['', 'a', 'a\n', 'a\nb', '\n\n\n', 'abc\n\ndefghij\nk\n' * 5])
def test_every_line_is_in_one_share(tmp_path, text):
    (tmp_path / 'in').write_bytes(text.encode())
    for count in (1, 2, 3, 7, 50):
        with open(tmp_path / 'in', 'rb') as file:
            bounds = [share_of(file, (index, count)) for index in range(count)]
            assert bounds[0][0] == 0 and bounds[-1][1] == len(text)
            assert all(end == start for (_, end), (start, _) in zip(
                bounds, bounds[1:], strict=False))
            for start, _ in bounds:
                assert start in (0, len(text)) or text[start - 1] == '\n'


def stop_after(windows):
    """Return a progress that ends the run, as ctrl-C would."""
    left = [windows]

    def stop(_):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    return stop


def test_an_interrupted_run_goes_on_and_writes_the_same_bytes(engine, tmp_path, caplog):
    inputs = write_inputs(tmp_path / 'in.jsonl', 47)
    predict_file(engine, inputs, tmp_path / 'whole.jsonl', SETTINGS)
    seen = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            predict_file(engine, inputs, tmp_path / 'out.jsonl', SETTINGS, progress=stop_after(2))
        assert not (tmp_path / 'out.jsonl').exists()
    with caplog.at_level(logging.INFO):
        done = predict_file(engine, inputs, tmp_path / 'out.jsonl', SETTINGS, progress=seen.append)
    assert len(seen) == 1 and done.lines == 47
    assert 'going on behind line 40 of an earlier run' in caplog.text
    assert (tmp_path / 'out.jsonl').read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def torn(path, text):
    with open(path, 'ab') as file:
        file.write(text)


def test_torn_pieces_are_cut_off(engine, tmp_path):
    inputs = write_inputs(tmp_path / 'in.jsonl', 30)
    predict_file(engine, inputs, tmp_path / 'whole.jsonl', SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        predict_file(engine, inputs, tmp_path / 'out.jsonl', SETTINGS, progress=stop_after(2))
    torn(tmp_path / 'out.jsonl.partial', b'{"id": 20, "ta')
    torn(tmp_path / 'out.jsonl.journal', b'{"read": 99999, "wri')
    predict_file(engine, inputs, tmp_path / 'out.jsonl', SETTINGS)
    assert (tmp_path / 'out.jsonl').read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()


def test_an_output_shorter_than_its_journal_says_goes_back_to_what_is_there(engine, tmp_path):
    inputs = write_inputs(tmp_path / 'in.jsonl', 30)
    predict_file(engine, inputs, tmp_path / 'whole.jsonl', SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        predict_file(engine, inputs, tmp_path / 'out.jsonl', SETTINGS, progress=stop_after(2))
    os.truncate(tmp_path / 'out.jsonl.partial', (tmp_path / 'out.jsonl.partial').stat().st_size - 9)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            predict_file(engine, inputs, tmp_path / 'out.jsonl', SETTINGS, progress=stop_after(1))
    predict_file(engine, inputs, tmp_path / 'out.jsonl', SETTINGS)
    assert (tmp_path / 'out.jsonl').read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()


def test_a_kill_between_the_last_steps_is_mended(engine, tmp_path, monkeypatch):
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 12), tmp_path / 'out.jsonl'
    predict_file(engine, inputs, tmp_path / 'whole.jsonl', SETTINGS)
    with monkeypatch.context() as patch:  # before the rename
        patch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            predict_file(engine, inputs, output, SETTINGS)
    assert not output.exists()
    with monkeypatch.context() as patch:  # after it, before the journal is taken away
        patch.setattr(Journal, '__exit__', lambda self, *_: self._files.close())
        predict_file(engine, inputs, output, SETTINGS)
    assert output.exists() and (tmp_path / 'out.jsonl.journal').exists()
    assert predict_file(engine, inputs, output, SETTINGS).lines == 12
    assert output.read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def test_what_a_killed_run_finished_answers_no_other_question(engine, tmp_path, monkeypatch):
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 12), tmp_path / 'out.jsonl'

    def finish_and_be_killed():
        with monkeypatch.context() as patch:  # before the journal is taken away
            patch.setattr(Journal, '__exit__', lambda self, *_: self._files.close())
            predict_file(engine, inputs, output, SETTINGS)

    finish_and_be_killed()
    output.unlink()
    assert predict_file(engine, inputs, output, SETTINGS).lines == len(read(output)) == 12
    finish_and_be_killed()
    write_inputs(inputs, 9, seed=1)
    assert predict_file(engine, inputs, output, SETTINGS).lines == len(read(output)) == 9
    assert sorted(os.listdir(tmp_path)) == ['in.jsonl', 'out.jsonl']


def test_an_answer_takes_away_what_an_earlier_one_put_in(engine, tmp_path):
    old = {'prediction': 'old', 'scores': {'old': 1.0}, 'probabilities': {'old': 1.0}}
    (tmp_path / 'in.jsonl').write_text(json.dumps(old | {'text': 'film', 'id': 1}))
    predict_file(engine, tmp_path / 'in.jsonl', tmp_path / 'out.jsonl', BulkSettings('title'))
    answer, = read(tmp_path / 'out.jsonl')
    assert answer.keys() == {'text', 'id', 'prediction'} and answer['prediction'] != 'old'


def test_a_wrong_line_is_named_and_can_be_mended(engine, tmp_path):
    inputs = write_inputs(tmp_path / 'in.jsonl', 30)
    lines = inputs.read_text().splitlines()
    (tmp_path / 'bad.jsonl').write_text('\n'.join([*lines[:24], '{oops', *lines[25:]]) + '\n')
    with pytest.raises(ValueError, match=r'^line 25 of .*bad.jsonl is not JSON'):
        predict_file(engine, tmp_path / 'bad.jsonl', tmp_path / 'out.jsonl', SETTINGS)
    (tmp_path / 'bad.jsonl').write_text(inputs.read_text())
    seen = []
    predict_file(engine, tmp_path / 'bad.jsonl', tmp_path / 'out.jsonl', SETTINGS,
                 progress=seen.append)
    assert len(seen) == 1  # twenty lines were answered before
    assert [record['id'] for record in read(tmp_path / 'out.jsonl')] == list(range(30))


@pytest.mark.parametrize('line, message', [
    ('{"text": "film", "task": "nobody"}', "line 2 of .*: no prompt 'nobody' in use"),
    ('{"text": "film", "tsak": "mood"}', "column 'task' is not there at line 2 of .*, which has "
                                         "'text', 'tsak'; expected the name of a prompt"),
    ('{"text": "film", "task": 3}', "column 'task' at line 2 of .* holds 3; expected the name"),
    ('{"texts": "film", "task": "mood"}', "column 'text' is not there at line 2 of"),
    ('[]', 'line 2 of .* is a JSON list'),
    ('', 'line 2 of .* is blank'),
    ('{"text": "a <extra_id_99>", "task": "marked"}', 'line 2 of .*: marker .* stands 2 times'),
])
def test_what_is_wrong_is_named_by_its_line_and_leaves_nothing(engine, tmp_path, line, message):
    (tmp_path / 'in.jsonl').write_text('{"text": "film", "task": "mood"}\n' + line + '\n')
    with pytest.raises(ValueError, match=message):
        predict_file(engine, tmp_path / 'in.jsonl', tmp_path / 'out.jsonl', SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ['in.jsonl']


def test_bytes_that_are_no_text_are_refused(engine, tmp_path):
    (tmp_path / 'in.txt').write_bytes(b'film\nb\xe4d\n')
    with pytest.raises(ValueError, match='line 2 of .* is not UTF-8 text .* at byte 2 of the line'):
        predict_file(engine, tmp_path / 'in.txt', tmp_path / 'out.txt',
                     BulkSettings('mood', format='lines'))


def other(engine, shapes=None, prompts=None, **opened):
    """Return what tells an engine from others, with something changed."""
    return types.SimpleNamespace(
        opened=types.SimpleNamespace(**vars(engine.opened) | opened),
        shapes=shapes or engine.shapes, prompts=prompts or engine.prompts)


def other_engines(engine):
    """Return engines whose answers are not those of this one, by what differs."""
    model, name = engine.opened.model, 'mood'
    file = dataclasses.replace(engine.prompts[name].file, prompt_PD=np.zeros((5, 16), np.float32))
    return {
        'model': other(engine, fingerprint='others'),
        'vocabulary': other(engine, vocabulary_fingerprint='others'),
        'activation dtype': other(engine, model=dataclasses.replace(
            model, dtype=jnp.dtype('bfloat16'))),
        'weight dtype': other(engine, frozen=jax.tree.map(
            lambda leaf: leaf.astype('bfloat16'), engine.opened.frozen)),
        'layers': other(engine, model=dataclasses.replace(
            model, scan_layers=not model.scan_layers)),
        'prompt mood': other(engine, prompts=engine.prompts | {
            name: dataclasses.replace(engine.prompts[name], file=file)}),
        'batches': other(engine, shapes=dataclasses.replace(SHAPES, batch_sizes=(4,))),
    }


def test_another_runs_output_is_not_gone_on_with(engine, tmp_path, monkeypatch):
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 30), tmp_path / 'out.jsonl'
    with pytest.raises(KeyboardInterrupt):
        predict_file(engine, inputs, output, SETTINGS, progress=stop_after(2))
    begun = {path: path.read_bytes() for path in tmp_path.iterdir()}
    another = 'out.jsonl.journal was left by another run: {}[a-z_.]* was .* and is now .*; give'
    for name, changed in other_engines(engine).items():
        with pytest.raises(ValueError, match=another.format(name)):
            predict_file(changed, inputs, output, SETTINGS)
    with pytest.raises(ValueError, match='another run: settings.window was 10 and is now 9, '
                                         'settings.answers.seed was 0 and is now 3; give'):
        predict_file(engine, inputs, output, BulkSettings(
            prompt_column='task', window=9, answers=AnswerSettings(seed=3)))
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=another.format('version')):
        patch.setattr(bulk, '__version__', '0.0.0')
        predict_file(engine, inputs, output, SETTINGS)
    monkeypatch.setattr(bulk, 'part_path', lambda output, share: output)
    with pytest.raises(ValueError, match='another run: share was .*, input size was None and'):
        predict_file(engine, inputs, output, SETTINGS, (0, 2))
    assert begun == {path: path.read_bytes() for path in tmp_path.iterdir()}
    write_inputs(inputs, 30, seed=1)
    with pytest.raises(ValueError, match='first 20 lines of .* have changed since an earlier run'):
        predict_file(engine, inputs, output, SETTINGS)


def test_prompts_may_come_and_go_between_two_processes_but_not_change(engine, tmp_path):
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 30), tmp_path / 'out.jsonl'
    predict_file(engine, inputs, tmp_path / 'whole.jsonl', SETTINGS)
    used = {record['task'] for record in read(inputs)}
    more = {'later': engine.prompts['mood']}

    def go_on(files, progress=None):
        changed = Engine(engine.opened, SHAPES, capacity=256)
        for name, prompt in files.items():
            changed.add(name, prompt.file)
        predict_file(changed, inputs, output, SETTINGS, progress=progress)

    for files in (engine.prompts, engine.prompts | more):
        with pytest.raises(KeyboardInterrupt):
            go_on(files, stop_after(1))
    # What came in between may have answered lines as well.
    with pytest.raises(ValueError, match='another run: prompt later was .* and is now'):
        go_on(engine.prompts | {'later': engine.prompts['words']})
    go_on({name: engine.prompts[name] for name in used})
    assert output.read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()


@pytest.mark.parametrize(('name', 'text', 'message'), [
    ('out.jsonl.partial', 'my notes\n', 'out.jsonl.partial is no output that an earlier run began'),
    ('out.jsonl.journal', 'my notes\n', 'out.jsonl.journal is no journal of an output'),
    ('out.jsonl.journal', '{"my": "notes"}', 'out.jsonl.journal is no journal of an output'),
])
def test_files_of_the_users_own_are_left_alone(engine, tmp_path, name, text, message):
    inputs = write_inputs(tmp_path / 'in.jsonl', 3)
    (tmp_path / name).write_text(text)
    for _ in range(2):
        with pytest.raises(ValueError, match=message + ', so it is left alone; move it away'):
            predict_file(engine, inputs, tmp_path / 'out.jsonl', SETTINGS)
    assert (tmp_path / name).read_text() == text and len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize('text', ['', '{"jax_pro', '{"jax_prompt_journal": 1, "versi'])
def test_a_kill_in_the_first_line_of_the_journal_is_mended(engine, tmp_path, text):
    inputs = write_inputs(tmp_path / 'in.jsonl', 3)
    (tmp_path / 'out.jsonl.partial').touch()
    (tmp_path / 'out.jsonl.journal').write_text(text)
    assert predict_file(engine, inputs, tmp_path / 'out.jsonl', SETTINGS).lines == 3
    assert sorted(os.listdir(tmp_path)) == ['in.jsonl', 'out.jsonl']


def test_two_processes_do_not_write_one_output(engine, tmp_path):
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 3), tmp_path / 'out.jsonl'
    with Journal(output, {}, {}):
        with pytest.raises(ValueError, match='another process is writing output'):
            predict_file(engine, inputs, output, SETTINGS)


def test_a_file_system_that_cannot_lock_is_warned_of(engine, tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOSYS, 'Function not implemented')

    monkeypatch.setattr(fcntl, 'flock', flock)
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 3), tmp_path / 'out.jsonl'
    assert predict_file(engine, inputs, output, SETTINGS).lines == len(read(output)) == 3
    assert 'out.jsonl cannot be locked (Function not implemented)' in caplog.text


def test_a_disk_that_is_full_is_told_and_the_run_goes_on_once_there_is_room(engine, tmp_path):
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 30), tmp_path / 'out.jsonl'
    predict_file(engine, inputs, tmp_path / 'whole.jsonl', SETTINGS)
    whole = (tmp_path / 'whole.jsonl').read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # as a full disk: writing fails behind so many bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, hard))
        with pytest.raises(OSError, match='^cannot write output .*out.jsonl: File too large; mend'):
            predict_file(engine, inputs, output, SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert predict_file(engine, inputs, output, SETTINGS).lines == 30
    assert output.read_bytes() == whole and len(os.listdir(tmp_path)) == 3


def test_inputs_that_were_cut_are_counted_over_all_processes(engine, tmp_path, caplog):
    (tmp_path / 'in.txt').write_text('film film film film film\nfilm\n' * 6)
    settings = BulkSettings('short', format='lines', window=4)
    with pytest.raises(KeyboardInterrupt):
        predict_file(engine, tmp_path / 'in.txt', tmp_path / 'out', settings,
                     progress=stop_after(1))
    with caplog.at_level(logging.WARNING):
        predict_file(engine, tmp_path / 'in.txt', tmp_path / 'out', settings)
    assert '6 of 12 inputs were longer than their task allows and were cut' in caplog.text


def test_progress_says_pace_and_time_left(engine, tmp_path):
    seen, inputs = [], write_inputs(tmp_path / 'in.jsonl', 30)
    predict_file(engine, inputs, tmp_path / 'out.jsonl', SETTINGS, progress=seen.append)
    assert [progress.lines for progress in seen] == [10, 20, 30]
    assert seen[-1].fraction == 1 and seen[-1].seconds_left == 0
    assert all(progress.lines_per_second > 0 for progress in seen)
    assert seen[0].seconds_left > 0


def test_progress_is_shown_in_plain_lines_where_there_is_no_terminal():
    out = io.StringIO()
    show = ProgressLine(out, seconds_between_lines=1000)
    for lines in (1000, 2000, 3000):
        show(Progress(lines, lines / 3000, 41.5, 3661.2))
    assert out.getvalue() == ('1,000 lines, 33.3 %, 41.5 lines/s, 1:01:01 left\n'
                              '3,000 lines, 100.0 %, 41.5 lines/s, 1:01:01 left\n')


@pytest.mark.parametrize('wrong, message', [
    (dict(format='csv'), "input format 'csv' is unknown; choose one of lines, jsonl"),
    (dict(format='lines', prompt_column='task'), 'only jsonl has columns'),
    (dict(window=0), 'window=0 for prediction; expected at least 1'),
])
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        BulkSettings(**wrong)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match='share 2 of 2; expected a number from 0 to 1'):
        part_path('out', (2, 2))


PROCESS = """
    import pathlib, sys, time
    from jax_prompt.predict import bulk
    from jax_prompt.inference.engine import Engine
    from tests.inference.many_prompts import open_tiny, prompts
    from tests.predict.test_bulk import SETTINGS, SHAPES

    world, inputs, output, slow = sys.argv[1:]
    opened = open_tiny(pathlib.Path(world) / 'model')
    engine = Engine(opened, SHAPES, capacity=256)
    for name, file in prompts(opened).items():
        engine.add(name, file)
    bulk.predict_file(engine, inputs, output, SETTINGS,
                      progress=lambda progress: (print(progress.lines, flush=True),
                                                 time.sleep(float(slow))))
"""


@pytest.mark.slow
def test_killed_again_and_again_the_bytes_are_those_of_a_run_that_was_not(world, tmp_path):
    inputs, output = write_inputs(tmp_path / 'in.jsonl', 203), tmp_path / 'out.jsonl'
    environment = {**os.environ, 'PYTHONPATH': str(ROOT),
                   'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'xla'),
                   'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
    draw = np.random.default_rng(0)

    def start(to, slow):
        return subprocess.Popen(
            [sys.executable, '-c', textwrap.dedent(PROCESS), world, inputs, to, str(slow)],
            env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    whole = start(tmp_path / 'whole.jsonl', 0)
    assert len(whole.stdout.readlines()) == 21 and whole.wait() == 0
    answered = []
    for _ in range(5):
        with start(output, 0.05) as process:
            for _ in range(int(draw.integers(1, 4))):
                answered.append(int(process.stdout.readline()))
            time.sleep(float(draw.uniform(0, 0.1)))  # anywhere in the next window
            process.send_signal(signal.SIGKILL)
        assert not output.exists() and (tmp_path / 'out.jsonl.partial').exists()
    with start(output, 0) as process:
        answered += [int(line) for line in process.stdout]
    assert answered == sorted(set(answered)) and answered[-1] == 203
    assert output.read_bytes() == (tmp_path / 'whole.jsonl').read_bytes()
    assert not list(tmp_path.glob('out.jsonl.*'))
