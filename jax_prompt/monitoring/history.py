"""The history of a folder of monitoring: a line of JSON for each prompt and look, and a picture."""

import datetime
import io
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax_prompt.files import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_log = logging.getLogger(__name__)


def append_history(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records, all of them in one write; what stands there is never touched.

    A kill leaves at most an unfinished line at the end, which is passed over when the file is read,
    and after which the next record begins a line of its own. Several processes may append at once.

    Args:
      path: of the file; it is made where it is not there.
      records: that JSON can hold.

    Raises:
      OSError: it cannot be written.
    """
    text = ''.join(json.dumps(dict(record), ensure_ascii=False) + '\n' for record in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    with open(descriptor, 'r+b', buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end and os.pread(descriptor, 1, end - 1) != b'\n':
            text = '\n' + text
        file.write(text.encode())
        os.fsync(descriptor)


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read the records of a history, in their order; says in the log where one is broken."""
    records, broken = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
            records.append({**record, 'time': datetime.datetime.fromisoformat(record['time'])})
        except (KeyError, TypeError, ValueError):
            broken += [number] if line.strip() else []
    if broken:
        _log.warning('%s: line %d%s cannot be read and is passed over', path, broken[0], '' if len(
            broken) == 1 else f' and {len(broken) - 1} more')
    return records


def draw_history(path: Path, picture: Path) -> None:
    """Draw a history: for each prompt its figure beside the version's own, and the drift.

    Args:
      path: of the history.
      picture: .png or .svg; replaced as a whole.

    Raises:
      ValueError: it ends otherwise.
    """
    # Matplotlib takes longer to import than all the rest of a command that draws nothing.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if picture.suffix not in ('.png', '.svg'):
        raise ValueError(f'the picture {picture} ends in {picture.suffix!r}; expected .png or .svg')
    by_name = defaultdict(list)
    for record in read_history(path):
        by_name[record['name']].append(record)
    figure = Figure(figsize=(11, 3.6 * max(1, len(by_name))), dpi=120, layout='constrained')
    FigureCanvasAgg(figure)  # by name: no display, whatever the user's backend is
    panels = figure.subplots(max(1, len(by_name)), 2, squeeze=False)
    for (name, records), (quality, drift) in zip(sorted(by_name.items()), panels, strict=False):
        _draw_quality(quality, name, records)
        _draw_drift(drift, records)
    figure.autofmt_xdate()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=picture.suffix[1:])
    write_file(picture, buffer.getvalue(), overwrite=True)


def _draw_quality(axes: 'Axes', name: str, records: list[dict[str, Any]]) -> None:
    """Draw a figure with its intervals, the version's own and the margin, and where it fell."""
    shown = [one for one in records if one['quality']]
    axes.set_title(name, loc='left')
    if not shown:
        _say_nothing(axes, 'no labelled data')
        return
    times, found = [one['time'] for one in shown], [one['quality'] for one in shown]
    values = [one['value'] for one in found]
    axes.fill_between(times, *zip(*(one['interval'] for one in found), strict=True), alpha=0.2,
                      label='95 % interval')
    axes.plot(times, values, 'o-', label=found[-1]['metric'].replace('_', ' '))
    own = [one['reference'] for one in found]
    # Where lower is better, a fall is a rise.
    bound = [one['reference'] + (1 if one['rises'] else -1) * one['margin'] for one in found]
    axes.step(times, own, where='post', color='tab:gray', label="the version's own")
    axes.step(times, bound, where='post', color='tab:gray', linestyle=':', label='margin')
    fallen = [number for number, one in enumerate(shown) if one['fallen']]
    axes.plot([times[number] for number in fallen], [values[number] for number in fallen], 'X',
              color='tab:red', markersize=11, linestyle='', label='fallen' if fallen else None)
    before = None
    for one, value in zip(shown, values, strict=True):
        if one['version'] != before:
            axes.annotate('@' + one['version'], (one['time'], value), xytext=(4, 6),
                          textcoords='offset points', fontsize=8)
        before = one['version']
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _draw_drift(axes: 'Axes', records: list[dict[str, Any]]) -> None:
    """Draw the size of each difference, filled where it is more than chance."""
    names = sorted({name for one in records for name in one['drift']})
    axes.set_title('drift', loc='left')
    if not names:
        _say_nothing(axes, 'no reference, or no inputs')
        return
    for number, name in enumerate(names):
        points = [(one['time'], one['drift'][name]) for one in records if name in one['drift']]
        color = f'C{number % 10}'
        axes.plot([time for time, _ in points], [one['size'] for _, one in points], '-',
                  color=color, label=f"{name} ({points[-1][1]['test']})")
        for time, one in points:
            axes.plot([time], [one['size']], 'o', color=color,
                      markerfacecolor=color if one['drifted'] else 'white')
    axes.set_ylabel('size; filled: more than chance')
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _say_nothing(axes: 'Axes', why: str) -> None:
    axes.text(0.5, 0.5, why, ha='center', va='center', transform=axes.transAxes)
