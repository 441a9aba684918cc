"""Pictures of a table: the figure with its interval against what it costs."""

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jax_prompt.comparison.table import Group, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Name of a picture -> what stands on its axis, and what a line has there.
COSTS: dict[str, tuple[str, Callable[[Line], float]]] = {
    'trained_numbers': ('trained numbers', lambda one: one.trained_numbers),
    'seconds': ('seconds to the best', lambda one: one.seconds),
    'examples': ('examples learned from, to the best', lambda one: one.examples),
}
#: The picture over sizes of training data, where there are several.
SIZES = 'sizes'
_MARKERS = 'osD^vP*Xph<>'


def draw(groups: Sequence[Group]) -> dict[str, str]:
    """Draw each picture as SVG, a panel a task; dots are means on the test, bars 95 % intervals.

    Args:
      groups: of the table. The pictures of costs are of each task's largest size.

    Returns:
      Name of the picture -> its text, the same for the same table.
    """
    tasks = list(dict.fromkeys(group.task for group in groups))
    of_task = {task: sorted((one for one in groups if one.task == task), key=_size)
               for task in tasks}
    largest = [of_task[task][-1] for task in tasks]
    found = {name: _picture([lambda axes, group=group, told=told: _against(axes, group, *told)
                             for group in largest])
             for name, told in COSTS.items()}
    if any(len(own) > 1 for own in of_task.values()):
        found[SIZES] = _picture([lambda axes, own=own: _over_sizes(axes, own)
                                 for own in of_task.values()])
    return found


def _size(group: Group) -> float:
    return math.inf if group.size is None else group.size


def _picture(panels: Sequence[Callable[['Axes'], None]]) -> str:
    """Draw panels one above the other."""
    # It takes longer to import than all the rest of a command that draws nothing.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5 * len(panels)), layout='constrained')
    FigureCanvasSVG(figure)
    for panel, axes in zip(panels, figure.subplots(len(panels), 1, squeeze=False)[:, 0],
                           strict=True):
        panel(axes)
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
        axes.legend(frameon=False, fontsize='small', loc='center left', bbox_to_anchor=(1.01, 0.5))
    out = io.StringIO()
    with matplotlib.rc_context({'svg.hashsalt': 'jax_prompt', 'svg.fonttype': 'none'}):
        figure.savefig(out, format='svg', metadata={'Date': None})
    return out.getvalue()


def _against(axes: 'Axes', group: Group, label: str, cost: Callable[[Line], float]) -> None:
    """Draw a dot a contender."""
    for number, one in enumerate(group.lines):
        axes.errorbar([cost(one)], [100 * one.mean], yerr=_bars(one), capsize=3,
                      fmt=_MARKERS[number % len(_MARKERS)], color=f'C{number % 10}',
                      label=one.contender)
    costs = [cost(one) for one in group.lines if cost(one) > 0]
    if costs:  # from nothing at all to millions
        axes.set_xscale('symlog', linthresh=min(costs))
        axes.set_xlim(left=-0.1 * min(costs))
    axes.set_xlabel(label)
    axes.set_ylabel(f'{group.metric}, %')
    axes.set_title(group.title, loc='left', fontsize='medium')


def _over_sizes(axes: 'Axes', groups: Sequence[Group]) -> None:
    """Draw a line a contender over the sizes of training data; 'all' stands at twice the last."""
    known = [group.size for group in groups if group.size is not None]
    places = [group.size or 2 * max(known) for group in groups]
    names = list(dict.fromkeys(one.contender for group in groups for one in group.lines))
    for number, name in enumerate(names):
        points = [(place, one) for place, group in zip(places, groups, strict=True)
                  for one in group.lines if one.contender == name]
        low, high = zip(*((a[0], b[0]) for a, b in (_bars(one) for _, one in points)), strict=True)
        axes.errorbar([place for place, _ in points], [100 * one.mean for _, one in points],
                      yerr=(low, high), capsize=3, color=f'C{number % 10}', label=name,
                      marker=_MARKERS[number % len(_MARKERS)])
    axes.set_xscale('log')
    axes.set_xticks(places, ['all' if group.size is None else f'{group.size}' for group in groups])
    axes.minorticks_off()
    axes.set_xlabel('examples of training')
    axes.set_ylabel(f'{groups[0].metric}, %')
    axes.set_title(groups[0].task, loc='left', fontsize='medium')


def _bars(one: Line) -> tuple[list[float], list[float]]:
    """Return how far the interval goes down and up from the mean, which it may not hold."""
    return [max(0.0, 100 * (one.mean - one.low))], [max(0.0, 100 * (one.high - one.mean))]
