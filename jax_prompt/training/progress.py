"""How a run speaks to the person who waits: its progress bar."""

import collections
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO


class ProgressBar:
    """Shows how far a run is: loss, accuracy, examples per second and the time left.

    On a terminal it is a bar; elsewhere (a file, a CI log, a notebook's pipe) a plain line now and
    then. It writes to standard error, so that standard output carries results alone.

    Example:
        with ProgressBar(total=600, start=100) as bar:
            for step in range(100, 600):
                ...
                bar.update(step + 1, examples=32, loss=0.42)

    Args:
        total: the step at which the run ends.
        start: the step from which it starts; above 0 when resumed.
        quiet: show nothing at all.
        seconds_between_lines: how often a plain line is printed where there is no terminal.
        stream: where to write; standard error by default.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        quiet: bool = False,
        seconds_between_lines: float = 10.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total = total
        self._start = self._step = start
        self._quiet = quiet
        self._interval = seconds_between_lines
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._shown: dict[str, float] = {}
        self._speed = _Speed(clock)
        self._began = self._last_line = clock()
        self._rich: Any = None

    def __enter__(self) -> 'ProgressBar':
        self._began = self._last_line = self._clock()
        self._speed.rest()
        if not self._quiet and self._stream.isatty():
            self._rich = _RichBar(self._stream, self.total, self._start)
        return self

    def __exit__(self, kind, *_) -> None:
        if self._rich is not None:
            self._rich.show(self._step, self._describe())
            self._rich.stop()
            self._rich = None
        elif not self._quiet and self._step > self._start:
            self._print_line()

    def update(self, step: int, examples: int = 0, **numbers: float) -> None:
        """Tell that a step is done.

        Args:
            step: steps done, those before `start` included.
            examples: examples since they were last told; 0 where only the step is known, which
                moves the bar but says nothing of the speed.
            **numbers: what to show, such as loss and accuracy; stays until given again.
        """
        self._step = step
        self._shown.update(numbers)
        if examples:
            self._speed.count(examples)
        if self._rich is not None:
            self._rich.show(step, self._describe())
        elif not self._quiet and self._clock() - self._last_line >= self._interval:
            self._print_line()

    def say(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        if self._rich is not None:
            self._rich.say(text)
        elif not self._quiet:
            print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def aside(self, activity: str) -> Iterator[None]:
        """Show that the run is busy with something else, such as 'evaluating'.

        Its time does not count in the examples per second, but does in the time left, since the
        rest of the run will stop for it too.
        """
        if self._rich is not None:
            self._rich.show(self._step, f'{activity} ...')
        try:
            yield
        finally:
            self._speed.rest()

    def seconds_left(self) -> float | None:
        """Estimate the seconds to the end from all steps so far; None before the first."""
        done = self._step - self._start
        if done <= 0:
            return None
        return (self._clock() - self._began) / done * max(self.total - self._step, 0)

    def _describe(self) -> str:
        """Format the numbers: '12.3 examples/s' only once it is known."""
        parts = [f'{name} {value:.4g}' for name, value in self._shown.items()]
        rate = self._speed.examples_per_second()
        if rate is not None:
            parts.append(f'{rate:.1f} examples/s')
        left = self.seconds_left()
        if left is not None and self._step < self.total:
            parts.append(f'{format_seconds(left)} left')
        return ', '.join(parts)

    def _print_line(self) -> None:
        self._last_line = self._clock()
        text = f'step {self._step}/{self.total}: {self._describe()}'
        print(text.rstrip(': '), file=self._stream, flush=True)


class _Speed:
    """Examples per second over the last steps, without the pauses between them."""

    def __init__(self, clock: Callable[[], float], window: int = 20):
        self._clock = clock
        self._steps: collections.deque[tuple[int, float]] = collections.deque(maxlen=window)
        self._since = clock()
        self._compiling = True

    def count(self, examples: int) -> None:
        """Count the examples of a step that ends now."""
        now = self._clock()
        if self._compiling and self._steps:
            self._steps.clear()  # They waited for the compiler, which says nothing of the speed.
            self._compiling = False
        self._steps.append((examples, now - self._since))
        self._since = now

    def rest(self) -> None:
        """Leave the time since the last step out of the count."""
        self._since = self._clock()

    def examples_per_second(self) -> float | None:
        """Return the speed, or None before anything was counted."""
        seconds = sum(duration for _, duration in self._steps)
        examples = sum(examples for examples, _ in self._steps)
        return examples / seconds if seconds > 0 and examples else None


class _RichBar:
    """The bar on a terminal."""

    def __init__(self, stream: TextIO, total: int, start: int):
        # Imported here: neither --help nor a run without a terminal needs it.
        from rich import console, progress

        self._progress = progress.Progress(
            progress.TextColumn('step {task.completed:.0f}/{task.total:.0f}'),
            progress.BarColumn(bar_width=24),
            progress.TextColumn('{task.fields[text]}', markup=False),
            console=console.Console(file=stream, highlight=False),
        )
        self._task = self._progress.add_task('', total=total, completed=start, text='starting ...')
        self._progress.start()

    def show(self, step: int, text: str) -> None:
        self._progress.update(self._task, completed=step, text=text)

    def say(self, text: str) -> None:
        self._progress.console.print(text, markup=False)

    def stop(self) -> None:
        self._progress.stop()


def format_seconds(seconds: float) -> str:
    """Format a duration for people: '0:42', '12:05', '3:07:00'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'
