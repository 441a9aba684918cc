"""Curves of a run as a picture."""

import io
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jax_prompt.files import write_file
from jax_prompt.training.reporting import HEADING_END, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Points of one curve, (step, value), by (split, name).
_Curves = dict[tuple[str, str], list[tuple[int, float]]]

_LOSSES = ('loss',)
#: What is no score either; all else that an evaluation gives is one.
_NEITHER = ('z_loss', 'grad_norm')
_COLORS = {'train': 'tab:gray', 'validation': 'tab:blue', 'test': 'tab:orange'}
_LEVEL_COLORS = ('tab:red', 'tab:purple', 'tab:green', 'tab:brown')
# Lines of one split differ by style, so that several scores stay apart.
_STYLES = ('-', '--', ':', '-.')
# Above this many points a training curve is noise with a trend: the trend is drawn over it.
_MANY_POINTS = 20


def draw_curves(metrics_path: str | os.PathLike, png_path: str | os.PathLike,
                kept_steps: Mapping[str, int] | None = None) -> None:
    """Draw loss and scores over steps, one colour a split, and write a PNG.

    The loss stands on the left, scores (accuracy, token accuracy, all metrics) on the right.
    Where the prompt was kept, the validation is marked. What was measured once under a heading of
    its own, such as 'no prompt', is a level line to compare with. The picture is replaced as a
    whole: a reader never sees half of it. Each task of a run of several has a line of panels.

    Args:
        metrics_path: a `metrics.jsonl`.
        png_path: the picture to write.
        kept_steps: of the prompts that were kept, by task; '' is a run's only one.

    Raises:
        FileNotFoundError: there is no such `metrics.jsonl`.
        ValueError: it holds something else than metrics.
    """
    # Matplotlib takes longer to import than all the rest of a command that draws nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = read_metrics(metrics_path)
    tasks = list(dict.fromkeys(record.get('task', '') for record in records)) or ['']
    figure = Figure(figsize=(11, 5 * len(tasks)), dpi=120, layout='constrained')
    FigureCanvasAgg(figure)  # The Agg canvas by name: no display, whatever the user's backend is.
    for task, (losses, scores) in zip(tasks, figure.subplots(len(tasks), 2, squeeze=False),
                                      strict=True):
        curves = _curves(record for record in records if record.get('task', '') == task)
        kept_step = (kept_steps or {}).get(task)
        found = {name for _, name in curves}
        _draw_panel(losses, curves, {*_LOSSES}, 'loss', kept_step)
        _draw_panel(scores, curves, found - {*_LOSSES, *_NEITHER}, 'score', kept_step)
        if task:
            losses.set_title(task, loc='left')
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
    write_file(png_path, buffer.getvalue(), overwrite=True)


def _curves(records: Iterable[dict[str, Any]]) -> _Curves:
    """Sort records into curves; of two values at one step the later written one counts."""
    points: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for record in records:
        # What was measured at the end has a heading, which makes it a level of its own.
        heading, _, name = record['name'].rpartition(HEADING_END)
        split = f"{record['split']}{HEADING_END}{heading}" if heading else record['split']
        points[split, name][record['step']] = record['value']
    return {key: sorted(values.items()) for key, values in points.items()}


def _draw_panel(axes: 'Axes', curves: _Curves, shown: set[str], label: str,
                kept_step: int | None) -> None:
    """Draw all curves of these metrics."""
    chosen = {key: points for key, points in curves.items() if key[1] in shown}
    names = sorted({name for _, name in chosen})
    headings = sorted({split for split, _ in chosen} - _COLORS.keys())
    for (split, name), points in sorted(chosen.items(), key=lambda item: _order(*item[0])):
        text = split if len(names) == 1 else f'{split}, {name}'.replace('_', ' ')
        style = _STYLES[names.index(name) % len(_STYLES)]
        if split in headings and len(points) == 1:
            color = _LEVEL_COLORS[headings.index(split) % len(_LEVEL_COLORS)]
            level = points[0][1]
            axes.axhline(level, linestyle=':', color=color, label=f'{text}: {level:.3g}')
            continue
        _draw_curve(axes, points, split, text, style)
        if split == 'validation' and not math.isnan(kept := dict(points).get(kept_step, math.nan)):
            axes.plot([kept_step], [kept], '*', markersize=13, color=_COLORS[split],
                      label=f'kept: {kept:.3g} at step {kept_step}')
    axes.set_xlabel('step')
    axes.set_ylabel(names[0].replace('_', ' ') if len(names) == 1 else label)
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    # A single point would get an axis of thousandths of a step.
    last = max([1, *(points[-1][0] for points in curves.values())])
    axes.set_xlim(-0.03 * last, 1.03 * last)
    if chosen:
        # Below the axes, where it covers no curve.
        axes.legend(frameon=False, fontsize='small', ncols=2, loc='upper center',
                    bbox_to_anchor=(0.5, -0.13))
    else:
        axes.text(0.5, 0.5, f'no {label} yet', ha='center', transform=axes.transAxes)


def _order(split: str, name: str) -> tuple[int, str]:
    """Sort curves for the legend: train, validation, test, then others."""
    known = list(_COLORS)
    return (known.index(split) if split in known else len(known), name)


def _draw_curve(
    axes: 'Axes', points: list[tuple[int, float]], split: str, label: str, style: str
) -> None:
    """Draw one curve: few points with markers, many as a faint line under their trend."""
    steps, values = zip(*points, strict=True)
    color = _COLORS.get(split)
    if len(points) <= _MANY_POINTS:
        axes.plot(steps, values, style, color=color, label=label, marker='o', markersize=4)
        return
    (line,) = axes.plot(steps, values, color=color, linewidth=0.8, alpha=0.35)
    window = np.ones(2 * max(2, len(values) // 30) + 1)
    # Divided by the points that each window holds, so that the ends are means too.
    trend = np.convolve(values, window, 'same') / np.convolve(np.ones(len(values)), window, 'same')
    axes.plot(steps, trend, style, color=line.get_color(), linewidth=1.8, label=f'{label} (trend)')
