"""Parts of an output: no kill loses or doubles a line, and nothing foreign gets into it."""

import errno
import fcntl
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import textwrap

import pytest

from jax_prompt.predict import parts as parts_module
from jax_prompt.predict.inputs import windows
from jax_prompt.predict.parts import Answered, Parts

ROOT = pathlib.Path(__file__).parents[2]
RUN = {'model': 'tiny', 'settings': {'window': 3, 'seed': 0}}
LINES = [f'question {i} {30 * "ä"}\n'.encode() for i in range(11)]
ANSWERS = b''.join(b'answer to ' + line for line in LINES)


def answer(window):
    text = ''.join(f'answer to {line.decode()}' for line in window.lines)
    return Answered(window.digest, {'prompt a': '1'}, len(window.lines), 1, text)


def work(output, lines=LINES, run=RUN, named=(('prompt a', '1'),), share=None, windows_left=99):
    """Do as a process does, stopped behind so many windows; return the windows that it answered."""
    answered = []
    with Parts(output, run, dict(named)) as parts:
        for window in parts.missing(windows(iter(lines), 3, 'in.txt'), share):
            if len(answered) == windows_left:
                raise KeyboardInterrupt
            parts.add(window.number, answer(window))
            answered.append(window.number)
        assert parts.join() == (11, 4)
    return answered


def begin(output, number, **how):
    """Answer so many windows and stop; return what is on the disk."""
    with pytest.raises(KeyboardInterrupt):
        work(output, windows_left=number, **how)
    return on_disk(output.parent)


def on_disk(folder):
    return {path.relative_to(folder): path.read_bytes()
            for path in folder.rglob('*') if path.is_file()}


def part(output, number):
    return output.with_name(f'{output.name}.parts') / f'{number:08d}.part'


@pytest.fixture
def output(tmp_path):
    return tmp_path / 'out.txt'


def assert_done(output):
    assert output.read_bytes() == ANSWERS and os.listdir(output.parent) == [output.name]


@pytest.mark.parametrize('number', range(4))
def test_a_stopped_run_goes_on_behind_what_is_answered(output, number):
    begin(output, number)
    assert not output.exists()
    assert work(output) == list(range(number, 4))
    assert_done(output)


@pytest.mark.parametrize('order', [[1, 0], [2, 0, 1], [4, 1, 6, 0, 3, 5, 2]])
def test_any_number_of_hosts_write_the_same_bytes(output, order):
    answered = []
    for host in order[:-1]:  # one after the other, they find that the others are not done
        with pytest.raises(ValueError, match='part is not there as it was written; start the same'):
            answered += work(output, share=(host, len(order)))
    work(output, share=(order[-1], len(order)))
    assert_done(output)


def test_hosts_may_become_fewer_or_more_between_two_starts(output):
    begin(output, 1, share=(1, 2))
    with pytest.raises(ValueError, match='00000000.part is not there'):
        work(output, share=(2, 3))
    assert work(output) == [0, 3]
    assert_done(output)


def test_answers_of_a_host_whose_input_differs_are_not_joined(output):
    begin(output, 1, share=(1, 2), lines=[*LINES[:4], b'other\n', *LINES[5:]])
    with pytest.raises(ValueError, match='00000001.part is not there as it was written'):
        work(output, share=(0, 2))
    assert not output.exists()


#: Answers again and again in children that are killed before the k-th change of the disk.
KILLED = """
    import os, pathlib, signal, sys
    import jax
    jax.process_count, jax.process_index = lambda: 1, lambda: 0  # no backend: processes fork
    from tests.predict import test_parts as tests

    folder = pathlib.Path(sys.argv[1])
    output = folder / 'out.txt'
    CHANGES = {'open', 'os.rename', 'os.remove', 'os.rmdir', 'os.mkdir', 'os.truncate'}

    def run_and_be_killed(moment):
        left = [moment]
        def hook(event, arguments):
            if event in CHANGES and str(arguments[0]).startswith(str(folder)):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        child = os.fork()
        if child == 0:
            sys.addaudithook(hook)
            tests.work(output)
            os._exit(0)
        return os.waitpid(child, 0)[1] != 0

    moment = 0
    while run_and_be_killed(moment):
        assert not output.exists() or output.read_bytes() == tests.ANSWERS
        # A start that is killed at the same moment of its own goes on, or a third one does.
        run_and_be_killed(moment)
        assert run_and_be_killed(10 ** 6) is False
        seen = [name for name in os.listdir(folder) if not name.startswith('.')]
        assert output.read_bytes() == tests.ANSWERS and seen == ['out.txt'], (moment, seen)
        output.unlink()
        moment += 1
    print(moment)
"""


