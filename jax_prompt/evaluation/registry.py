"""Metrics by the names that tasks choose them by."""

from collections.abc import Callable
from typing import Any

from jax_prompt.evaluation import metrics, text_metrics, winograd
from jax_prompt.evaluation.metrics import Judge, Metric

#: Name -> what makes the metric for a task. A module that a gin file imports may add its own.
METRICS: dict[str, Callable[[Judge], Metric]] = {
    'accuracy': metrics.accuracy,
    'exact_match': metrics.exact_match,
    'f1': metrics.f1,
    'macro_f1': metrics.macro_f1,
    'micro_f1': metrics.micro_f1,
    'matthews': metrics.matthews,
    'pearson': metrics.pearson,
    'spearman': metrics.spearman,
    'squad': text_metrics.squad,
    'multirc': text_metrics.multirc,
    'record': text_metrics.record,
    'wsc': winograd.wsc,
    'rouge': text_metrics.rouge,
    'bleu': text_metrics.bleu,
    'calibration_error': metrics.calibration_error,
    'illegal': metrics.illegal,
}


def check_metrics(task: Any) -> None:
    """Refuse, with ValueError, metrics that cannot judge a task, before a model is opened."""
    metrics_of(task, 'greedy' if task.label_words is None else 'rank')


def metrics_of(task: Any, way: str, own: bool = True) -> list[Metric]:
    """Return what judges the answers to a task.

    Args:
      task: whose `metrics` are names and functions, or None for the usual one of the way.
      way: 'rank' or 'greedy'; what is generated is also judged by how much of it is no answer.
      own: whether the task's metrics are wanted, or the usual one in any case.

    Raises:
      ValueError: no metric has such a name, or one cannot judge this task.
    """
    usual = ('accuracy',) if way == 'rank' else ('exact_match',)
    chosen = [*((own and task.metrics) or usual)]
    if way != 'rank' and 'illegal' not in chosen:
        chosen.append('illegal')
    unknown = [one for one in chosen if not callable(one) and one not in METRICS]
    if unknown:
        raise ValueError(f'metrics of task {task.name} name {unknown[0]!r}; expected some of '
                         f'{", ".join(METRICS)}, or functions (predictions, rows) -> name -> value')
    return [one if callable(one) else METRICS[one](task) for one in chosen]
