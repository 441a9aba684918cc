"""GLUE (Wang et al. 2018): nine tasks and the diagnostics, and the transfer between QQP and MRPC.

The formats are those of T5's published preprocessors, `glue` and `stsb` of
t5/data/preprocessors.py: the task's name, then each column's name and text, columns sorted by name.
"""

import dataclasses
import logging
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jax_prompt.data.tasks.definition import HIDDEN_TEST, LEADERBOARD, Columns, TaskDefinition
from jax_prompt.data.tasks.rows import Row, decode

_log = logging.getLogger(__name__)

_FILES = {'train': ('train.tsv',), 'validation': ('dev.tsv', 'validation.tsv'),
          'test': ('test.tsv',)}
_ENTAILMENT = ('entailment', 'not_entailment')
_NLI = ('entailment', 'neutral', 'contradiction')
#: CoLA's files for training and development have no first line that names the columns.
_COLA = ('source', 'label', 'mark', 'sentence')
#: Official columns -> those of TFDS.
_NAMES = {'#1 String': 'sentence1', '#2 String': 'sentence2', 'Quality': 'label',
          'is_duplicate': 'label', 'gold_label': 'label', 'score': 'label', 'index': 'idx'}


def _read(path: str, header: Sequence[str] | None = None) -> Iterator[Row]:
    """Read an official file: tabs, no quoting; `idx` is the number of the line's row from 0.

    Lines with fewer columns than the first names are in QQP; TFDS and the hub leave them out too.
    """
    name, short, number = os.path.basename(path), [], 0
    with open(path, 'rb') as file:
        lines = (part for line in file for part in line.splitlines())
        for line, raw in enumerate(lines, 1):
            fields = decode(raw, f'{name} line {line}', line == 1).split('\t')
            if header is None:
                header = fields
                continue
            columns = {'idx': number} | dict(zip(header, fields, strict=False))
            number += 1
            if len(fields) < len(header):
                short.append(line)
            else:
                yield Row(columns, f'{name} line {line}')
    if short:
        _log.warning('%s: %d lines left out that have fewer columns than the first, line %d first',
                     path, len(short), short[0])


def _read_cola(path: str) -> Iterator[Row]:
    """Read CoLA's files, of which only the test names its columns."""
    with open(path, 'rb') as file:
        named = file.readline().split(b'\t')[0].strip() == b'index'
    return _read(path, None if named else _COLA)


def _official(record: Columns) -> Iterable[Columns]:
    """Call the columns what TFDS calls them; those of TFDS and the hub are called so already."""
    yield {_NAMES.get(name, name): value for name, value in record.items()}


def _pair(record: Columns) -> Iterable[Columns]:
    """Call the two sentences of MNLI and the diagnostics premise and hypothesis."""
    columns = next(iter(_official(record)))
    if 'premise' not in columns:
        columns = {**columns, 'premise': columns['sentence1'], 'hypothesis': columns['sentence2']}
    yield columns


def _rounded(columns: Columns, split: str) -> Iterable[Columns]:
    """Round the similarity to the nearest 0.2, in single precision, as T5's `stsb` does."""
    if 'label' not in columns:
        yield columns
        return
    label = float(columns['label'])
    if not 0 <= label <= 5:
        raise ValueError(f'the similarity is {label}; expected a number from 0 to 5')
    rounded = np.round(np.float32(label) * np.float32(5)) / np.float32(5)
    yield {**columns, 'label': label, 'similarity': f'{rounded:.1f}'}


def _task(name: str, folder: str, template: str, **more) -> TaskDefinition:
    """Define a task of GLUE, whose folders and files are named alike."""
    told = {'prefix': f'{name} ', 'files': _FILES, 'splits': HIDDEN_TEST, 'read': _read,
            'records': _official, 'tfds': f'glue/{name}',
            'folders': (folder, f'glue/{name}', name)}
    return TaskDefinition(name=f'glue_{name}', template=template, **(told | more))


_SENTENCES = 'sentence1: {sentence1} sentence2: {sentence2}'
_MRPC = _task('mrpc', 'MRPC', _SENTENCES, labels=('not_equivalent', 'equivalent'),
              metrics=('f1', 'accuracy'))
