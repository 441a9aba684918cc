"""Several tasks in one run: each is trained as by itself, in batches that hold rows of all."""

import dataclasses
import json

import numpy as np
import optax
import pytest

from jax_prompt.data.tasks.files import file_task
from jax_prompt.data.tasks.mixture import Mixture
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.methods.dept import dept
from jax_prompt.prompts.methods.residual import residual
from jax_prompt.prompts.prompt import Tuned
from jax_prompt.training.optimizers import adamw
from jax_prompt.training.run import AFTER, train, train_together
from jax_prompt.training.settings import PromptSettings
from tests.training.test_run import Stop, stop_before


@pytest.fixture(autouse=True)
def no_curves(request, monkeypatch):
    if 'folder' not in request.node.name:
        monkeypatch.setattr('jax_prompt.training.run.draw_curves', lambda *_: None)


@pytest.fixture(scope='module')
def other(world):
    """The same reviews, asked for otherwise: longer inputs and other answers."""
    return dataclasses.replace(file_task(
        str(world / 'reviews.csv'), inputs_template='the {text} and the film was',
        labels={'0': 'cold', '1': 'warm'}), name='other')


@pytest.fixture(scope='module')
def mixture(task, other):
    return Mixture((task, other), given_rates=(1.0, 3.0))


def read_lines(folder):
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.parametrize('chosen', [
    # Adafactor would make much of how rounding differs between packed rows of two shapes.
    {}, pytest.param({'packing': True, 'optimizer': optax.sgd(0.5)}, marks=pytest.mark.slow),
    pytest.param({'reduction': 'mean', 'microbatches': 2}, marks=pytest.mark.slow),
    pytest.param({'method': residual(8), 'optimizer': adamw(0.01)}, marks=pytest.mark.slow),
    pytest.param({'method': dept(2, length=6), 'optimizer': adamw(0.01)}, marks=pytest.mark.slow)])
def test_each_task_is_trained_as_in_a_run_of_its_own(model, task, other, mixture, settings,
                                                     tmp_path, chosen):
    prompt = PromptSettings(5, method=chosen.get('method'))
    fields = {name: value for name, value in chosen.items() if name not in ('method', 'optimizer')}
    together = train_together(model, mixture, tmp_path / 'joint', prompt, chosen.get('optimizer'),
                              settings(steps=8, **fields), quiet=True)
    joint = read_lines(tmp_path / 'joint')
    for one, batch_size, outcome in zip((task, other), (2, 6), together, strict=True):
        own = settings(steps=8, **fields | {'batch_size': batch_size})
        alone = train(model, one, tmp_path / outcome.folder.name, prompt, chosen.get('optimizer'),
                      own, quiet=True)
        np.testing.assert_allclose(load_prompt(outcome.folder.prompt).prompt.rows,
                                   load_prompt(alone.folder.prompt).prompt.rows, rtol=1e-5,
                                   atol=1e-5)
        lines = [line for line in joint if line['task'] == outcome.folder.name]
        told = read_lines(alone.folder.path)
        assert [(line['step'], line['name']) for line in lines] == [
            (line['step'], line['name']) for line in told]
        np.testing.assert_allclose([line['value'] for line in lines],
                                   [line['value'] for line in told], rtol=1e-4, atol=1e-5)
        assert outcome.best_step == alone.best_step


def test_the_folder_names_the_tasks_in_all_that_it_holds(model, task, mixture, prompt, settings,
                                                         tmp_path):
    outcomes = train_together(model, mixture, tmp_path / 'run', prompt, quiet=True,
                              settings=settings(steps=4, compare=True))
    assert {path.name for path in (tmp_path / 'run').glob('*.safetensors')} == {
        'reviews.safetensors', 'other.safetensors'}
    assert (tmp_path / 'run' / 'curves.png').is_file()
    for outcome, words in zip(outcomes, ('negative', 'cold'), strict=True):
        metadata = load_prompt(outcome.folder.prompt).metadata
        assert metadata.task['labels']['0'] == words and metadata.step == outcome.best_step
        assert load_prompt(outcome.folder.start).metadata.task == metadata.task
    card = (tmp_path / 'run' / 'card.md').read_text()
    for told in ('# Soft prompts for reviews, other', '2 prompts of 5 virtual tokens',
                 f'| other: test, {AFTER} | {outcomes[1].results[AFTER]["accuracy"]:.4g} |',
                 '| reviews: validation |', '| examples a batch | reviews 2, other 6 |',
                 'the {text} and the film was', f'--prompt={tmp_path}/run/other.safetensors',
                 "| started from | each task's labels"):
        assert told in card, told


