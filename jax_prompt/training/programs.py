"""Compiled programs that runs share: another rate, seed, weight decay or start compiles nothing.

What runs may differ in is an argument of the program (`step.numbers_of_run`) or stands in the state
that it is given (the rate, the start). The rest is what a program is kept by.
"""

import dataclasses
import weakref
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import optax

from jax_prompt.config import Config
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.method import Method
from jax_prompt.training.optimizers import Optimizer, Schedule
from jax_prompt.training.settings import TrainSettings
from jax_prompt.training.step import TrainStep, make_train_step, numbers_of_run
from jax_prompt.types import Params

#: Functions that are kept for a model, each with a program for each of its shapes; beyond them
#: those go that were not used for longest.
MOST_FUNCTIONS = 32
#: Settings that no step is compiled for: another setting is taken for one that changes the program.
_NOT_COMPILED = ('steps', 'batch_size', 'evaluate_every', 'evaluate_by', 'choose_by',
                 'evaluation_batch_size', 'evaluation_limit', 'train_limit', 'patience',
                 'log_every', 'keep', 'seed', 'max_buckets', 'bucket_multiple', 'packing',
                 'compare', 'measure')
#: Arguments of optimizers that are numbers in the state, or arguments of the program.
_NUMBERS = ('learning_rate', 'weight_decay')

#: Kept as long as the models are; functions know no weights and so keep none.
_of_models: weakref.WeakKeyDictionary[OpenedModel, dict[Hashable, Callable]] = (
    weakref.WeakKeyDictionary())


def shared(opened: OpenedModel, key: Hashable, make: Callable[[], Callable]) -> Callable:
    """Return a jitted function, the same one for all runs of a model that ask for it by one key.

    Args:
      opened: the model that runs in it.
      key: tells it from others.
      make: returns the function; it must hold no weights of the model.
    """
    kept = _of_models.setdefault(opened, {})
    kept[key] = function = kept.pop(key, None) or make()  # those used last stand at the end
    if len(kept) > MOST_FUNCTIONS:
        del kept[next(iter(kept))]
    return function


def train_step_of(opened: OpenedModel, method: Method, optimizer: optax.GradientTransformation,
                  settings: TrainSettings, living: Any) -> TrainStep:
    """Return the step of a run; runs that differ in numbers alone share its programs.

    Args:
      opened: the frozen model.
      method, optimizer, settings: as for `make_train_step`.
      living: the shardings of the state.

    Returns:
      step(state, frozen, batch, constants=None) -> (state, metrics).
    """
    fixed = tuple((field.name, getattr(settings, field.name))
                  for field in dataclasses.fields(settings) if field.name not in _NOT_COMPILED)
    places, structure = jax.tree.flatten(living)
    key = ('step', method_key(method), _key(optimizer), fixed, tuple(places), structure)
    step = shared(opened, key, lambda: make_train_step(
        opened.model.with_dropout(settings.dropout_rate), method, optimizer, settings, opened.mesh,
        living))
    numbers = numbers_of_run(optimizer, settings)

    def step_of_run(state: Any, frozen: Params, batch: Any, constants: Params | None = None) -> Any:
        return step(state, frozen, batch, constants, numbers)

    return step_of_run


def method_key(method: Method) -> Hashable:
    """Return what tells the programs of a method from those of any other."""
    functions = (method.apply, method.penalty, method.teacher)
    return (_key(method), method.tasks, method.shared, method.distillation,
            # One whose functions were replaced has the constructor's name and arguments still.
            tuple(getattr(one, '__code__', None) for one in functions))


def _key(value: Any) -> Hashable:
    """Tell what the project's constructors made by how they made it, all else by what it is."""
    made = getattr(value, 'config', None)
    if isinstance(made, Config) and made.constructor.__module__.startswith('jax_prompt.'):
        taken = [(name, argument) for name, argument in made.arguments.items()
                 if not (isinstance(value, Optimizer) and name in _NUMBERS
                         and isinstance(argument, int | float | Schedule))]
        return made.constructor, tuple((name, _key(argument)) for name, argument in taken)
    if isinstance(value, Mapping):
        return tuple((name, _key(one)) for name, one in value.items())
    if type(value) in (list, tuple):
        return tuple(map(_key, value))
    return (type(value), value) if isinstance(value, Hashable) else object()
