"""What `jax-prompt train` prints of a whole benchmark: its scores beside the published ones."""

from collections.abc import Mapping

from jax_prompt.commands.shared import print_table
from jax_prompt.evaluation import averages
from jax_prompt.training.suite import SuiteOutcome

#: Widths of T5 1.1 by the names of its sizes.
_SIZES = {512: 'Small', 768: 'Base', 1024: 'Large', 2048: 'XL', 4096: 'XXL'}
#: SuperGLUE's average on the validation splits (SPoT: Vu et al. 2022, table 4), LM-adapted T5 1.1.
_PUBLISHED = {
    'prompt tuning (published)': (59.8, 63.1, 74.5, 79.2, 88.8),
    'model tuning (published)': (62.8, 73.7, 81.3, 83.1, 89.9),
    'SPoT (published)': (64.5, 73.2, 82.7, 88.7, 91.2),
}


def print_benchmark(outcome: SuiteOutcome, model: str, d_model: int) -> None:
    """Print each task's metrics and, of all tasks, the row of scores and their average.

    Args:
      outcome: of SuperGLUE, or of some of its tasks.
      model: its name.
      d_model: D, by which the published figures' column is found.
    """
    for task, metrics in outcome.results.items():
        print_table(f'{task}, validation', {'prompt after training': metrics})
    if len(outcome.results) == len(averages.SUPER_GLUE):
        scores = averages.benchmark_scores(averages.SUPER_GLUE, _plain(outcome.results))
        print('\n' + '\n'.join(_lines(scores, model, d_model)))
    for path in outcome.submission:
        print(f'predictions for the leaderboard, checked: {path}')


def _plain(results: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """Call both ways to pose WSC by its name."""
    return {task.removesuffix('_ranking'): metrics for task, metrics in results.items()}


def _lines(scores: Mapping[str, float], model: str, d_model: int) -> list[str]:
    """Return the scores of the tasks, and their average in the published table."""
    percent = {name: 100 * score for name, score in scores.items()}
    lines = [f'{"SuperGLUE, validation":<26}' + ''.join(f'{name:>9}' for name in percent),
             f'{"this run":<26}' + ''.join(f'{score:>9.1f}' for score in percent.values()), '']
    own = _SIZES.get(d_model, f'D={d_model}')
    sizes = [*_SIZES.values(), *([] if own in _SIZES.values() else [own])]
    lines.append(f'{"average":<26}' + ''.join(f'{size:>9}' for size in sizes))
    for name, figures in _PUBLISHED.items():
        lines.append(f'{name:<26}' + ''.join(f'{figure:>9.1f}' for figure in figures))
    cells = [f'{percent["average"]:.1f}' if size == own else '' for size in sizes]
    lines.append((f'{"this run":<26}' + ''.join(f'{cell:>9}' for cell in cells)).rstrip())
    return [*lines, f'(this run: {model}; the published ones: LM-adapted T5 1.1)']