def test_a_joint_run_that_is_stopped_goes_on_to_the_same_bytes(model, mixture, prompt, settings,
                                                               tmp_path, monkeypatch):
    chosen = settings(steps=10, dropout_rate=0.1, patience=1)
    whole = train_together(model, mixture, tmp_path / 'whole', prompt, settings=chosen, quiet=True)
    with monkeypatch.context() as patch:
        stop_before(patch, 7)
        with pytest.raises(Stop):
            train_together(model, mixture, tmp_path / 'parts', prompt, settings=chosen, quiet=True)
    parts = train_together(model, mixture, tmp_path / 'parts', prompt, settings=chosen, quiet=True)
    for one, other in zip(whole, parts, strict=True):
        assert one.folder.prompt.read_bytes() == other.folder.prompt.read_bytes()
        assert one.results == other.results
    assert read_lines(tmp_path / 'parts') == read_lines(tmp_path / 'whole')
    again = train_together(model, mixture, tmp_path / 'parts', prompt, settings=chosen, quiet=True)
    assert again == parts


def test_members_of_an_ensemble_have_starts_and_orders_of_their_own(model, task, prompt, settings,
                                                                  tmp_path):
    members = train_together(model, Mixture((task,)), tmp_path / 'both',
                             dataclasses.replace(prompt, ensemble=2),
                             settings=settings(steps=4, batch_size=16), quiet=True)
    assert [one.folder.name for one in members] == ['reviews-1', 'reviews-2']
    for number, outcome in enumerate(members):
        alone = train(model, task, tmp_path / str(number), prompt, quiet=True,
                      settings=settings(steps=4, seed=1 + number))
        rows = load_prompt(outcome.folder.prompt).prompt.rows
        np.testing.assert_allclose(rows, load_prompt(alone.folder.prompt).prompt.rows, rtol=1e-5,
                                   atol=1e-5)
    assert load_prompt(members[0].folder.prompt).metadata.seed == 1
    told = members[0].ensemble
    assert list(told) == ['mean of the members', 'best member', 'ensemble by vote',
                          'ensemble by mean']
    own = [one.results[AFTER] for one in members]
    for name in own[0]:
        np.testing.assert_allclose(told['mean of the members'][name],
                                   np.mean([metrics[name] for metrics in own]), rtol=1e-4)
    assert told['best member']['accuracy'] == max(metrics['accuracy'] for metrics in own)
    card = (tmp_path / 'both' / 'card.md').read_text()
    accuracy = told['ensemble by mean']['accuracy']
    assert f'| reviews: test, ensemble by mean | {accuracy:.4g} |' in card


def test_bad_mixtures_are_refused_in_one_line(model, task, other, prompt, settings, tmp_path):
    with pytest.raises(ValueError, match="^2 tasks of the run are called 'reviews', .* give them"):
        Mixture((task, task))
    twin = dataclasses.replace(task, name='reviews!'), dataclasses.replace(other, name='reviews?')
    with pytest.raises(ValueError, match='two tasks would write the prompt file reviews_.safe'):
        train_together(model, Mixture(twin), tmp_path / 'run', prompt, settings=settings())
    with pytest.raises(ValueError, match='^an ensemble of 1 is none; expected at least 2 prompts'):
        PromptSettings(5, ensemble=1)
    with pytest.raises(ValueError, match='batch_size is 1 for 2 prompts that are trained at once'):
        train_together(model, Mixture((task, other)), tmp_path / 'run', prompt,
                       settings=settings(batch_size=1))
    weights = Method('all', lambda rng, context: ({'w': np.ones(2, np.float32)}, {}),
                     lambda params, constants: Tuned(None, {'encoder': params['w']}))
    with pytest.raises(ValueError, match='method all tunes weights of the model, '):
        train_together(model, Mixture((task, other)), tmp_path / 'run',
                       PromptSettings(5, method=weights), optax.sgd(0.1), settings())
    assert not (tmp_path / 'run').exists()
