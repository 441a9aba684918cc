"""Whole runs in the tiny world: what they leave, how they resume, what they refuse."""

import dataclasses
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import time

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_prompt.data.tasks.files import file_task
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.models.open import open_model
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.initializers import uniform
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.methods.residual import residual
from jax_prompt.prompts.prompt import Prompt, Tuned
from jax_prompt.training.optimizers import adafactor, adamw, warmup_schedule
from jax_prompt.training.programs import train_step_of
from jax_prompt.training.run import AFTER, BEFORE, MOST_COMMON, NO_PROMPT, train
from jax_prompt.training.settings import PromptSettings, TrainSettings
from tests import tiny_world
from tests.training.processes import command, newest_checkpoint


class Stop(Exception):
    """Raised by tests to end a run where a signal would."""


def stop_before(patch, step_number):
    """Make runs raise where they would begin the update after so many."""

    def make(*args):
        inner = train_step_of(*args)

        def step(state, *inputs):
            if int(state.step) == step_number:
                raise Stop
            return inner(state, *inputs)

        return step

    patch.setattr('jax_prompt.training.loop.train_step_of', make)


def read_lines(folder):
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def values(folder, split, name):
    return [line['value'] for line in read_lines(folder)
            if (line['split'], line['name']) == (split, name)]


@pytest.fixture(autouse=True)
def no_curves(request, monkeypatch):
    """Draw curves in the one test alone that looks for them."""
    if 'complete' not in request.node.name:
        monkeypatch.setattr('jax_prompt.training.run.draw_curves', lambda *_: None)


@pytest.fixture(scope='module')
def finished(model, task, prompt, settings, tmp_path_factory):
    """A whole run of sixteen steps, which tests leave as it is."""
    return train(model, task, tmp_path_factory.mktemp('finished') / 'run', prompt,
                 settings=settings(), quiet=True)


@pytest.fixture(scope='module')
def short(model, task, prompt, settings, tmp_path_factory):
    """The folder of a run of one step, into which a killed start had written before."""
    folder = tmp_path_factory.mktemp('short')
    (folder / '.run.json.7.tmp').write_text('{"half')
    train(model, task, folder, prompt, adafactor(warmup_schedule(0.3, 0, 9, 'linear')),
          settings(steps=1), quiet=True)
    return folder


def test_a_run_leaves_its_folder_complete_and_the_loss_lower(model, task, prompt, settings,
                                                           tmp_path):
    task = dataclasses.replace(task, notes=('Half of it is made up.',))
    outcome = train(model, task, tmp_path / 'run', prompt, quiet=True,
                    settings=settings(steps=60, compare=True, max_buckets=2))
    assert {path.name for path in (tmp_path / 'run').iterdir()} >= {
        'checkpoints', 'prompt.safetensors', 'metrics.jsonl', 'curves.png', 'card.md', 'run.json',
        'tensorboard'}
    accuracy = {name: metrics['accuracy'] for name, metrics in outcome.results.items()}
    assert list(accuracy) == [MOST_COMMON, NO_PROMPT, BEFORE, AFTER]
    losses = values(tmp_path / 'run', 'train', 'loss')
    assert len(losses) == 30 and losses[-1] < 0.85 * losses[0]
    best = load_prompt(outcome.folder.prompt)
    assert best.prompt.rows.shape == (5, 16) and best.metadata.step == outcome.best_step
    assert best.metadata.task == task.to_dict() | {'labels': {'0': 'negative', '1': 'positive'}}
    validation = values(tmp_path / 'run', 'validation', 'accuracy')
    assert best.metadata.metrics['accuracy'] == max(validation) and len(validation) == 16
    assert outcome.trained_numbers == 5 * 16
    card = (tmp_path / 'run' / 'card.md').read_text()
    for told in ('review : {text}', model.fingerprint, '- Half of it is made up.', '| `0` | `nega',
                 f'{model.num_parameters:,}', '| trained numbers | 80 |', '| seed | 1 |',
                 f'| best step (kept) | {outcome.best_step} |', '| started from | class_labels(',
                 '| chosen by | accuracy on validation |',
                 f'| test, most common answer | {accuracy[MOST_COMMON]:.4g} |',
                 '| optimizer | adafactor(learning_rate=0.3,', '| test, no prompt | ',
                 f'--prompt={outcome.folder.prompt}', 'jax_prompt 0.', '| method | direct() |'):
        assert told in card, told


