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
        self._quiet = quiet
        self._unit, self._label = unit, label
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
            # Imported here: neither --help nor a run without a terminal needs it.
            from rich import console, progress

            self._rich = progress.Progress(
                progress.TextColumn('{task.description}'), progress.BarColumn(bar_width=24),
                progress.TextColumn('{task.fields[text]}', markup=False),
                console=console.Console(file=self._stream, highlight=False))
            self._rich.add_task(self._place(), total=self.total, text='')
            self._show('starting ...')
            self._rich.start()
        return self

    def __exit__(self, kind, *_) -> None:
        if self._rich is not None:
            self._show(self._describe())
            self._rich.stop()
            self._rich = None
        elif not self._quiet and self._step > self._start:
            self._print_line()

    def update(self, step: int, examples: int = 0, **numbers: float) -> None:
        """Tell that a step is done.

        Args:
            step: steps done, those before `start` included.
            examples: examples since they were last told; 0 for steps that an earlier process did,
                which say nothing of the speed and the time left.
            **numbers: what to show, such as loss and accuracy; stays until given again.
        """
        if examples:
            self._speed.count(examples)
        else:
            self._start += step - self._step
            self._speed.rest()
        self._step = step
        self._shown.update(numbers)
        if self._rich is not None:
            self._show(self._describe())
        elif not self._quiet and self._clock() - self._last_line >= self._interval:
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
            self._speed.rest()

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
        rate = self._speed.per_second()
        if rate is not None:
            parts.append(f'{rate:,.1f} {self._unit}/s')
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
        text = f'{self._place()}: {self._describe()}'
        print(text.rstrip(': '), file=self._stream, flush=True)


class _Speed:
    """What is counted per second over the last steps, without the pauses between them."""

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

    def per_second(self) -> float | None:
        """Return the speed, or None before anything was counted."""
        seconds = sum(duration for _, duration in self._steps)
        examples = sum(examples for examples, _ in self._steps)
        return examples / seconds if seconds > 0 and examples else None


def format_seconds(seconds: float) -> str:
    """Format a duration for people: '0:42', '12:05', '3:07:00'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'
