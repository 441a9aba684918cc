"""SuperGLUE's leaderboard: files of predictions as it takes them, and a check of their format.

Source: the description at super.gluebenchmark.com/faq. A file a task, JSON lines sorted by `idx`,
each with the example's `idx` and a `label`: true or false in small letters for BoolQ and WiC, with
a capital for WSC, 0 or 1 for COPA, the class for CB, RTE and the diagnostics, the answer's text for
ReCoRD. A line of MultiRC has a passage's questions, and these their answers with 0 or 1.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from jax_prompt.data.tasks.rows import Row, read_rows
from jax_prompt.evaluation.winograd import refers
from jax_prompt.files import brief, listed, write_file
from jax_prompt.inference.rows import Prediction

_NLI = ('entailment', 'not_entailment')


@dataclasses.dataclass(frozen=True)
class _Format:
    """How a task's predictions are written.

    Attributes:
      file: its name, without the ending.
      labels: all that may stand there; None for any text.
      label: (prediction, row) -> label.
    """

    file: str
    labels: tuple[Any, ...] | None
    label: Callable[[Prediction, Row], Any] = lambda prediction, row: prediction.text


def _small(prediction: Prediction, row: Row) -> str:
    return prediction.text.lower()


def _number(prediction: Prediction, row: Row) -> int:
    return int(prediction.text in ('True', 'choice2'))


def _is_referent(prediction: Prediction, row: Row) -> str:
    return str(refers(prediction.text, row.columns['span1_text']))


_FORMATS = {
    'super_glue_boolq': _Format('BoolQ', ('true', 'false'), _small),
    'super_glue_cb': _Format('CB', ('entailment', 'contradiction', 'neutral')),
    'super_glue_copa': _Format('COPA', (0, 1), _number),
    'super_glue_multirc': _Format('MultiRC', (0, 1), _number),
    'super_glue_record': _Format('ReCoRD', None),
    'super_glue_rte': _Format('RTE', _NLI),
    'super_glue_wic': _Format('WiC', ('true', 'false'), _small),
    'super_glue_wsc': _Format('WSC', ('True', 'False'), _is_referent),
    'super_glue_wsc_ranking': _Format('WSC', ('True', 'False')),
    'super_glue_axb': _Format('AX-b', _NLI),
    'super_glue_axg': _Format('AX-g', _NLI),
}


def submission_file(folder: str | os.PathLike, task: str) -> str:
    """Return where a task's predictions stand in a folder for the leaderboard."""
    return os.path.join(folder, f'{_FORMATS[task].file}.jsonl')


def write_submission(folder: str | os.PathLike, task: str, predictions: Sequence[Prediction],
                     rows: Sequence[Row]) -> str:
    """Write a task's predictions as the leaderboard takes them, in place of older ones.

    Args:
      folder: made if it is not there.
      task: by its name, such as 'super_glue_boolq'.
      predictions: an answer for each row.
      rows: of the leaderboard's split.

    Returns:
      The file's path.
    """
    form = _FORMATS[task]
    labels = [(row.columns['idx'], form.label(prediction, row))
              for prediction, row in zip(predictions, rows, strict=True)]
    if task == 'super_glue_multirc':
        records = _nested(labels)
    else:  # a query of ReCoRD has its number beside its passage's
        flat = {idx['query'] if isinstance(idx, dict) else idx: label for idx, label in labels}
        records = [{'idx': idx, 'label': flat[idx]} for idx in sorted(flat)]
    lines = ''.join(json.dumps(record) + '\n' for record in records)
    path = submission_file(folder, task)
    write_file(path, lines.encode(), overwrite=True)
    return path


def _nested(labels: Sequence[tuple[dict[str, int], int]]) -> list[dict[str, Any]]:
    """Put the answers of MultiRC below their questions, and these below their passages."""
    found: dict[int, dict[int, dict[int, int]]] = {}
    for idx, label in labels:
        questions = found.setdefault(idx['paragraph'], {})
        questions.setdefault(idx['question'], {})[idx['answer']] = label
    return [{'idx': paragraph, 'passage': {'questions': [
        {'idx': question, 'answers': [{'idx': answer, 'label': answers[answer]}
                                      for answer in sorted(answers)]}
        for question, answers in sorted(questions.items())]}}
        for paragraph, questions in sorted(found.items())]


def check_submission(folder: str | os.PathLike, task: str, rows: Sequence[Row]) -> None:
    """Check a file of predictions against the leaderboard's description.

    Args:
      folder: that holds it.
      task: by its name.
      rows: of the leaderboard's split.

    Raises:
      ValueError, FileNotFoundError: naming the line, for what the leaderboard would not take: no
        JSON, another key, a label that is none, an example that is missing, twice there or unknown,
        lines out of order.
    """
    path, labels = submission_file(folder, task), _FORMATS[task].labels
    found: list[tuple[Any, str]] = []
    for row in read_rows(path):
        keys = ('idx', 'passage') if task == 'super_glue_multirc' else ('idx', 'label')
        if set(row.columns) != set(keys) or type(row.columns['idx']) is not int:
            raise ValueError(f'{row.where} has the keys {listed(row.columns)}; expected '
                             f'{listed(keys)}, and a number for idx')
        for idx, label in _flat(row):
            wrong = (not isinstance(label, str) if labels is None else
                     not any(label == one and type(label) is type(one) for one in labels))
            if wrong:
                raise ValueError(f'{row.where} has the label {brief(label)}; expected '
                                 + ('text' if labels is None else f'one of {listed(labels)}'))
            found.append((idx, row.where))
    expected = {_key(row.columns['idx']) for row in rows}
    for number, (idx, where) in enumerate(found):
        if idx not in expected:
            raise ValueError(f'{where} answers {idx}, which the leaderboard does not ask')
        if number and idx <= found[number - 1][0]:
            raise ValueError(f'{where} answers {idx} behind {found[number - 1][0]}; expected each '
                             'example once, sorted by idx')
    missing = sorted(expected - {idx for idx, _ in found})
    if missing:
        raise ValueError(f'{path} has no answer to {len(missing):,} of {len(expected):,} examples, '
                         f'{missing[0]} first')


def _flat(row: Row) -> list[tuple[Any, Any]]:
    """Return (key, label) of each answer in a line."""
    if 'label' in row.columns:
        return [(row.columns['idx'], row.columns['label'])]
    try:
        return [((row.columns['idx'], question['idx'], answer['idx']), answer['label'])
                for question in row.columns['passage']['questions']
                for answer in question['answers']]
    except (KeyError, TypeError) as error:
        raise ValueError(f'{row.where} has no {error}; expected a passage with questions, and '
                         'these with answers, each with idx and label') from None


def _key(idx: Any) -> Any:
    """Return what tells an example: its number, a query's, or an answer's with those above it."""
    if isinstance(idx, dict):
        return idx['query'] if 'query' in idx else (idx['paragraph'], idx['question'],
                                                    idx['answer'])
    return idx
