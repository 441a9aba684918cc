"""ANLI (Nie et al. 2020): three rounds of adversarial inference.

T5 was not trained on it; the format is what T5's `glue` would make of it, MNLI's.
"""

from collections.abc import Iterable

from jax_prompt.data.tasks.definition import OPEN_TEST, Columns, TaskDefinition


def _premise(record: Columns) -> Iterable[Columns]:
    """Call the context what the hub calls it: the premise."""
    yield {**record, 'premise': record['premise' if 'premise' in record else 'context'],
           'hypothesis': record['hypothesis']}


def _round(number: int) -> TaskDefinition:
    """Define a round."""
    folder = f'R{number}'
    return TaskDefinition(
        name=f'anli_r{number}', prefix='anli ',
        template='hypothesis: {hypothesis} premise: {premise}',
        labels=('entailment', 'neutral', 'contradiction'),
        values={'e': 'entailment', 'n': 'neutral', 'c': 'contradiction'}, splits=OPEN_TEST,
        files={'train': (f'{folder}/train.jsonl',), 'validation': (f'{folder}/dev.jsonl',),
               'test': (f'{folder}/test.jsonl',)},
        folders=('anli_v1.0', 'anli_v0.1', 'anli', 'anli/plain_text'), tfds=f'anli/r{number}',
        hub_splits={'train': f'train_r{number}', 'validation': f'dev_r{number}',
                    'test': f'test_r{number}'}, records=_premise)


ANLI = (_round(1), _round(2), _round(3))