def test_killed_at_any_moment_no_line_is_lost_or_doubled(tmp_path):
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(KILLED), tmp_path], cwd=ROOT,
                          env=os.environ | {'PYTHONPATH': str(ROOT)}, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30  # so many moments there were


@pytest.mark.parametrize('change', [
    lambda content: content[:-5], lambda content: b'', lambda content: b'my notes\n',
    lambda content: content.replace(b'answer', b'ANSWER', 1),
])
def test_a_part_that_is_not_what_was_written_is_answered_again(output, change):
    begin(output, 2)
    path = part(output, 1)
    path.write_bytes(change(path.read_bytes()))
    assert work(output) == [1, 2, 3]
    assert_done(output)


def test_a_part_of_another_run_is_refused(output):
    begin(output, 2, run={'settings': {'window': 3, 'seed': 3}})
    foreign = part(output, 1).read_bytes()
    shutil.rmtree(part(output, 1).parent)
    begin(output, 1)
    part(output, 1).write_bytes(foreign)
    with pytest.raises(ValueError, match='00000001.part is of another run than .*run.json; delete'):
        work(output)
    part(output, 1).unlink()
    assert work(output) == [1, 2, 3]
    assert_done(output)


@pytest.mark.parametrize('text', ['{}', '{"jax_prompt_parts": "0"}', '{"run": 1}', 8000 * '['])
def test_a_run_whose_description_was_changed_is_refused(output, text):
    begin(output, 2)
    part(output, 1).with_name('run.json').write_text(text)
    with pytest.raises(ValueError, match='no folder that an earlier run began|was left by another'):
        work(output)
    assert part(output, 1).exists()


def test_a_part_of_another_window_is_refused(output):
    begin(output, 2)
    part(output, 2).write_bytes(part(output, 1).read_bytes())
    with pytest.raises(ValueError, match='line 7 of in.txt or one of the 2 behind it has changed'):
        work(output)


@pytest.mark.parametrize(('lines', 'message'), [
    ([*LINES[:4], b'other\n', *LINES[5:]], 'line 4 of in.txt or one of the 2 behind it has changed '
                                           'since an earlier run answered them; give the file as '
                                           'it was to go on, or delete .*/out.txt.parts to start'),
    ([b'QUESTION 00\n', *LINES[1:]], 'line 1 of in.txt or one'),
    ([b'a\n', b'b\n', b'c\n', *LINES[3:]], 'line 1 of in.txt or one'),
    (LINES[:5], 'line 4 of in.txt or one'),
    (LINES[:3], 'the input ends before lines that an earlier run answered; give'),
])
def test_lines_that_changed_since_are_refused(output, lines, message):
    before = begin(output, 2)
    with pytest.raises(ValueError, match=message):
        work(output, lines)
    assert on_disk(output.parent) == before


def test_lines_that_stand_elsewhere_since_are_refused(output):
    # What is drawn for a line follows from where it stands.
    begin(output, 1, share=(1, 2))
    with pytest.raises(ValueError, match='line 4 of in.txt or one'):
        work(output, [b'longer ' + LINES[0], *LINES[1:]])


def test_what_is_not_answered_yet_may_be_mended(output):
    begin(output, 2, lines=[*LINES[:7], b'wrong\n'])
    assert work(output) == [2, 3]
    assert_done(output)


def test_another_run_is_refused_and_told_how_it_differs(output):
    before = begin(output, 2)
    with pytest.raises(ValueError, match="out.txt.parts was left by another run: model was 'tiny' "
                                         "and is now None, settings.seed was 0 and is now 3; give "
                                         'what that run was given to go on with it, or delete '
                                         '.*/out.txt.parts to start anew'):
        work(output, run={'settings': {'window': 3, 'seed': 3}})
    with pytest.raises(ValueError, match="another run: prompt a was '1' and is now '2'; give"):
        work(output, named=[('prompt a', '2')])
    assert on_disk(output.parent) == before
    assert work(output, named=[('prompt b', '7')]) == [2, 3]  # what came and went changes nothing
    assert_done(output)


