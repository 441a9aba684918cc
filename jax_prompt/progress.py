"""How a long run speaks to the person who waits: its progress bar."""

import collections
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO


class ProgressBar:
    """Shows how far a run is: its numbers, such as the loss, its speed and the time left.

    On a terminal it is a bar; elsewhere (a file, a CI log, a notebook's pipe) a plain line now and
    then. It writes to standard error, so that standard output carries results alone.

    Example:
        with ProgressBar(total=600, start=100) as bar:
            for step in range(100, 600):
                ...
                bar.update(step + 1, examples=32, loss=0.42)

    Args:
        total: the step at which the run ends; a step may be anything that is counted, even a byte.
        start: the step from which it starts; above 0 when resumed.
        quiet: show nothing at all.
        unit: what the speed is told in.
        label: how to write where the run is; of `step`, `total` and `percent`.
        seconds_between_lines: how often a plain line is printed where there is no terminal.
        stream: where to write; standard error by default.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        quiet: bool = False,
        unit: str = 'examples',
        label: str = 'step {step}/{total}',
        seconds_between_lines: float = 10.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total = total
        self._start = self._step = start
        self._quiet, self._unit, self._label = quiet, unit, label
        self._interval, self._clock = seconds_between_lines, clock
        self._stream = sys.stderr if stream is None else stream
        self._shown: dict[str, float] = {}
        # Examples and seconds of the last steps, without the pauses between them.
        self._timed: collections.deque[tuple[int, float]] = collections.deque(maxlen=20)
        self._compiling = True
        self._began = self._last_line = self._since = clock()
        self._rich: Any = None

    def __enter__(self) -> 'ProgressBar':
        self._began = self._last_line = self._since = self._clock()
        if not self._quiet and self._stream.isatty():
            # Imported here: neither --help nor a run without a terminal needs it.
            from rich import console, progress

            self._rich = progress.Progress(
                progress.TextColumn('{task.description}'), progress.BarColumn(bar_width=24),
                progress.TextColumn('{task.fields[text]}', markup=False),
                console=console.Console(file=self._stream, highlight=False))
            self._rich.add_task(self._place(), total=self.total, text='starting ...')
            self._rich.start()
        return self

    def __exit__(self, *_) -> None:
        if self._rich is not None:
            self._show(self._describe())
            self._rich.stop()
            self._rich = None
        elif self._step > self._start:
            self._print_line()

    def update(self, step: int, examples: int = 0, **numbers: float) -> None:
        """Tell that a step is done.

        Args:
            step: steps done, those before `start` included.
            examples: examples since they were last told; 0 for steps that an earlier process did,
                which say nothing of the speed and the time left.
            **numbers: what to show, such as loss and accuracy; stays until given again.
        """
        now = self._clock()
        if examples:
            if self._compiling and self._timed:
                self._timed.clear()  # They waited for the compiler: that says nothing of the speed.
                self._compiling = False
            self._timed.append((examples, now - self._since))
        else:
            self._start += step - self._step
        self._step, self._since = step, now
        self._shown.update(numbers)
        if self._rich is not None:
            self._show(self._describe())
        elif now - self._last_line >= self._interval:
            self._print_line()

    def say(self, text: str) -> None:
        """Print a line that stays, above the bar."""
        if self._rich is not None:
            self._rich.console.print(text, markup=False)
        elif not self._quiet:
            print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def aside(self, activity: str) -> Iterator[None]:
        """Show that the run is busy with something else, such as 'evaluating'.

        Its time does not count in the examples per second, but does in the time left, since the
        rest of the run will stop for it too.
        """
        if self._rich is not None:
            self._show(f'{activity} ...')
        try:
            yield
        finally:
            self._since = self._clock()

    def seconds_left(self) -> float | None:
        """Estimate the seconds to the end from all steps so far; None before the first."""
        done = self._step - self._start
        if done <= 0:
            return None
        return (self._clock() - self._began) / done * max(self.total - self._step, 0)

    def _place(self) -> str:
        """Write where the run is."""
        return self._label.format(step=self._step, total=self.total,
                                  percent=100 * self._step / max(self.total, 1))

    def _describe(self) -> str:
        """Format the numbers, '1,000 lines' or 'loss 0.42', and the speed once it is known."""
        parts = [f'{value:,} {name}' if isinstance(value, int) else f'{name} {value:.4g}'
                 for name, value in self._shown.items()]
        examples, seconds = map(sum, zip((0, 0.0), *self._timed, strict=True))
        if seconds > 0:
            parts.append(f'{examples / seconds:,.1f} {self._unit}/s')
        left = self.seconds_left()
        if left is not None and self._step < self.total:
            parts.append(f'{format_seconds(left)} left')
        return ', '.join(parts)

    def _show(self, text: str) -> None:
        """Draw the bar."""
        self._rich.update(self._rich.task_ids[0], completed=self._step, text=text,
                          description=self._place())

    def _print_line(self) -> None:
        self._last_line = self._clock()
        self.say(f'{self._place()}: {self._describe()}'.rstrip(': '))


def format_seconds(seconds: float) -> str:
    """Format a duration for people: '0:42', '12:05', '3:07:00'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'
