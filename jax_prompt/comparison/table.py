"""The table of a comparison: means, deviations, intervals, paired tests, and what each costs."""

import csv
import dataclasses
import io
import json
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from jax_prompt.comparison.data import figure_of
from jax_prompt.comparison.records import ComparisonFolder, Record
from jax_prompt.comparison.run import Comparison
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.metrics import LOWER_IS_BETTER, answer_pairs, most_common
from jax_prompt.evaluation.statistics import bootstrap_mean, holm, paired_test
from jax_prompt.inference.rows import Prediction
from jax_prompt.training.card import format_bytes, table


@dataclasses.dataclass(frozen=True)
class Line:
    """A contender on a task with some size of training data.

    Attributes:
      task, contender: their names.
      size: examples of training; None for all.
      runs: seeds that are done.
      validation: the figure's mean on the validation, by which the best is found.
      error: the standard error of that mean, see `standard_error`.
      mean, deviation: of the figure on the test, over the runs; the deviation is NaN of one run.
      low, high: the 95 % interval of the mean, by bootstrap over the examples of the test.
      best: whether it is the best by validation.
      p_value: of the paired test against the best on the test, after Holm; None for the best.
      trained_numbers, stored_bytes: see `contender.Fitted`.
      examples, seconds, seconds_an_answer: means over the runs.
    """

    task: str
    contender: str
    size: int | None
    runs: int
    validation: float
    error: float
    mean: float
    deviation: float
    low: float
    high: float
    best: bool
    p_value: float | None
    trained_numbers: int
    stored_bytes: int
    examples: float
    seconds: float
    seconds_an_answer: float


@dataclasses.dataclass(frozen=True)
class Group:
    """All contenders on one task with one size of training data.

    Attributes:
      task: its name.
      size: examples of training; None for all.
      metric: the figure.
      examples: of the test.
      common: the figure of giving the test's most common answer always; NaN where it has none.
      lines: in the order of the contenders; none where nothing is done.
    """

    task: str
    size: int | None
    metric: str
    examples: int
    common: float
    lines: tuple[Line, ...]

    @property
    def title(self) -> str:
        """Return task and size in words."""
        return f'{self.task}, ' + ('all examples of training' if self.size is None else
                                   f'{self.size:,} examples of training')

    @property
    def best(self) -> Line:
        """Return the line of the best by validation."""
        return next(one for one in self.lines if one.best)


#: Head of a column -> what a line has there, as text.
COLUMNS: dict[str, Callable[[Line], str]] = {
    'contender': lambda one: one.contender + (' (best by validation)' if one.best else ''),
    'runs': lambda one: f'{one.runs}',
    'validation': lambda one: _figure(one.validation),
    'test': lambda one: _figure(one.mean) + (
        '' if math.isnan(one.deviation) else f' ± {_figure(one.deviation)}'),
    '95 % interval': lambda one: f'{_figure(one.low)} to {_figure(one.high)}',
    'p against the best': lambda one: '' if one.p_value is None else f'{one.p_value:.2g}',
    'trained numbers': lambda one: f'{one.trained_numbers:,}',
    'stored': lambda one: format_bytes(one.stored_bytes),
    'examples to the best': lambda one: f'{one.examples:,.0f}',
    'seconds to the best': lambda one: f'{one.seconds:,.1f}',
    'seconds an answer': lambda one: f'{one.seconds_an_answer:.2g}',
}


def groups_of(comparison: Comparison, folder: ComparisonFolder) -> list[Group]:
    """Make the table of what is done so far; those groups are left out of which nothing is.

    Args:
      comparison: what is compared.
      folder: with its records.
    """
    groups = []
    for task in comparison.tasks:
        for size in comparison.settings.sizes:
            records = {}
            for one in comparison.contenders:
                cells = dict.fromkeys(comparison.cell(task, one, size, seed)
                                      for seed in comparison.settings.seeds)
                found = [record for cell in cells if (record := folder.record(cell)) is not None]
                if found:
                    records[one.name] = found
            if records:
                groups.append(_group(task, size, comparison.settings.metric, records))
    return groups


