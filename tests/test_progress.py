"""The progress bar tells how far a run is, how fast, and for how long yet."""

import io

import pytest

from jax_prompt.progress import ProgressBar, format_seconds


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_tell_speed_and_time_left():
    clock, stream = Clock(), io.StringIO()
    with ProgressBar(total=12, start=2, stream=stream, clock=clock) as bar:
        for step in range(3, 8):
            clock.now += 4.0
            bar.update(step, examples=32, loss=0.41234, accuracy=0.875)
    lines = stream.getvalue().splitlines()
    # A line each ten seconds at most, and one at the end: steps end at 4, 8, 12, 16 and 20 seconds.
    assert lines == [
        'step 5/12: loss 0.4123, accuracy 0.875, 8.0 examples/s, 0:28 left',
        'step 7/12: loss 0.4123, accuracy 0.875, 8.0 examples/s, 0:20 left',
    ]


def test_time_aside_counts_in_the_time_left_but_not_in_the_speed():
    clock, stream = Clock(), io.StringIO()
    with ProgressBar(total=4, stream=stream, clock=clock, seconds_between_lines=0) as bar:
        for step in (1, 2):
            clock.now += 1.0
            bar.update(step, examples=10)
            with bar.aside('evaluating'):
                clock.now += 9.0
        assert bar.seconds_left() == pytest.approx(20.0)
    assert '10.0 examples/s' in stream.getvalue().splitlines()[1]


def test_the_first_step_which_compiles_does_not_count_in_the_speed():
    clock, stream = Clock(), io.StringIO()
    with ProgressBar(total=9, stream=stream, clock=clock, seconds_between_lines=0) as bar:
        for step, seconds in enumerate([50.0, 2.0, 2.0], 1):
            clock.now += seconds
            bar.update(step, examples=10)
    lines = stream.getvalue().splitlines()
    assert '0.2 examples/s' in lines[0]  # all that is known by then
    assert '5.0 examples/s' in lines[1] and '5.0 examples/s' in lines[2]


def test_steps_of_an_earlier_process_say_nothing_of_the_speed_and_the_time_left():
    clock, stream = Clock(), io.StringIO()
    with ProgressBar(total=100, stream=stream, clock=clock, seconds_between_lines=0) as bar:
        bar.update(40)
        clock.now += 5.0
        bar.update(50, examples=10)
        bar.update(90)
    assert stream.getvalue().splitlines() == [
        'step 40/100', 'step 50/100: 2.0 examples/s, 0:25 left',
        'step 90/100: 2.0 examples/s, 0:05 left', 'step 90/100: 2.0 examples/s, 0:05 left']


def test_place_unit_and_counts_are_told_as_the_run_names_them():
    clock, stream = Clock(), io.StringIO()
    with ProgressBar(total=9000, unit='lines', label='{percent:.1f} %', stream=stream,
                     clock=clock) as bar:
        clock.now += 8.0
        bar.update(3000, examples=1000, lines=1000)
    assert stream.getvalue() == '33.3 %: 1,000 lines, 125.0 lines/s, 0:16 left\n'


def test_a_terminal_shows_numbers_and_keeps_lines():
    stream, clock = Terminal(), Clock()
    with ProgressBar(total=2, stream=stream, clock=clock) as bar:
        for step in (1, 2):
            clock.now += 1.0
            bar.update(step, examples=8, loss=0.5)
        bar.say('validation [0.84]')
    assert 'validation [0.84]' in stream.getvalue()
    assert 'step 2/2' in stream.getvalue() and '8.0 examples/s' in stream.getvalue()


@pytest.mark.parametrize('stream', [io.StringIO(), Terminal()])
def test_quiet_is_quiet(stream):
    with ProgressBar(total=2, quiet=True, stream=stream, seconds_between_lines=0) as bar:
        bar.update(1, examples=8, loss=0.5)
        with bar.aside('evaluating'):
            bar.say('a line')
    assert stream.getvalue() == ''


@pytest.mark.parametrize(
    'seconds, text',
    [(0, '0:00'), (42.4, '0:42'), (59.6, '1:00'), (725, '12:05'), (11220, '3:07:00')],
)
def test_durations_read_like_a_clock(seconds, text):
    assert format_seconds(seconds) == text
