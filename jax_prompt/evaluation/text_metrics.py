"""Metrics of generated answers: SQuAD's, those of MultiRC and ReCoRD, ROUGE and BLEU.

All are fractions from 0 to 1. ROUGE and BLEU are computed by rouge-score and sacrebleu, in which
published figures are; the others by the rules of the benchmarks' own scripts.
"""

import collections
import importlib
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from jax_prompt.data.tasks.rows import GROUP, Row
from jax_prompt.evaluation.metrics import Judge, StagedMetric, f1
from jax_prompt.inference.rows import Prediction

_ARTICLES = re.compile(r'\b(a|an|the)\b')
_PUNCTUATION = str.maketrans('', '', string.punctuation)
_ROUGE = ('rouge1', 'rouge2', 'rougeLsum')


def squad(task: Judge) -> StagedMetric:
    """Return SQuAD's metrics 'f1', of tokens, and 'exact_match'.

    Case, punctuation, articles and white space do not count; of several right answers the one that
    gives most does.

    Source: the evaluation script of SQuAD 1.1 (Rajpurkar et al. 2016).
    """
    return StagedMetric(
        lambda predictions, rows: [_squad_scores(one.text, task.right_answers(row))
                                   for one, row in zip(predictions, rows, strict=True)],
        _means('f1', 'exact_match'))


def record(task: Judge) -> StagedMetric:
    """Return ReCoRD's metrics 'f1' and 'exact_match': `squad`'s, each query counted once.

    Rows of one query, which has several right answers, have the same value in the column 'group';
    the first of them counts. Without that column each row is a query.

    Source: SuperGLUE (Wang et al. 2019) and `deduplicate_metric` of T5.
    """
    each = squad(task)

    def units(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[Any]:
        firsts: dict[str, int] = {}
        for number, row in enumerate(rows):
            firsts.setdefault(str(row.columns.get(GROUP, (number,))), number)
        return each.units([predictions[number] for number in firsts.values()],
                          [rows[number] for number in firsts.values()])

    return StagedMetric(units, each.summarize)


def multirc(task: Judge) -> StagedMetric:
    """Return MultiRC's metrics 'f1a' and 'exact_match'.

    F1a is `f1` over all answer options, 'exact_match' the fraction of questions of which all
    options are judged right. Rows of one question have the same value in the column 'group'.

    Raises:
      ValueError: the task has not two labels; and where the metric is used, a row without the
        column.

    Source: SuperGLUE (Wang et al. 2019); Khashabi et al. 2018.
    """
    of_options = f1(task, name='f1a')

    def units(predictions: Sequence[Prediction], rows: Sequence[Row]) -> list[Any]:
        questions: dict[str, list[tuple[str, str]]] = {}
        for row, pair in zip(rows, of_options.units(predictions, rows), strict=True):
            if GROUP not in row.columns:
                raise ValueError(f'metric multirc needs a column {GROUP!r} that tells the question '
                                 f'of a row; {row.where} has none')
            questions.setdefault(str(row.columns[GROUP]), []).append(pair)
        return [*questions.values()]

    def summarize(questions: Sequence[Any]) -> dict[str, float]:
        right = sum(all(one == other for one, other in options) for options in questions)
        return of_options.summarize([pair for options in questions for pair in options]) | {
            'exact_match': right / len(questions)}

    return StagedMetric(units, summarize)


def rouge(task: Judge) -> StagedMetric:
    """Return the metrics 'rouge1', 'rouge2' and 'rougeLsum': mean F-measures, words not stemmed.

    Sentences, which ROUGE-Lsum takes one by one, end at a line feed or at ' . ', as T5 has it; of
    several right answers the one that gives most counts. T5 reports the median of a bootstrap in
    place of the mean, which differs in the second digit behind the point.

    Raises:
      ValueError: rouge-score is not installed.

    Source: Lin 2004; the package rouge-score.
    """
    scorer = _import('rouge_score.rouge_scorer', 'rouge').RougeScorer(list(_ROUGE))

    def scores(text: str, golds: Sequence[str]) -> tuple[float, ...]:
        sentences = [one.replace(' . ', ' .\n') for one in (text, *golds)]
        found = scorer.score_multi(sentences[1:], sentences[0])
        return tuple(found[name].fmeasure for name in _ROUGE)

    return StagedMetric(
        lambda predictions, rows: [scores(one.text, task.right_answers(row))
                                   for one, row in zip(predictions, rows, strict=True)],
        _means(*_ROUGE))


def bleu(task: Judge) -> StagedMetric:
    """Return the metric 'bleu': of the corpus, by sacrebleu's settings (mixed case, 13a tokens).

    Raises:
      ValueError: sacrebleu is not installed.

    Source: Papineni et al. 2002; Post 2018.
    """
    metric = _import('sacrebleu.metrics', 'bleu').BLEU()

    def counts(text: str, golds: Sequence[str]) -> list[int]:
        found = metric.corpus_score([text], [[gold] for gold in golds])
        return [found.sys_len, found.ref_len, *found.counts, *found.totals]

    def summarize(sentences: Sequence[list[int]]) -> dict[str, float]:
        said, right, *rest = map(sum, zip(*sentences, strict=True))
        orders = len(rest) // 2
        found = metric.compute_bleu(rest[:orders], rest[orders:], said, right,
                                    smooth_method='exp')
        return {'bleu': found.score / 100}

    return StagedMetric(
        lambda predictions, rows: [counts(one.text, task.right_answers(row))
                                   for one, row in zip(predictions, rows, strict=True)], summarize)


def _means(*names: str) -> Callable[[Sequence[tuple[float, ...]]], dict[str, float]]:
    """Return what takes the mean of each column of scores."""
    return lambda scores: {name: sum(side) / len(scores)
                           for name, side in zip(names, zip(*scores, strict=True), strict=True)}


def _squad_scores(text: str, golds: Sequence[str]) -> tuple[float, float]:
    """Return the best F1 of tokens and exact match of an answer against the right ones."""
    said = normalized_answer(text)
    pairs = [(_token_f1(said, right), float(said == right))
             for right in map(normalized_answer, golds)]
    return tuple(map(max, zip(*pairs, strict=True)))


def normalized_answer(text: str) -> str:
    """Return a text without case, punctuation, articles and white space that SQuAD disregards."""
    return ' '.join(_ARTICLES.sub(' ', text.lower().translate(_PUNCTUATION)).split())


def _token_f1(said: str, right: str) -> float:
    common = (collections.Counter(said.split()) & collections.Counter(right.split())).total()
    return 2 * common / (len(said.split()) + len(right.split())) if common else 0.0


def _import(module: str, metric: str) -> Any:
    """Import what computes a metric, or say what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ValueError(f'metric {metric} needs the Python package {module.partition(".")[0]}, '
                         "which is not installed; install it by: pip install "
                         "'jax-prompt[metrics]'") from None