def _group(task: TextTask, size: int | None, asked: str | None,
           records: dict[str, list[Record]]) -> Group:
    """Make the lines of one task and size."""
    rows = task.rows('test')
    name, metric = figure_of(task, asked)
    better = min if name in LOWER_IS_BETTER else max
    validated = {one: statistics.fmean(record.validation[name] for record in some)
                 for one, some in records.items()}
    best = better(validated, key=validated.get)
    right = {one: [_rights(task, record, rows) for record in some]
             for one, some in records.items()}
    others = [one for one in records if one != best]
    p_values = dict(zip(others, holm([_p_value(right[one], right[best]) for one in others]),
                        strict=True))
    lines = []
    for one, some in records.items():
        answers = [[Prediction(text) for text in record.answers] for record in some]
        low, high = bootstrap_mean(metric, answers, rows)[name]
        figures = [record.test[name] for record in some]
        lines.append(Line(
            task.name, one, size, len(some), validated[one], standard_error(some, name),
            statistics.fmean(figures),
            statistics.stdev(figures) if len(figures) > 1 else math.nan, low, high, one == best,
            p_values.get(one), some[0].trained_numbers, some[0].stored_bytes,
            *(statistics.fmean(getattr(record, what) for record in some)
              for what in ('examples', 'seconds', 'seconds_an_answer'))))
    labels = task.label_words or ()
    common = metric([most_common(task, rows, labels)] * len(rows), rows)[name] if labels else (
        math.nan)
    return Group(task.name, size, name, len(rows), common, tuple(lines))


def _rights(task: TextTask, record: Record, rows: Sequence[Any]) -> list[bool]:
    """Say of each answer whether it is right."""
    pairs = answer_pairs(task)([Prediction(text) for text in record.answers], rows)
    return [answer == gold for answer, gold in pairs]


def _p_value(ours: list[list[bool]], theirs: list[list[bool]]) -> float:
    """Test two contenders on how often each example was answered rightly, over all their runs."""
    common = math.gcd(len(ours), len(theirs))
    scales = len(theirs) // common, len(ours) // common
    return paired_test([scales[0] * sum(own) - scales[1] * sum(other) for own, other in
                        zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True)])


def standard_error(records: Sequence[Record], name: str) -> float:
    """Return the standard error of a figure's mean on the validation.

    The larger one of what seeds differ by, and of what examples would: p (1 - p) / N for a figure
    that is a fraction, p with one right and one wrong answer added.
    """
    values = [record.validation[name] for record in records]
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    # One right and one wrong answer more: who is right on all of few examples is not sure to be so.
    count = records[0].validated
    chance = (mean * count + 1) / (count + 2)
    chance = math.sqrt(chance * (1 - chance) / count) if 0 <= mean <= 1 else 0.0
    return max(spread, chance)


def _figure(value: float) -> str:
    """Write a fraction in percent, without the sign."""
    return f'{100 * value:.1f}'


def markdown(groups: Sequence[Group]) -> str:
    """Write the table as Markdown, figures in percent."""
    parts = []
    for group in groups:
        rows = [tuple(text(one) for text in COLUMNS.values()) for one in group.lines]
        parts.append(f'## {group.title}\n\n{heading(group)}\n\n{table(tuple(COLUMNS), rows)}\n')
    return '\n'.join(parts)


def heading(group: Group) -> str:
    """Say what the figures of a group are."""
    common = '' if math.isnan(group.common) else (
        f'; the most common answer always: {_figure(group.common)}')
    return f'{group.metric} in percent, {group.examples:,} examples of the test{common}'


def as_csv(groups: Sequence[Group]) -> str:
    """Write the table as CSV: a line a contender, task and size, numbers as they are."""
    out = io.StringIO()
    names = [field.name for field in dataclasses.fields(Line)]
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow(['metric', *names])
    for group in groups:
        for one in group.lines:
            values = dataclasses.asdict(one)
            writer.writerow([group.metric, *(_blank(values[name]) for name in names)])
    return out.getvalue()


def _blank(value: Any) -> Any:
    return '' if value is None or isinstance(value, float) and math.isnan(value) else value


def as_json(groups: Sequence[Group]) -> str:
    """Write the table as JSON, which has null for what is no number."""
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps([plain(dataclasses.asdict(group)) for group in groups], indent=1) + '\n'
