"""Runs share programs, and what they read, and nothing that would make one run another's."""

import dataclasses

import pytest

from jax_prompt.data.tasks.mixture import Mixture
from jax_prompt.prompts.initializers import uniform
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.methods.direct import direct
from jax_prompt.prompts.methods.residual import residual
from jax_prompt.training import programs
from jax_prompt.training.optimizers import adafactor, adamw, per_parameter, warmup_schedule
from jax_prompt.training.problem import make_problem, shared_problems
from jax_prompt.training.programs import method_key
from jax_prompt.training.run import train, train_together
from jax_prompt.training.settings import PromptSettings


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    monkeypatch.setattr('jax_prompt.training.run.draw_curves', lambda *_: None)


@pytest.fixture
def trained(model, task, settings, tmp_path):
    """Train, and return the bytes of the prompt and the log."""
    def run(name, prompt, optimizer, **fields):
        folder = tmp_path / name
        train(model, task, folder, prompt, optimizer, settings(steps=3, evaluate_every=3, **fields),
              quiet=True)
        return (folder / 'prompt.safetensors').read_bytes(), (
            folder / 'metrics.jsonl').read_bytes()
    return run


def test_another_rate_seed_weight_decay_or_start_compiles_nothing(
        trained, prompt, compilations, monkeypatch):
    first = trained('first', prompt, adafactor(), dropout_rate=0.1)
    other = (dataclasses.replace(prompt, initializer=uniform()),
             adafactor(warmup_schedule(0.1, 1, 9, 'cosine'), weight_decay=0.03))
    trained('warm', other[0], adafactor(), dropout_rate=0.1)  # the start's own sampling
    del compilations[:]
    shared = trained('shared', *other, dropout_rate=0.1, seed=7)
    assert not compilations
    # The very numbers of runs that share no programs.
    monkeypatch.setattr(programs, '_of_models', {})
    assert trained('alone', *other, dropout_rate=0.1, seed=7) == shared != first


@pytest.mark.slow
def test_optimizers_of_parameters_and_ensembles_share_too(model, task, settings, tmp_path,
                                                         compilations):
    def run(name, rate, decay):
        optimizer = per_parameter(adamw(rate, decay), {'prompt': adafactor(rate, 0.8, decay)})
        del compilations[:]
        train_together(model, Mixture((task,)), tmp_path / name,
                       PromptSettings(rows=2, ensemble=2), optimizer,
                       settings(steps=1, evaluate_every=1), quiet=True)
        return (tmp_path / name / 'reviews-2.safetensors').read_bytes()

    first = run('first', 0.3, 0.0)
    other = run('other', 0.2, 0.1)
    assert not compilations
    assert first != other


def test_what_is_another_program_is_not_shared(model, settings, monkeypatch):
    made = []
    monkeypatch.setattr(programs, '_of_models', {})
    monkeypatch.setattr(programs, 'make_train_step', lambda *given: made.append(given) or print)

    def is_new(method=direct(), optimizer=adafactor(0.2), **fields):  # noqa: B008
        del made[:]
        programs.train_step_of(model, method, optimizer, settings(**fields), ())
        return bool(made)

    assert is_new(z_loss=0.125)
    assert not is_new(z_loss=0.125)
    assert not is_new(direct(), adafactor(warmup_schedule(1.0, 1, 4), 0.8, 0.5), z_loss=0.125,
                      seed=5, steps=99)
    for other in ({'noise': 0.25}, {'dropout_rate': 0.25}, {'microbatches': 4}, {'average': 0.5}):
        assert is_new(z_loss=0.125, **other), other
    for other in (residual(4), residual(8)):
        assert is_new(other, z_loss=0.125)
    for other in (adafactor(decay_rate=0.7), adamw(), adamw(clip_norm=None), adamw(lambda step: 1),
                  adamw(lambda step: 2)):
        assert is_new(direct(), other, z_loss=0.125)


def test_a_changed_method_is_not_taken_for_the_constructors():
    assert method_key(direct()) == method_key(direct())
    assert method_key(residual(4)) != method_key(residual(8))
    changed = dataclasses.replace(direct(), penalty=lambda params, constants: 0.0)
    assert method_key(changed) != method_key(direct())
    own = [Method('own', None, lambda params, constants: params) for _ in range(2)]
    assert method_key(own[0]) == method_key(own[0]) != method_key(own[1])


def test_few_functions_are_kept_and_those_used_last(model, monkeypatch):
    monkeypatch.setattr(programs, '_of_models', {})
    monkeypatch.setattr(programs, 'MOST_FUNCTIONS', 2)
    assert [programs.shared(model, key, lambda key=key: key.upper()) for key in 'aba'] == [*'ABA']
    programs.shared(model, 'c', str)
    assert list(programs._of_models[model]) == ['a', 'c']


def test_problems_are_shared_where_that_is_asked_for(model, task, prompt, settings):
    def make(**fields):
        return make_problem(model, task, prompt, settings(**fields))

    assert make().examples['train'] is not make().examples['train']
    with shared_problems():
        one, other = make(), make(seed=2)
        assert one.features is other.features and one.evaluate is other.evaluate
        assert (one.seed, other.seed) == (1, 2)
        more = make_problem(model, task, dataclasses.replace(prompt, rows=7), settings())
        assert more.examples['train'] is one.examples['train']
        assert more.features is not one.features
        fewer = make(evaluation_limit=10)
        assert len(fewer.examples['validation']) == 10
        assert fewer.examples['train'] is one.examples['train']
        assert len(make(train_limit=20).features) == 20
    assert make().features is not one.features