_QQP = _task('qqp', 'QQP', 'question1: {question1} question2: {question2}',
             labels=('not_duplicate', 'duplicate'), metrics=('f1', 'accuracy'))

GLUE = (
    _task('cola', 'CoLA', 'sentence: {sentence}', labels=('unacceptable', 'acceptable'),
          read=_read_cola, metrics=('matthews',)),
    _task('sst2', 'SST-2', 'sentence: {sentence}', labels=('negative', 'positive'),
          folders=('SST-2', 'glue/sst2', 'sst2')),
    _MRPC,
    _QQP,
    # A rank among 26 words is always a number; T5 generates one.
    _task('stsb', 'STS-B', _SENTENCES, arrange=_rounded, target='similarity', classes=(),
          labels=tuple(f'{number / 5:.1f}' for number in range(26)),
          metrics=('pearson', 'spearman')),
    _task('mnli', 'MNLI', 'hypothesis: {hypothesis} premise: {premise}', labels=_NLI,
          records=_pair,
          splits={'train': 'train', 'validation': 'validation_matched',
                  'validation_mismatched': 'validation_mismatched', LEADERBOARD: 'test_matched',
                  'leaderboard_mismatched': 'test_mismatched'},
          files={'train': ('train.tsv',), 'validation_matched': ('dev_matched.tsv',),
                 'validation_mismatched': ('dev_mismatched.tsv',),
                 'test_matched': ('test_matched.tsv',),
                 'test_mismatched': ('test_mismatched.tsv',)}),
    _task('qnli', 'QNLI', 'question: {question} sentence: {sentence}', labels=_ENTAILMENT,
          folders=('QNLI', 'QNLIv2', 'glue/qnli', 'qnli')),
    _task('rte', 'RTE', _SENTENCES, labels=_ENTAILMENT),
    _task('wnli', 'WNLI', _SENTENCES, labels=('not_entailment', 'entailment')),
    # The diagnostics, which MNLI's prompt answers; nobody but the leaderboard has the labels.
    _task('ax', 'AX', 'hypothesis: {hypothesis} premise: {premise}', prefix='mnli ', labels=_NLI,
          records=_pair, splits={LEADERBOARD: 'test'}, folders=('AX', 'diagnostic', 'glue/ax'),
          files={'test': ('AX.tsv', 'diagnostic.tsv', 'test.tsv')}),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer(TaskDefinition):
    """Define zero-shot transfer: trained and chosen on one task, measured on another.

    Lester et al. (2021, section 5) transfer between QQP and MRPC. Each task keeps its own text in
    T5's format; the answers are in the words of the one that is learned.

    Attributes:
        learned, measured: the two tasks; the test split is the second one's validation.
    """

    learned: TaskDefinition
    measured: TaskDefinition

    def part(self, split: str) -> tuple[TaskDefinition, str]:
        """Return the task that a split is of, and the split's name there."""
        return (self.measured, 'validation') if split == 'test' else (self.learned, split)

    def rows(self, source: Iterable[Row], split: str) -> Iterator[Row]:
        """Make rows as the split's own task does; `task` is its name, `pair` the whole text."""
        task, own = self.part(split)
        words = dict(zip(task.labels, self.learned.labels, strict=True))
        for row in task.rows(source, own):
            columns = {**row.columns, 'pair': task.template.format_map(row.columns),
                       'task': task.prefix.strip()}
            if 'label' in columns:
                columns['label'] = words[columns['label']]
            yield Row(columns, row.where)


def _transfer(learned: TaskDefinition, measured: TaskDefinition) -> Transfer:
    """Define the transfer from one task to another."""
    names = (one.name.removeprefix('glue_') for one in (measured, learned))
    return Transfer(
        name='glue_{}_from_{}'.format(*names), prefix='{task} ', template='{pair}',
        labels=learned.labels,
        splits={'train': 'train', 'validation': 'validation', 'test': 'validation'},
        metrics=learned.metrics, learned=learned, measured=measured)


TRANSFERS = (_transfer(_QQP, _MRPC), _transfer(_MRPC, _QQP))
