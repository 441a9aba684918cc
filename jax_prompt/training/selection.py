"""Model selection: which of a run's prompts is kept, and what that is worth."""

import math
from collections.abc import Iterable, Mapping

from jax_prompt.evaluation.metrics import LOSS, LOWER_IS_BETTER

Metrics = Mapping[str, float]


def figure_to_choose_by(asked: str | None, metrics: Iterable[str], free_text: bool) -> str:
    """Return the name of the figure that prompts are chosen by.

    Args:
      asked: `TrainSettings.choose_by`.
      metrics: what an evaluation gives beside the loss.
      free_text: whether the task has neither labels nor metrics of its own. Whole texts are seldom
        right: exact match stays 0 long after the loss has told good prompts from bad ones.

    Raises:
      ValueError: the evaluation gives no figure of that name; names those that there are.
    """
    names = [*metrics, LOSS]
    if asked is None:
        return LOSS if free_text else names[0]
    if asked not in names:
        raise ValueError(f'choose_by is {asked!r}, which the evaluation does not give; expected '
                         f'one of {", ".join(names)}')
    return asked


def merit(metrics: Metrics, choose_by: str) -> tuple[float, float]:
    """Return what is higher for the better one of two prompts: by the figure, then by the loss.

    A figure that is no number (a correlation with answers that are all the same) is below all.
    """
    figures = [-metrics[name] if name in LOWER_IS_BETTER else metrics[name]
               for name in (choose_by, LOSS)]
    return tuple(-math.inf if math.isnan(figure) else figure for figure in figures)


def remarks(choose_by: str, common: tuple[str, Metrics], start: Metrics, kept: Metrics,
            kept_step: int) -> list[str]:
    """Say where the prompt that is kept is no better than doing nothing.

    Args:
      choose_by: the figure that it was chosen by.
      common: the most common right answer, and the metrics of giving it always.
      start: the validation's metrics of the prompt before training.
      kept: those of the one that is kept.
      kept_step: its step.

    Returns:
      A sentence for each thing to know; none for a prompt that has learned.
    """
    said = []
    if kept_step == 0:
        said.append('The prompt that is kept is the one before training: by its validation\'s '
                    f'{choose_by}, none was better.')
    for name, value in common[1].items():
        if name in LOWER_IS_BETTER:  # of calibration, say: to know nothing is to be sure of nothing
            continue
        of_kept = f'The {name} of the prompt that is kept, {kept[name]:.4f} on validation, is no'
        if kept_step and not kept[name] > start[name]:
            said.append(f'{of_kept} better than before training: {start[name]:.4f}.')
        if not kept[name] > value:
            said.append(f'{of_kept} better than without looking at the input: '
                        f'{same_answer(common)}.')
    return said


def same_answer(common: tuple[str, Metrics]) -> str:
    """Say what the most common right answer gives."""
    answer, metrics = common
    shown = repr(answer if len(answer) <= 40 else f'{answer[:37]}...')
    scores = {name: metrics[name] for name in metrics if name not in LOWER_IS_BETTER}
    return f'{shown} to all gives {told(scores)}'


def told(metrics: Metrics) -> str:
    """List metrics."""
    return ', '.join(f'{name} {value:.4f}' for name, value in metrics.items())