def test_a_run_keeps_what_its_prompt_started_from(model, finished):
    start = load_prompt(finished.folder.start)
    table = np.asarray(model.model.embedding_table(model.frozen))
    words = [table[model.vocabulary.encode_words(word)].mean(0) for word in ('negative',
                                                                             'positive')]
    np.testing.assert_array_equal(start.prompt.rows[:2], words)
    assert start.metadata.step == 0 and not start.metadata.metrics
    assert start.prompt.rows.shape == load_prompt(finished.folder.prompt).prompt.rows.shape


def test_the_same_seed_gives_the_same_run_and_another_does_not(model, task, prompt, settings,
                                                              finished, tmp_path):
    def run(name, **fields):
        outcome = train(model, task, tmp_path / name, prompt, settings=settings(**fields),
                        quiet=True)
        return outcome.folder.prompt.read_bytes(), read_lines(tmp_path / name)

    first = finished.folder.prompt.read_bytes(), read_lines(finished.folder.prompt.parent)
    assert first == run('same')
    assert first[0] != run('other', seed=2)[0]


@pytest.mark.parametrize('chosen', [
    {'dropout_rate': 0.2}, *(pytest.param(chosen, marks=pytest.mark.slow) for chosen in (
        {'max_buckets': 2}, {'packing': True}, {'microbatches': 2, 'dropout_rate': 0.1}))])
def test_stopped_and_resumed_equals_uninterrupted(model, task, prompt, settings, tmp_path,
                                                  monkeypatch, chosen):
    chosen = settings(**chosen, steps=14)
    whole = train(model, task, tmp_path / 'whole', prompt, settings=chosen, quiet=True)
    for step_number in (2, 9):
        with monkeypatch.context() as patch:
            stop_before(patch, step_number)
            with pytest.raises(Stop):
                train(model, task, tmp_path / 'parts', prompt, settings=chosen, quiet=True)
    parts = train(model, task, tmp_path / 'parts', prompt, settings=chosen, quiet=True)
    assert parts.folder.prompt.read_bytes() == whole.folder.prompt.read_bytes()
    assert read_lines(tmp_path / 'parts') == read_lines(tmp_path / 'whole')
    assert parts.results == whole.results


def test_a_finished_run_started_again_answers_without_training(model, task, prompt, settings,
                                                               finished, monkeypatch):
    monkeypatch.setattr('jax_prompt.training.problem.train_batches', None)
    again = train(model, task, finished.folder.prompt.parent, prompt, settings=settings(),
                  quiet=True)
    assert again == finished


def test_a_finished_run_is_compared_when_that_is_asked_for_later(model, task, prompt, settings,
                                                               tmp_path):
    plain = train(model, task, tmp_path, prompt, settings=settings(steps=4), quiet=True)
    assert list(plain.results) == [MOST_COMMON, AFTER]
    again = train(model, task, tmp_path, prompt, settings=settings(steps=4, compare=True),
                  quiet=True)
    assert list(again.results) == [MOST_COMMON, NO_PROMPT, BEFORE, AFTER]
    assert again.results[AFTER] == plain.results[AFTER]
    measured = [line['name'] for line in read_lines(tmp_path) if line['split'] == 'test']
    assert measured == [f'{heading}, {name}' for heading, metrics in again.results.items()
                        for name in metrics]


def test_a_run_need_not_read_its_test(model, task, prompt, settings, tmp_path):
    blind = dataclasses.replace(task, splits={**task.splits, 'test': 'no such file.csv'})
    quick = settings(steps=4, measure=False)
    unmeasured = train(model, blind, tmp_path, prompt, settings=quick, quiet=True)
    assert unmeasured.results == {} and unmeasured.tuned.prompt.rows.shape == (5, 16)
    again = train(model, blind, tmp_path, prompt, settings=quick, quiet=True)
    assert again == unmeasured


