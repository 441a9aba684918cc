"""The benchmarks' tasks in seqio's registry, by their names here: for T5X, and whoever reads it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jax_prompt.data.quiet_tensorflow import seqio
from jax_prompt.data.seqio_tasks import build_task
from jax_prompt.data.tasks.benchmarks import BENCHMARK_TASKS, benchmark_task
from jax_prompt.data.tasks.text_task import TextTask

#: Mixture -> task -> how often it comes: examples for training, which T5 mixes by. T5 leaves WNLI
#: out, since its validation contradicts its training on purpose.
MIXTURES = {
    'glue': {'glue_cola': 8_551, 'glue_sst2': 67_349, 'glue_mrpc': 3_668, 'glue_qqp': 363_849,
             'glue_stsb': 5_749, 'glue_mnli': 392_702, 'glue_qnli': 104_743, 'glue_rte': 2_490},
    'super_glue': {'super_glue_boolq': 9_427, 'super_glue_cb': 250, 'super_glue_copa': 400,
                   'super_glue_multirc': 27_243, 'super_glue_record': 138_854,
                   'super_glue_rte': 2_490, 'super_glue_wic': 5_428, 'super_glue_wsc': 259},
    'mrqa': {'mrqa_squad': 86_588, 'mrqa_news_qa': 74_160, 'mrqa_trivia_qa': 61_688,
             'mrqa_search_qa': 117_384, 'mrqa_hotpot_qa': 72_928,
             'mrqa_natural_questions': 104_071},
}
#: T5's target where there is no label.
_NO_LABEL = '<unk>'


def register(vocabulary: Any, data_dir: str | None = None, source: str = 'auto',
             with_name: bool = True, names: Iterable[str] | None = None) -> list[str]:
    """Add tasks and mixtures to seqio's registries; their data is read when they are.

    Args:
        vocabulary: any that `load_vocabulary` gives, or a seqio.Vocabulary.
        data_dir, source, with_name: as `benchmark_task` takes them.
        names: of the tasks; None for all of them, and then the mixtures too.

    Returns:
        The names of what was added.

    Raises:
        ValueError: something of that name is registered, or no benchmark has such a task.
    """
    tasks = list(BENCHMARK_TASKS if names is None else names)
    for name in tasks:
        task = benchmark_task(name, data_dir, source, with_name)
        seqio.TaskRegistry.add_provider(name, build_task(
            name, _texts(task), tuple(task.splits), vocabulary))
    mixtures = MIXTURES if names is None else {}
    for name, rates in mixtures.items():
        seqio.MixtureRegistry.add(name, list(rates.items()))
    return [*tasks, *mixtures]


def _texts(task: TextTask) -> Callable[[str], Iterator[tuple[str, str]]]:
    """Return what gives a split's (input, target) pairs, T5's target where there is no label."""
    def texts(split: str) -> Iterator[tuple[str, str]]:
        for row in task.rows(split):
            yield task.render(row), (task.target_text(row) if task.target in row.columns
                                     else _NO_LABEL)
    return texts