@pytest.mark.parametrize('run', [{}, {'another': 'run, which is described at more length'}])
def test_a_run_that_came_to_nothing_is_in_nobodys_way(output, monkeypatch, run):
    with monkeypatch.context() as patch:
        patch.setattr(Parts, '_remove', lambda self: self._lock.close())  # as of several hosts
        begin(output, 0)
    assert os.listdir(output.parent) == ['out.txt.parts']
    work(output, run=run)
    assert_done(output)


def test_leaving_with_no_answer_leaves_nothing(output):
    begin(output, 0)
    assert os.listdir(output.parent) == []


@pytest.mark.parametrize('files', [
    {'out.txt.parts': 'my notes'}, {'out.txt.parts/notes': 'mine'},
    {'out.txt.parts/run.json': '{"my": "run"}'}, {'out.txt.parts/run.json': '[1]'},
    {'out.txt.parts/run.json': 'my run'}, {'out.txt.parts/00000000.part': 'mine'},
])
def test_what_is_the_users_own_is_left_alone(output, files):
    for name, text in files.items():
        path = output.parent / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    before = on_disk(output.parent)
    with pytest.raises(ValueError, match='out.txt.parts is no folder that an earlier run began, so '
                                         'it is left alone; move it away, or name another output'):
        work(output)
    assert on_disk(output.parent) == before


def test_a_file_of_the_users_in_the_folder_stays(output):
    begin(output, 2)
    (output.with_name('out.txt.parts') / 'notes').write_text('mine')
    work(output)
    assert os.listdir(output.with_name('out.txt.parts')) == ['notes']
    assert output.read_bytes() == ANSWERS


def test_an_old_output_stays_until_the_new_one_is_whole(output):
    output.write_text('old')
    begin(output, 3)
    with open(output) as old:
        work(output)
        assert old.read() == 'old'  # of whoever reads it, too
    assert_done(output)


def test_an_output_that_is_a_link_stays_one(output):
    real = output.parent / 'real'
    real.mkdir()
    output.symlink_to(real / 'there.txt')
    begin(output, 1)
    assert sorted(os.listdir(real)) == ['there.txt.parts']
    work(output)
    assert output.is_symlink() and os.listdir(real) == ['there.txt']


def test_no_line_is_answered_by_no_line(output):
    with Parts(output, RUN, {}) as parts:
        assert not list(parts.missing([]))
        assert parts.join() == (0, 0)
    assert output.read_bytes() == b'' and os.listdir(output.parent) == ['out.txt']


def test_two_processes_do_not_write_one_output(output):
    with Parts(output, RUN, {}):
        with pytest.raises(ValueError, match=f'another process {os.getpid()} on .* is writing '
                                             'output .*out.txt; wait for it to end, or name'):
            work(output)
    work(output)
    assert_done(output)


def test_a_file_system_that_cannot_lock_is_warned_of(output, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOSYS, 'Function not implemented')

    monkeypatch.setattr(fcntl, 'flock', flock)
    work(output)
    assert_done(output)
    assert 'lock cannot be locked (Function not implemented); see to it' in caplog.text


@pytest.mark.parametrize('size', [50, 300, len(ANSWERS) - 1])  # the run, a part, the whole
def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(output, size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # as a full disk: writing fails behind so many bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        with pytest.raises(OSError, match='^cannot write output .*out.txt: File too large; mend '
                                          'that and start the same command again to go on'):
            work(output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert work(output) == ([] if size > 300 else [0, 1, 2, 3])
    assert_done(output)


def test_hosts_that_share_no_disk_are_told(output, monkeypatch):
    monkeypatch.setattr(parts_module, 'from_first', lambda make: make() and 'left on another disk')
    with pytest.raises(ValueError, match='out.txt of this host is not the one that the first host '
                                         'joins of all answers; give all hosts one output'):
        work(output)
    assert os.listdir(output.parent) == []