def test_a_stopped_run_can_end_where_it_stands(model, task, prompt, settings, tmp_path,
                                               monkeypatch):
    with monkeypatch.context() as patch:
        stop_before(patch, 10)
        with pytest.raises(Stop):
            train(model, task, tmp_path, prompt, settings=settings(steps=100), quiet=True)
    outcome = train(model, task, tmp_path, prompt, settings=settings(steps=8), quiet=True)
    assert AFTER in outcome.results and (tmp_path / 'card.md').is_file()


@pytest.mark.parametrize('size', [300, 2000])  # the run's record, a checkpoint
def test_a_full_disk_is_told_and_the_run_goes_on_once_there_is_room(
        model, task, prompt, settings, short, tmp_path, size):
    arguments = (model, task, tmp_path / 'run', prompt,
                 adafactor(warmup_schedule(0.3, 0, 9, 'linear')), settings(steps=1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # as a full disk: writing fails behind so many bytes
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        with pytest.raises(OSError, match="^cannot write the run's folder .*/run: File too large; "
                                          'mend that and start the same command again to go on$'):
            train(*arguments, quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / 'run' / 'run.json').exists() == (size > 300)
    train(*arguments, quiet=True)
    for name in ('prompt.safetensors', 'metrics.jsonl'):
        assert (tmp_path / 'run' / name).read_bytes() == (short / name).read_bytes()


def test_a_second_training_in_one_folder_is_refused_and_the_first_goes_on(
        model, task, prompt, settings, tmp_path):
    told = []

    def on_evaluation(step, metrics):
        with pytest.raises(ValueError, match=f'another process {os.getpid()} on .* is training in '
                                             '.*/run; wait for it to end, or name another'):
            train(model, task, tmp_path / 'run', prompt, settings=settings(steps=1), quiet=True)
        told.append(step)
        return True

    train(model, task, tmp_path / 'run', prompt, settings=settings(steps=1), quiet=True,
          on_evaluation=on_evaluation)
    assert told == [0, 1] and not (tmp_path / 'run' / 'lock').exists()


@pytest.mark.parametrize('left', ['foreign', 'nothing'])
def test_a_prompt_file_that_was_changed_or_lost_is_the_runs_best_again(
        model, task, prompt, settings, finished, short, tmp_path, left):
    """A run goes on with its checkpoints alone."""
    shutil.copytree(finished.folder.path, tmp_path / 'run')
    (tmp_path / 'run' / 'prompt.safetensors').unlink()
    if left == 'foreign':
        shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '16')
        shutil.copy(short / 'prompt.safetensors', tmp_path / 'run')
    mended = train(model, task, tmp_path / 'run', prompt, settings=settings(), quiet=True)
    assert mended.folder.prompt.read_bytes() == finished.folder.prompt.read_bytes()
    assert mended.folder.metrics.read_bytes() == finished.folder.metrics.read_bytes()
    assert mended.results == finished.results


@pytest.mark.parametrize('steps', [16, 12], ids=['finished', 'half done'])
def test_metrics_that_were_changed_or_lost_are_refused(model, task, prompt, settings, finished,
                                                       tmp_path, steps):
    shutil.copytree(finished.folder.path, tmp_path / 'run')
    if steps == 12:
        shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '16')
    path = tmp_path / 'run' / 'metrics.jsonl'
    whole = path.read_bytes()
    for changed in (whole.replace(b'"value": 0', b'"value": 1', 1), whole[:200], b'', None):
        path.unlink() if changed is None else path.write_bytes(changed)
        with pytest.raises(ValueError, match=f'metrics.jsonl is not what this run wrote up to step '
                                             f'{steps}, from which it would go on; put it back'):
            train(model, task, tmp_path / 'run', prompt, settings=settings(), quiet=True)
    path.write_bytes(whole.replace(b'16, "split": "test"', b'99, "split": "test"'))
    train(model, task, tmp_path / 'run', prompt, settings=settings(), quiet=True)
    assert path.read_bytes() == whole  # what was measured at the end is known from the checkpoint


def test_a_folder_claimed_by_a_killed_start_is_taken(short):
    assert json.loads((short / 'run.json').read_text()) and (short / 'card.md').is_file()
    assert not list(short.glob('.*'))


