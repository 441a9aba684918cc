"""The averages of GLUE and SuperGLUE: each task one score, the mean of its metrics."""

from collections.abc import Mapping

#: task -> the figures whose mean is its score, each (results of, metric). GLUE (Wang et al. 2018,
#: table 4) leaves the diagnostics out and takes both halves of MNLI as one task.
GLUE = {
    'cola': (('cola', 'matthews'),),
    'sst2': (('sst2', 'accuracy'),),
    'mrpc': (('mrpc', 'f1'), ('mrpc', 'accuracy')),
    'stsb': (('stsb', 'pearson'), ('stsb', 'spearman')),
    'qqp': (('qqp', 'f1'), ('qqp', 'accuracy')),
    'mnli': (('mnli', 'accuracy'), ('mnli_mismatched', 'accuracy')),
    'qnli': (('qnli', 'accuracy'),),
    'rte': (('rte', 'accuracy'),),
    'wnli': (('wnli', 'accuracy'),),
}
#: SuperGLUE (Wang et al. 2019, table 3), without its diagnostics.
SUPER_GLUE = {
    'boolq': (('boolq', 'accuracy'),),
    'cb': (('cb', 'macro_f1'), ('cb', 'accuracy')),
    'copa': (('copa', 'accuracy'),),
    'multirc': (('multirc', 'f1a'), ('multirc', 'exact_match')),
    'record': (('record', 'f1'), ('record', 'exact_match')),
    'rte': (('rte', 'accuracy'),),
    'wic': (('wic', 'accuracy'),),
    'wsc': (('wsc', 'accuracy'),),
}
_PREFIXES = ('super_glue_', 'glue_')


def benchmark_scores(benchmark: Mapping[str, tuple[tuple[str, str], ...]],
                     results: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return each task's score, and last their mean as 'average'.

    Args:
      benchmark: `GLUE` or `SUPER_GLUE`.
      results: task -> metric -> value; 'boolq' may be called 'super_glue_boolq'.

    Returns:
      Task -> score, in the order of the benchmark, and 'average' -> mean of the scores.

    Raises:
      ValueError: a task or one of its metrics is missing; an average of fewer is another figure.

    Example:
      >>> found = {name: {'accuracy': 0.5, 'f1': 0.5, 'matthews': 0.5, 'pearson': 0.5,
      ...                 'spearman': 0.5} for name in [*GLUE, 'mnli_mismatched']}
      >>> benchmark_scores(GLUE, found)['average']
      0.5
    """
    known = {_short(name): metrics for name, metrics in results.items()}
    missing = [f'{metric} of {task}' for figures in benchmark.values() for task, metric in figures
               if metric not in known.get(task, {})]
    if missing:
        more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
        raise ValueError(f'the average needs {missing[0]}{more}, which the results have not; '
                         f'expected those of {", ".join(benchmark)}')
    scores = {name: sum(known[task][metric] for task, metric in figures) / len(figures)
              for name, figures in benchmark.items()}
    return scores | {'average': sum(scores.values()) / len(scores)}


def _short(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name
