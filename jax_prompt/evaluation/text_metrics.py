"""Metrics of generated answers: SQuAD's, those of MultiRC and ReCoRD, ROUGE and BLEU.

All are fractions from 0 to 1. ROUGE and BLEU are computed by rouge-score and sacrebleu, in which
published figures are; the others by the rules of the benchmarks' own scripts.
"""

import collections
import functools
import re
import string
from collections.abc import Sequence
from typing import Any

from jax_prompt.data.tasks.rows import GROUP, Row
from jax_prompt.evaluation.metrics import Judge, Metric, answer_pairs, check_lengths, f1
from jax_prompt.inference.rows import Prediction

_ARTICLES = re.compile(r'\b(a|an|the)\b')
_PUNCTUATION = str.maketrans('', '', string.punctuation)
_ROUGE = ('rouge1', 'rouge2', 'rougeLsum')
#: Answers whose scores are kept, since bootstrap asks for them again and again.
_KEPT = 2**16


def squad(task: Judge) -> Metric:
    """Return SQuAD's metrics 'f1', of tokens, and 'exact_match'.

    Case, punctuation, articles and white space do not count; of several right answers the one that
    gives most does.

    Source: the evaluation script of SQuAD 1.1 (Rajpurkar et al. 2016).
    """

    def measure(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        check_lengths(predictions, rows)
        scores = [_squad_scores(one.text, tuple(task.right_answers(row)))
                  for one, row in zip(predictions, rows, strict=True)]
        f1s, exact = (sum(side) / len(rows) for side in zip(*scores, strict=True))
        return {'f1': f1s, 'exact_match': exact}

    return measure


def record(task: Judge) -> Metric:
    """Return ReCoRD's metrics 'f1' and 'exact_match': `squad`'s, each query counted once.

    Rows of one query, which has several right answers, have the same value in the column 'group';
    the first of them counts. Without that column each row is a query.

    Source: SuperGLUE (Wang et al. 2019) and `deduplicate_metric` of T5.
    """
    measure_once = squad(task)

    def measure(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        check_lengths(predictions, rows)
        firsts: dict[str, int] = {}
        for number, row in enumerate(rows):
            firsts.setdefault(str(row.columns.get(GROUP, (number,))), number)
        return measure_once([predictions[number] for number in firsts.values()],
                            [rows[number] for number in firsts.values()])

    return measure


def multirc(task: Judge) -> Metric:
    """Return MultiRC's metrics 'f1a' and 'exact_match'.

    F1a is `f1` over all answer options, 'exact_match' the fraction of questions of which all
    options are judged right. Rows of one question have the same value in the column 'group'.

    Raises:
      ValueError: the task has not two labels; and where the metric is used, a row without the
        column.

    Source: SuperGLUE (Wang et al. 2019); Khashabi et al. 2018.
    """
    measure_f1 = f1(task, name='f1a')

    def measure(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        found = measure_f1(predictions, rows)
        right: dict[str, bool] = {}
        for row, (one, other) in zip(rows, answer_pairs(predictions, rows, task), strict=True):
            if GROUP not in row.columns:
                raise ValueError(f'metric multirc needs a column {GROUP!r} that tells the question '
                                 f'of a row; {row.where} has none')
            question = str(row.columns[GROUP])
            right[question] = right.get(question, True) and one == other
        return found | {'exact_match': sum(right.values()) / len(right)}

    return measure


def rouge(task: Judge) -> Metric:
    """Return the metrics 'rouge1', 'rouge2' and 'rougeLsum': mean F-measures, words not stemmed.

    Sentences, which ROUGE-Lsum takes one by one, end at a line feed or at ' . ', as T5 has it; of
    several right answers the one that gives most counts. T5 reports the median of a bootstrap in
    place of the mean, which differs in the second digit behind the point.

    Raises:
      ValueError: rouge-score is not installed.

    Source: Lin 2004; the package rouge-score.
    """
    rouge_scorer = _import('rouge_score.rouge_scorer', 'rouge')
    scorer = rouge_scorer.RougeScorer(list(_ROUGE))

    @functools.lru_cache(_KEPT)
    def scores(text: str, golds: tuple[str, ...]) -> tuple[float, ...]:
        sentences = [one.replace(' . ', ' .\n') for one in (text, *golds)]
        found = scorer.score_multi(sentences[1:], sentences[0])
        return tuple(found[name].fmeasure for name in _ROUGE)

    def measure(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        check_lengths(predictions, rows)
        found = [scores(one.text, tuple(task.right_answers(row)))
                 for one, row in zip(predictions, rows, strict=True)]
        return {name: sum(side) / len(rows)
                for name, side in zip(_ROUGE, zip(*found, strict=True), strict=True)}

    return measure


def bleu(task: Judge) -> Metric:
    """Return the metric 'bleu': of the corpus, by sacrebleu's settings (mixed case, 13a tokens).

    Raises:
      ValueError: sacrebleu is not installed.

    Source: Papineni et al. 2002; Post 2018.
    """
    sacrebleu = _import('sacrebleu', 'bleu')

    def measure(predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        check_lengths(predictions, rows)
        golds = [task.right_answers(row) for row in rows]
        most = max(map(len, golds))
        streams = [[one[number] if number < len(one) else None for one in golds]
                   for number in range(most)]
        found = sacrebleu.corpus_bleu([one.text for one in predictions], streams)
        return {'bleu': found.score / 100}

    return measure


@functools.lru_cache(_KEPT)
def _squad_scores(text: str, golds: tuple[str, ...]) -> tuple[float, float]:
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
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise ValueError(f'metric {metric} needs the Python package {module.partition(".")[0]}, '
                         "which is not installed; install it by: pip install "
                         "'jax-prompt[metrics]'") from None
