"""The tiny world, made once, and ways to train in it."""

import pytest

from jax_prompt.data.tasks.files import file_task
from jax_prompt.models.open import open_model
from jax_prompt.training.settings import PromptSettings, TrainSettings


@pytest.fixture(scope='session')
def model(world):
    return open_model(str(world / 'model'))


@pytest.fixture(scope='session')
def task(world):
    return file_task(str(world / 'reviews.csv'), inputs_template='review : {text}',
                     labels={'0': 'negative', '1': 'positive'})


@pytest.fixture(scope='session')
def settings():
    """Sixteen quick steps; pass fields to change them."""
    def make(**fields):
        quick = dict(steps=16, batch_size=8, evaluate_every=4, log_every=2, max_buckets=1,
                     evaluation_batch_size=32, seed=1)
        return TrainSettings(**quick | fields)
    return make


@pytest.fixture(scope='session')
def prompt():
    return PromptSettings(rows=5)
