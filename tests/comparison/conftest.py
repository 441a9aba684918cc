"""A task of tiny reviews, and records that need no model."""

import functools
import random

import pytest

from jax_prompt.comparison.records import Record
from jax_prompt.data.tasks.files import file_task
from jax_prompt.data.tasks.text_task import TextTask


@pytest.fixture(scope='session')
def task(world):
    return file_task(str(world / 'reviews.csv'), inputs_template='review : {text}',
                     labels={'0': 'negative', '1': 'positive'}, name='reviews')


@pytest.fixture
def toy():
    """Texts with three labels: 30 to train on, 40 to test on."""
    def rows(count, start):
        return [{'text': f'text {start + i}', 'label': 'abc'[i % 3]} for i in range(count)]

    splits = {'train': rows(30, 0), 'validation': rows(20, 100), 'test': rows(40, 200)}
    return TextTask('toy', {split: functools.partial(list, some) for split, some in
                            splits.items()}, '{text}', labels=('a', 'b', 'c'))


@pytest.fixture
def record(toy):
    """Return a record that is right on so many of the test, chosen by a seed."""
    def make(right, validation=0.5, seed=0, **fields):
        rows = toy.rows('test')
        chosen = {*random.Random(seed).sample(range(len(rows)), right)}
        answers = [toy.target_text(row) if number in chosen else 'none of them'
                   for number, row in enumerate(rows)]
        told = dict(validation={'accuracy': validation}, test={'accuracy': right / len(rows)},
                    answers=answers, validated=400, trained_numbers=0, stored_bytes=0, examples=0,
                    seconds=0.0, seconds_an_answer=0.01, own_seconds=1.0)
        return Record(**told | fields)

    return make