def test_a_registered_seqio_task_can_be_trained_on(model, prompt, settings, tmp_path):
    import seqio

    registered = TextTask('tiny_seqio', {split: lambda: [
        {'text': f'the {word} was {kind}', 'label': label} for word in tiny_world.SUBJECTS
        for kind, label in (('great', '1'), ('dull', '0'))] for split in ('train', 'validation')},
        'review : {text}', 'label', {'0': 'negative', '1': 'positive'})
    seqio.TaskRegistry.add_provider('tiny_seqio', registered.seqio_task(model.vocabulary))
    try:
        task = RegisteredTask('tiny_seqio', labels=('negative', 'positive'))
        outcome = train(model, task, tmp_path, prompt, settings=settings(steps=2), quiet=True)
    finally:
        seqio.TaskRegistry.remove('tiny_seqio')
    assert outcome.split == 'validation' and set(outcome.results[AFTER]) == {
        'accuracy', 'loss'}


def test_a_finished_run_can_be_made_longer(model, task, prompt, settings, finished, tmp_path):
    train(model, task, tmp_path / 'grown', prompt, settings=settings(steps=8), quiet=True)
    grown = train(model, task, tmp_path / 'grown', prompt, settings=settings(steps=16), quiet=True)
    assert grown.folder.prompt.read_bytes() == finished.folder.prompt.read_bytes()


