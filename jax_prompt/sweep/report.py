"""What a sweep found: a table, how much each parameter matters, pictures, the best settings."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jax_prompt.evaluation.metrics import LOWER_IS_BETTER
from jax_prompt.files import write_file
from jax_prompt.sweep.study import SweepFolder, import_optuna
from jax_prompt.training.folder import GIN_FILE
from jax_prompt.training.selection import merit

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

REPORT_FILE = 'report.md'
TABLE_FILE = 'trials.csv'
BEST_FILE = 'best.gin'
LENGTHS_FILE = 'lengths.png'
PARALLEL_FILE = 'parallel.png'
#: Complete trials below which importances are those of chance.
_FEW = 10


def finished(trials: 'Sequence[FrozenTrial]') -> 'list[FrozenTrial]':
    """Return the trials that ran to their ends, each set of parameters once."""
    return [one for one in trials if one.state.name == 'COMPLETE' and 'metrics' in one.user_attrs
            and 'same_as' not in one.user_attrs]


def merit_of(trial: 'FrozenTrial') -> tuple[float, float]:
    """Return what is higher for the better one of two trials that have ended."""
    return merit(trial.user_attrs['metrics'], trial.user_attrs['choose_by'])


def described(params: Mapping[str, Any]) -> str:
    """Write the parameters of a trial in a line, numbers as exactly as one reads them."""
    return ', '.join(f'{name}={value:.4g}' if isinstance(value, float) else f'{name}={value}'
                     for name, value in params.items())


def figure_of(trial: 'FrozenTrial') -> float:
    """Return the figure that a trial is chosen by: of validation, of the prompt that was kept."""
    return trial.user_attrs['metrics'][trial.user_attrs['choose_by']]


def importances(study: 'optuna.Study') -> dict[str, float]:
    """Return how much each parameter decides whether a trial is among the best tenth; sum 1.

    Returns:
      Name -> share, the largest first; none where fewer than two trials have run to their ends, or
      nothing was varied among them.

    Source: PED-ANOVA, Watanabe et al. 2023 (arXiv:2304.10255), as Optuna has it.
    """
    optuna, done = import_optuna(), finished(study.get_trials(deepcopy=False))
    if len(done) < 2 or len({figure_of(one) for one in done}) < 2:
        return {}
    return optuna.importance.get_param_importances(study)


def table(study: 'optuna.Study') -> list[dict[str, Any]]:
    """Return a row for each trial that has ended, the best first."""
    trials = [one for one in study.get_trials(deepcopy=False) if one.state.is_finished()]
    order = {'COMPLETE': 0, 'PRUNED': 1, 'FAIL': 2}

    def place(trial: 'FrozenTrial') -> tuple:
        found = merit_of(trial) if 'metrics' in trial.user_attrs else (0.0,)
        return order[trial.state.name], tuple(-one for one in found), trial.number

    rows = []
    for one in sorted(trials, key=place):
        told = one.user_attrs
        figure = {told['choose_by']: figure_of(one)} if 'metrics' in told else {}
        note = told.get('error') or (f'as trial {told["same_as"]}' if 'same_as' in told else
                                     f'from {told["start"]}' if told.get('start') else '')
        rows.append({'trial': one.number, 'state': one.state.name.lower(), **figure,
                     'best step': told.get('best_step'),
                     'seconds': round(told['seconds'], 1) if 'seconds' in told else None,
                     **{name: str(value) if value is None else value
                        for name, value in one.params.items()}, 'note': note})
    return rows


def by_length(trials: 'Sequence[FrozenTrial]') -> dict[int, list[float]]:
    """Return rows of the prompt -> the figures of the trials that had so many."""
    found: dict[int, list[float]] = {}
    for one in sorted(trials, key=lambda one: one.user_attrs['rows']):
        found.setdefault(one.user_attrs['rows'], []).append(figure_of(one))
    return found


def write_report(study: 'optuna.Study', folder: SweepFolder) -> None:
    """Write table, importances, pictures and `best.gin` of what has ended so far.

    Args:
      study: with its trials.
      folder: of the sweep.
    """
    rows, done = table(study), finished(study.get_trials(deepcopy=False))
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    write_file(folder.path / TABLE_FILE, text.getvalue().encode(), overwrite=True)
    shares, lengths = importances(study), by_length(done)
    pictures = {}
    if len(lengths) > 1:
        pictures[LENGTHS_FILE] = _draw_lengths(lengths, done[0].user_attrs['choose_by'])
    if len({str(one.params) for one in done}) > 1:
        pictures[PARALLEL_FILE] = _draw_parallel(study, done)
    for name, picture in pictures.items():
        write_file(folder.path / name, picture, overwrite=True)
    write_file(folder.path / REPORT_FILE, _markdown(rows, names, done, shares, lengths,
                                                    list(pictures)).encode(), overwrite=True)
    if done:
        _write_best(max(done, key=merit_of), len(rows), folder)


def _markdown(rows: list[dict[str, Any]], names: list[str], done: 'Sequence[FrozenTrial]',
              shares: dict[str, float], lengths: dict[int, list[float]],
              pictures: list[str]) -> str:
    """Write the report in Markdown."""
    def line(cells: Sequence[Any]) -> str:
        shown = ('' if one is None else f'{one:.4g}' if isinstance(one, float) else str(one)
                 for one in cells)
        return '| ' + ' | '.join(one.replace('|', '\\|') for one in shown) + ' |'

    def lines(head: Sequence[str], body: Sequence[Sequence[Any]]) -> list[str]:
        return [line(head), line(['---'] * len(head)), *map(line, body), '']

    states = [row['state'] for row in rows]
    told = ', '.join(f'{states.count(one)} {word}' for one, word in (
        ('complete', 'ran to their ends'), ('pruned', 'were pruned'), ('fail', 'failed'))
        if one in states)
    text = ['# Sweep', '', f'{len(rows)} trials: {told}. Figures are of validation; of the test '
            'split a sweep sees nothing.', '']
    if done:
        best = max(done, key=merit_of)
        text += [f'The best is trial {best.number}: {best.user_attrs["choose_by"]} '
                 f'{figure_of(best):.4f}. `jax-prompt train --gin_file={BEST_FILE}` trains it '
                 'again.', '']
    if shares:
        few = (f' Of {len(done)} trials they say little; take them for more from some {_FEW} on.'
               if len(done) < _FEW else '')
        text += ['## Importance of each parameter', '', 'The share in being among the best tenth '
                 f'(PED-ANOVA).{few}', '',
                 *lines(('parameter', 'importance'), list(shares.items()))]
    if len(lengths) > 1:
        text += ['## By length', '', *lines(
            ('rows', 'trials', 'mean', 'deviation', 'best'),
            [(rows, len(found), statistics.fmean(found),
              statistics.stdev(found) if len(found) > 1 else None, _best(found, done))
             for rows, found in lengths.items()])]
    text += ['## Trials', '', *lines(names, [[row.get(name) for name in names] for row in rows])]
    text += [f'![{name.removesuffix(".png")}]({name})' for name in pictures]
    return '\n'.join(text) + '\n'


def _best(figures: Sequence[float], done: 'Sequence[FrozenTrial]') -> float:
    lower = done[0].user_attrs['choose_by'] in LOWER_IS_BETTER
    return (min if lower else max)(figures)


def _write_best(best: 'FrozenTrial', count: int, folder: SweepFolder) -> None:
    """Write the gin file that trains with what the best trial was trained with."""
    configured = folder.trial(best.number) / GIN_FILE
    if not configured.exists():  # a sweep that was made without gin
        return
    lines = [line for line in configured.read_text().splitlines()
             if not line.startswith('train.output ')]
    head = (f'# The best of {count} trials by {best.user_attrs["choose_by"]} on validation: '
            f'{figure_of(best):.4f}, trial {best.number}.')
    lines = [head, *lines, f'train.output = {str(folder.path / "best")!r}']
    write_file(folder.path / BEST_FILE, '\n'.join([*lines, '']).encode(), overwrite=True)


def _draw_lengths(lengths: dict[int, list[float]], figure_name: str) -> bytes:
    """Draw each trial's figure against the rows of its prompt, with mean and deviation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=120, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for rows, found in lengths.items():
        axes.plot([rows] * len(found), found, 'o', color='tab:blue', alpha=0.35, markersize=4)
    axes.errorbar(list(lengths), [statistics.fmean(found) for found in lengths.values()],
                  [statistics.stdev(found) if len(found) > 1 else 0.0
                   for found in lengths.values()],
                  color='tab:blue', marker='s', markersize=4, capsize=3, linewidth=1.5)
    if min(lengths) > 0:
        axes.set_xscale('log')
    axes.set_xticks(list(lengths), [str(rows) for rows in lengths])
    axes.minorticks_off()
    axes.set_xlabel('rows of the prompt')
    axes.set_ylabel(f'{figure_name} on validation')
    axes.set_title('dots: trials; line: mean and standard deviation', fontsize=9)
    axes.grid(alpha=0.3)
    return _png(figure)


def _draw_parallel(study: 'optuna.Study', done: 'Sequence[FrozenTrial]') -> bytes:
    """Draw each trial as a line through its parameters."""
    import_optuna()
    from matplotlib import pyplot
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    names = sorted(name for name in done[0].params
                   if any(one.params.get(name) != done[0].params[name] for one in done))
    chosen_by = done[0].user_attrs['choose_by']
    # Of losses and the like the study has the negative, since it maximises.
    label = f'{chosen_by}, negative' if chosen_by in LOWER_IS_BETTER else chosen_by
    axes = plot_parallel_coordinate(study, names, target_name=label)
    figure = axes.figure
    figure.set_size_inches(3 + 2.2 * len(names), 5)
    axes.set_title('')
    axes.set_xticks(range(len(names) + 1), [name.replace('.', '.\n') for name in (label, *names)],
                    rotation=0, fontsize=9)
    picture = _png(figure, bbox_inches='tight')
    pyplot.close(figure)
    return picture


def _png(figure: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=120, **how)
    return buffer.getvalue()