def test_a_truncated_newest_checkpoint_is_reported_and_the_one_before_used(
        model, task, prompt, settings, finished, tmp_path, caplog):
    shutil.copytree(finished.folder.prompt.parent, tmp_path / 'hurt')
    newest = tmp_path / 'hurt' / 'checkpoints' / '16'
    files = [path for path in newest.rglob('*') if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        mended = train(model, task, tmp_path / 'hurt', prompt, settings=settings(), quiet=True)
    assert any(f'{newest} is damaged' in record.message for record in caplog.records)
    assert mended.folder.prompt.read_bytes() == finished.folder.prompt.read_bytes()
    assert mended.results == finished.results


def test_early_stopping_and_another_rate_of_optaxs_own_optimizer(
        model, task, prompt, settings, tmp_path):
    outcome = train(model, task, tmp_path, prompt, optimizer=optax.sgd(0.0),
                    settings=settings(steps=1000, patience=2), quiet=True)
    steps = {line['step'] for line in read_lines(tmp_path) if line['split'] == 'validation'}
    assert steps == {0, 4, 8} and outcome.best_step == 0
    assert outcome.remarks[0].startswith('The prompt that is kept is the one before training')
    with pytest.raises(ValueError, match='another configuration: optimizer is'):
        train(model, task, tmp_path, prompt, optax.sgd(0.1), settings(steps=1000, patience=2),
              quiet=True)


@pytest.mark.parametrize('given, a_pass, expected', [
    ({}, 213.5, (4270, 106, 8)), ({}, 1.0, (500, 12, 8)), ({}, 2105.0, (30_000, 750, 8)),
    ({'steps': 160}, 213.5, (160, 10, None)), ({'steps': 60_000}, 9.0, (60_000, 1000, None)),
    ({'patience': None}, 1.0, (500, 12, None)), ({'patience': 3, 'steps': 80}, 1.0, (80, 10, 3)),
    ({'evaluate_every': 7}, 30.0, (600, 7, 8))])
def test_how_long_to_train_follows_from_the_data_unless_it_is_said(given, a_pass, expected):
    found = TrainSettings(seed=np.int64(1), **given).for_updates(a_pass)
    assert (found.steps, found.evaluate_every, found.patience) == expected
    assert found.for_updates(1.0) == found


def test_a_run_of_no_given_length_ends_when_nothing_gets_better(model, task, prompt, settings,
                                                                tmp_path):
    asked = settings(steps='auto', evaluate_every='auto', batch_size=32)
    outcome = train(model, task, tmp_path, prompt, optimizer=optax.sgd(0.0), settings=asked,
                    quiet=True)
    told = json.loads((tmp_path / 'run.json').read_text())['settings']
    assert told['evaluate_every'] == 12  # of 500 steps
    steps = {line['step'] for line in read_lines(tmp_path) if line['split'] == 'validation'}
    assert outcome.best_step == 0 and steps == set(range(0, 8 * 12 + 1, 12))


def test_a_run_is_given_more_steps(model, task, prompt, settings, tmp_path):
    """It is evaluated as often as before, though a fortieth of the steps is more now."""
    for steps in (12, 800):
        outcome = train(model, task, tmp_path, prompt, quiet=True, settings=settings(
            steps=steps, evaluate_every='auto'), on_evaluation=lambda step, _: step < 20)
    steps = {line['step'] for line in read_lines(tmp_path) if line['split'] == 'validation'}
    assert steps == {0, 10, 12, 20} and outcome.best_step in steps


@pytest.mark.parametrize('given, expected', [
    ({'steps': 'long'}, "steps is 'long'; expected a whole number of at least 1, or 'auto'"),
    ({'patience': 0}, 'patience is 0; expected .* at least 1, or None for no limit, or .auto'),
    ({'evaluate_every': None}, 'evaluate_every is None; expected .* at least 1, or .auto'),
    ({'evaluation_limit': 'auto'}, "evaluation_limit is 'auto'; expected .* 1, or None for no")])
def test_settings_that_are_no_numbers_say_what_may_stand_there(given, expected):
    with pytest.raises(ValueError, match=expected):
        TrainSettings(**given)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_good(
        model, task, prompt, settings, tmp_path):
    explode_at_6 = optax.inject_hyperparams(optax.sgd)(
        learning_rate=lambda count: jnp.where(count >= 5, jnp.inf, 1e-3))
    with pytest.raises(ValueError, match='loss is nan .* at step 7; expected finite'):
        train(model, task, tmp_path, prompt, optimizer=explode_at_6, settings=settings(),
              quiet=True)
    assert np.isfinite(load_prompt(tmp_path / 'prompt.safetensors').prompt.rows).all()
    assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['0', '4']


def test_a_prompt_that_is_not_finite_at_an_evaluation_is_neither_saved_nor_judged(
        model, task, prompt, settings, tmp_path):
    explode_at_4 = optax.inject_hyperparams(optax.sgd)(
        learning_rate=lambda count: jnp.where(count >= 3, jnp.nan, 1e-3))
    with pytest.raises(ValueError, match='the prompt is not finite after step 4'):
        train(model, task, tmp_path, prompt, optimizer=explode_at_4, settings=settings(steps=4),
              quiet=True)
    assert [path.name for path in (tmp_path / 'checkpoints').iterdir()] == ['0']


@pytest.mark.slow
def test_free_text_keeps_the_prompt_of_the_lowest_loss(model, settings, prompt, tmp_path, caplog):
    rows = [{'text': f'the {word} was great', 'label': f'{word} and {word}'}
            for word in tiny_world.SUBJECTS]
    task = TextTask('free', {'train': lambda: rows, 'validation': lambda: rows},
                    'review : {text}', 'label')
    outcome = train(model, task, tmp_path / 'run', prompt, quiet=True,
                    settings=settings(steps=12, patience=1))
    losses = values(tmp_path / 'run', 'validation', 'loss')
    assert losses == sorted(losses, reverse=True) and len(losses) == 4
    assert outcome.best_step == 12 and outcome.split == 'validation'
    assert outcome.results[AFTER] == {'exact_match': 0.0, 'illegal': 0.0, 'loss': losses[-1]}
    assert outcome.results[MOST_COMMON] == {'exact_match': 1 / 8, 'illegal': 0.0}
    # Of equal exact matches too, the one with the lower loss is better.
    by_match = train(model, task, tmp_path / 'match', prompt, quiet=True,
                     settings=settings(steps=12, patience=1, choose_by='exact_match'))
    assert by_match.folder.prompt.read_bytes() == outcome.folder.prompt.read_bytes()
    told = 'The exact_match of the prompt that is kept, 0.0000 on validation, is no better than'
    for more in ('before training: 0.0000.',
                 "without looking at the input: 'film and film' to all gives exact_match 0.1250."):
        assert f'{told} {more}' in caplog.messages
        assert f'- {told} {more}\n' in (tmp_path / 'run' / 'card.md').read_text()
    assert any('free validation has 8 examples' in message for message in caplog.messages)


def test_both_ways_of_evaluating(model, task, prompt, settings, tmp_path):
    outcome = train(model, task, tmp_path, prompt, quiet=True,
                    settings=settings(steps=4, evaluate_by=('greedy', 'rank')))
    assert set(outcome.results[AFTER]) == {'accuracy', 'exact_match', 'illegal', 'loss'}


@pytest.mark.parametrize('change', [
    dict(prompt=PromptSettings(rows=6)), dict(prompt=PromptSettings(rows=5, initializer=uniform())),
    dict(prompt=PromptSettings(rows=5, method=residual(width=4))),
    dict(settings=dict(seed=9)), dict(settings=dict(choose_by='loss')),
    dict(settings=dict(z_loss=0.0)),
    dict(optimizer=adafactor(0.1)), dict(optimizer=adafactor(warmup_schedule(0.3, 1, 9, 'linear'))),
    dict(optimizer=adamw())],
    ids='rows initializer method seed choice loss rate schedule optimizer'.split())
def test_a_folder_of_another_configuration_is_refused_and_left_alone(
        model, task, prompt, settings, short, change):
    before = {path: path.read_bytes() for path in short.rglob('*') if path.is_file()}
    with pytest.raises(ValueError, match='holds a run of another configuration: .* there and'):
        train(model, task, short, change.get('prompt', prompt),
              change.get('optimizer', adafactor(warmup_schedule(0.3, 0, 9, 'linear'))),
              settings(**{'steps': 1, **change.get('settings', {})}), quiet=True)
    assert before == {path: path.read_bytes() for path in short.rglob('*') if path.is_file()}


@pytest.mark.parametrize('shared', [True, pytest.param(False, marks=pytest.mark.slow)],
                         ids=['shared', 'one a row'])
def test_a_residual_prompt_resumes_with_its_network_and_is_saved_folded(
        model, task, settings, tmp_path, monkeypatch, shared):
    prompt = PromptSettings(rows=5, method=residual(width=6, shared=shared))
    chosen = settings(steps=8)
    whole = train(model, task, tmp_path / 'whole', prompt, settings=chosen, quiet=True)
    with monkeypatch.context() as patch:
        stop_before(patch, 6)
        with pytest.raises(Stop):
            train(model, task, tmp_path / 'parts', prompt, settings=chosen, quiet=True)
    parts = train(model, task, tmp_path / 'parts', prompt, settings=chosen, quiet=True)
    assert parts.folder.prompt.read_bytes() == whole.folder.prompt.read_bytes()
    file = load_prompt(whole.folder.prompt)
    assert file.metadata.method == 'residual' and file.prompt.rows.shape == (5, 16)
    assert whole.trained_numbers == 5 * 16 + (1 if shared else 5) * (6 * 16 + 6 + 16 * 6 + 3 * 16)
    assert 'residual(width=6' in (tmp_path / 'whole' / 'card.md').read_text()


def test_a_method_that_tunes_weights_is_refused_before_anything_is_written(
        model, task, settings, tmp_path):
    def apply(params, constants):
        return Tuned(Prompt(params['prompt']), {'encoder': {'final_norm': {'scale': params['s']}}})

    method = Method('norms', lambda rng, context: (
        {'prompt': context.start(rng), 's': jnp.ones(16)}, {}), apply)
    with pytest.raises(ValueError, match='method norms tunes weights .* no prompt file can hold'):
        train(model, task, tmp_path / 'run', PromptSettings(rows=5, method=method),
              settings=settings(steps=1), quiet=True)
    assert not (tmp_path / 'run').exists()


def test_what_a_method_needs_besides_is_an_argument_and_part_of_the_identity(
        model, task, settings, tmp_path):
    def method(scale):
        return Method('scaled', lambda rng, context: (
            {'prompt': context.start(rng)}, {'scale': np.full((5, 1), scale, np.float32)}),
            lambda params, constants: Tuned(Prompt(params['prompt'] * constants['scale'])))

    def run(scale):
        return train(model, task, tmp_path / 'run', PromptSettings(rows=5, method=method(scale)),
                     settings=settings(steps=2), quiet=True)

    halved = load_prompt(run(0.5).folder.prompt).prompt.rows
    assert halved.shape == (5, 16)
    with pytest.raises(ValueError, match='another configuration: prompt.start'):
        run(0.25)


def test_an_evaluation_can_end_the_run(model, task, prompt, settings, tmp_path):
    told = []

    def on_evaluation(step, metrics):
        told.append((step, metrics['accuracy']))
        return step < 8

    pruned = train(model, task, tmp_path, prompt, settings=settings(), quiet=True,
                   on_evaluation=on_evaluation)
    assert [step for step, _ in told] == [0, 4, 8] and AFTER in pruned.results
    assert values(tmp_path, 'validation', 'accuracy') == [accuracy for _, accuracy in told]
    again = train(model, task, tmp_path, prompt, settings=settings(), quiet=True)
    assert again == pruned  # its end is remembered


def test_the_same_task_with_other_data_is_another_configuration(
        model, world, prompt, settings, tmp_path):
    def run(rows):
        (tmp_path / 'reviews.csv').write_text('\n'.join(rows))
        task = file_task(str(tmp_path / 'reviews.csv'), inputs_template='review : {text}',
                         labels={'0': 'negative', '1': 'positive'})
        return train(model, task, tmp_path / 'run', prompt, settings=settings(steps=2), quiet=True)

    rows = (world / 'reviews.csv').read_text().splitlines()
    run(rows)
    with pytest.raises(ValueError, match='another configuration: examples.'):
        run([rows[0], *(row.replace('great', 'lovely') for row in rows[1:])])


def test_a_run_of_an_earlier_version_is_told_for_what_it_is(
        model, task, prompt, settings, tmp_path):
    for record in '{"optimizer": ["1.2", "3.4"]}', '{"format": 2}':
        (tmp_path / 'run.json').write_text(record)
        with pytest.raises(ValueError, match='another version of jax_prompt began .*finish it wi'):
            train(model, task, tmp_path, prompt, settings=settings(), quiet=True)


def test_a_folder_with_other_files_is_refused(model, task, prompt, settings, tmp_path):
    (tmp_path / 'thesis.txt').write_text('years of work')
    with pytest.raises(ValueError, match='holds files but no run.json'):
        train(model, task, tmp_path, prompt, settings=settings(), quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']


def test_another_model_of_the_same_shape_is_another_configuration(
        task, prompt, settings, short, tmp_path):
    other = open_model(str(tiny_world.write_model(tmp_path / 'other', seed=5)))
    with pytest.raises(ValueError, match='model.fingerprint'):
        train(other, task, short, prompt, adafactor(warmup_schedule(0.3, 0, 9, 'linear')),
              settings(steps=1), quiet=True)


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_equals_uninterrupted(world, tmp_path):
    settings = {'steps': 150, 'batch_size': 8, 'evaluate_every': 3, 'log_every': 2,
                'max_buckets': 1, 'dropout_rate': 0.1}
    whole, killed = (command(world, tmp_path / name, **settings) for name in ('whole', 'killed'))
    environment = os.environ | {'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    subprocess.run(whole, check=True, env=environment, capture_output=True)
    process = subprocess.Popen(killed, env=environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / 'killed').exists():  # a kill before anything is whole
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    # Moments that fall before, between and in the middle of checkpoints, drawn once.
    moments = np.random.default_rng(3).uniform(0.05, 1.2, 5)
    kills = 0
    for seconds in moments:
        process = subprocess.Popen(killed, env=environment,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started = newest_checkpoint(tmp_path / 'killed')
        deadline = time.monotonic() + 120
        while newest_checkpoint(tmp_path / 'killed') == started and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= 4
    subprocess.run(killed, check=True, env=environment, capture_output=True)
    for name in ('prompt.safetensors', 'metrics.jsonl'):
        assert (tmp_path / 'killed' / name).read_bytes() == (tmp_path / 'whole' / name).read_bytes()


@pytest.mark.slow
def test_a_run_keeps_the_dtype_that_was_chosen_for_it(world, task, prompt, settings, tmp_path,
                                                     monkeypatch):
    """Wherever it goes on, and whatever would be faster there."""
    def opened(faster):
        monkeypatch.setattr('jax_prompt.models.open.bfloat16_is_faster', lambda: faster)
        return open_model(str(world / 'model'), dtype='auto')

    def begun(folder):
        return json.loads((folder / 'run.json').read_text())['model']

    for faster, factors, weights in ((True, 'bfloat16', ['bfloat16']), (False, None, ['float32'])):
        folder = tmp_path / str(faster)
        for steps, measured in ((1, faster), (2, not faster)):
            train(opened(measured), task, folder, prompt, settings=settings(steps=steps),
                  quiet=True)
            assert (begun(folder).get('factors'), begun(folder)['weights']) == (factors, weights)
            assert load_prompt(folder / 'prompt.safetensors').metadata.dtype == weights[0]
    assert 'factors=bfloat16' in (tmp_path / 'True' / 'card.md').read_text()


@pytest.mark.parametrize('compiling, seconds, expected', [(1e9, 1e-9, 1), (0.0, 1.0, 2)])
def test_more_lengths_are_padded_to_where_compiling_them_pays(
        model, task, prompt, settings, tmp_path, monkeypatch, compiling, seconds, expected):
    monkeypatch.setattr('jax_prompt.training.tuning._seconds_of_a_position',
                        lambda run: [compiling, seconds])
    for steps in (1, 2):  # the second goes on with what the first chose
        train(model, task, tmp_path / 'run', prompt, quiet=True,
              settings=settings(steps=steps, max_buckets='auto', bucket_multiple=4))
        chosen = json.loads((tmp_path / 'run' / 'run.json').read_text())['settings']['max_buckets']
        assert min(chosen, 2) == expected
        compiling, seconds = seconds, compiling


def test_a_run_keeps_the_batching_that_was_measured_for_it(model, task, prompt, settings, tmp_path,
                                                           monkeypatch, caplog):
    """It is the run of that setting, to the last bit, and goes on as it wherever it does."""
    caplog.set_level(logging.INFO, 'jax_prompt')
    auto, prompts = settings(steps=2, packing='auto'), []
    for folder, chosen in (('measured', auto), ('same', None)):
        packing = chosen is None and json.loads(
            (tmp_path / 'measured' / 'run.json').read_text())['settings']['packing']
        outcome = train(model, task, tmp_path / folder, prompt, quiet=True,
                        settings=chosen or settings(steps=2, packing=packing))
        prompts.append(outcome.folder.prompt.read_bytes())
    assert prompts[0] == prompts[1] and isinstance(packing, bool)
    assert f'settings.packing=auto: {packing}, which is faster here (padded rows ' in caplog.text
    for faster in (True, False):
        monkeypatch.setattr('jax_prompt.training.tuning._tokens_a_second',
                            lambda ways, faster=faster: [1.0, 2.0 if faster else 0.5])
        train(model, task, tmp_path / 'kept', prompt, quiet=True,
              settings=settings(steps=1 if faster else 2, packing='auto'))
        told = json.loads((tmp_path / 'kept' / 'run.json').read_text())['settings']
        assert told['packing'] is True
    with pytest.raises(ValueError, match="max_buckets is 'few'; expected a whole number of at"):
        settings(max_buckets='few')
    with pytest.raises(ValueError, match="packing is 'never'; expected True, False or 'auto'"):
        settings(packing='never')


def test_a_metric_that_is_no_number_ends_no_run_and_leaves_the_choice_to_the_loss(
        model, task, prompt, settings, tmp_path):
    """A correlation with answers that are all the same, say."""
    task = dataclasses.replace(task, metrics=(lambda *_: {'correlation': float('nan')},))
    outcome = train(model, task, tmp_path / 'run', prompt, settings=settings(steps=2), quiet=True)
    metrics = load_prompt(outcome.folder.prompt).metadata.metrics
    losses = {line['step']: line['value'] for line in read_lines(tmp_path / 'run')
              if line['split'] == 'validation' and line['name'] == 'loss'}
    assert metrics == {'loss': min(losses.values())} and len(losses) > 1
    assert outcome.best_step == min(losses, key=losses.get)
