"""Optimizers: the original recipe first, and the usual alternatives.

Each constructor returns an optax transformation. Its state exists for what is tuned alone, and the
learning rate is part of it: a program that was compiled for one rate runs with any other. The
weight decay is no part of it, so that checkpoints need not hold it; it is among the numbers that a
program may take as an argument.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from jax_prompt.config import configured
from jax_prompt.types import Array

#: Lester et al. trained from checkpoints at step 1,100,000 without telling Adafactor, so that its
#: second moment was an almost equal-weight mean from the first step on.
ORIGINAL_STEP_OFFSET = 1_100_000

DECAYS = ('constant', 'linear', 'cosine')


class Optimizer(optax.GradientTransformation):
    """An optax transformation that tells how it was made.

    Attributes:
      config: set by `config.configured`.
      numbers: those of it that another optimizer of the same kind may have otherwise, ready to be
        an argument of a compiled program: name -> float, or group -> its numbers.
      make: such numbers -> the transformation that has them.
    """

    config: Mapping[str, Any]
    numbers: Mapping[str, Any]
    make: Callable[[Any], optax.GradientTransformation]

    @classmethod
    def of(cls, make: Callable[[Any], optax.GradientTransformation],
           numbers: Mapping[str, Any]) -> 'Optimizer':
        """Make an optimizer that can be made again with other numbers."""
        optimizer = cls(*make(numbers))
        optimizer.make, optimizer.numbers = make, numbers
        return optimizer


def numbers_of(optimizer: optax.GradientTransformation) -> Mapping[str, Any]:
    """Return the numbers that a program can take as an argument; none of a transformation of one's
    own."""
    return getattr(optimizer, 'numbers', {})


def with_numbers(optimizer: optax.GradientTransformation,
                 numbers: Any) -> optax.GradientTransformation:
    """Return the optimizer with other numbers, such as those that are traced.

    Args:
      optimizer: an optax transformation.
      numbers: of the structure that `numbers_of` gives.
    """
    return optimizer.make(numbers) if numbers_of(optimizer) else optimizer


@flax.struct.dataclass
class Schedule:
    """A learning rate over the steps, as numbers that an optimizer's state can hold.

    Attributes:
      peak: float32[], the highest learning rate.
      warmup_steps: int32[], steps of the linear rise to it.
      total_steps: int32[], the step at which a decaying rate reaches zero.
      decay: int32[], which of `DECAYS` follows.
    """

    peak: Array | float
    warmup_steps: Array | int = 0
    total_steps: Array | int = 1
    decay: Array | int = 0

    def __call__(self, step: Array | int) -> Array:
        """Return the rate of a step, counted from 0: int32[] -> float32[]."""
        step = jnp.asarray(step, jnp.int32)
        rise = jnp.clip(step, 0, self.warmup_steps) / jnp.maximum(self.warmup_steps, 1)
        length = jnp.maximum(self.total_steps - self.warmup_steps, 1)
        done = jnp.clip(step - self.warmup_steps, 0, length) / length
        factors = jnp.stack([jnp.ones(()), 1 - done, 0.5 * (1 + jnp.cos(jnp.pi * done))])
        return self.peak * jnp.where(step < self.warmup_steps, rise, factors[self.decay])


class _RateState(NamedTuple):
    """What `_scale_by_rate` keeps: updates made, and the schedule in arrays."""

    count: Array
    schedule: Schedule


@configured
def adafactor(learning_rate: float | optax.Schedule = 0.3, decay_rate: float = 0.8,
              weight_decay: float = 1e-5, clipping_threshold: float = 1.0,
              original_step_offset: bool = False, parameter_scaling: bool = False,
              factored_from: int = 128) -> optax.GradientTransformation:
    """Build Adafactor as the first prompt-tuning system set it.

    No momentum, no scaling by the parameter's norm; the weight decay is taken off the parameter
    directly, not times the learning rate. Prompts of 128 rows and more (and as wide) get factored
    second moments, as there.

    T5's own weights are trained with scaling, at a rate of 0.001 (Raffel et al. 2020, section 3.1).

    Args:
      learning_rate: constant or a schedule.
      decay_rate: exponent of the second moment's decay, 1 - t**-decay_rate.
      weight_decay: fraction of the parameter taken off a step.
      clipping_threshold: upper bound of an update's root mean square before the learning rate.
      original_step_offset: reproduce the first system's runs, whose step count began at 1,100,000.
      parameter_scaling: multiply the rate by the parameter's root mean square, at least 0.001.
      factored_from: second moments are factored of matrices with both sides at least so long.

    Returns:
      The optax transformation.

    Source: Lester et al. 2021, section 3.2, and the configuration files of their release. The order
    of its parts is that of `optax.adafactor`.
    """
    offset = -ORIGINAL_STEP_OFFSET if original_step_offset else 0
    return Optimizer.of(lambda numbers: optax.chain(
        optax.scale_by_factored_rms(decay_rate=decay_rate, step_offset=offset,
                                    min_dim_size_to_factor=factored_from),
        optax.clip_by_block_rms(clipping_threshold),
        _scale_by_rate(learning_rate),
        *([optax.scale_by_param_block_rms()] if parameter_scaling else []),
        optax.add_decayed_weights(numbers['weight_decay']),
        optax.scale(-1)), {'weight_decay': weight_decay})


@configured
def adamw(learning_rate: float | optax.Schedule = 0.3, weight_decay: float = 1e-5,
          clip_norm: float | None = 1.0, b1: float = 0.9,
          b2: float = 0.999) -> optax.GradientTransformation:
    """Build AdamW, with the gradient clipped to a global norm first.

    Args:
      learning_rate: constant or a schedule.
      weight_decay: as in optax, times the learning rate.
      clip_norm: largest global norm of the gradient; None for no clipping.
      b1, b2: decay of the first and the second moment.

    Returns:
      The optax transformation.
    """
    clip = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    return Optimizer.of(lambda numbers: optax.chain(
        *clip, optax.scale_by_adam(b1=b1, b2=b2),
        optax.add_decayed_weights(numbers['weight_decay']),
        _scale_by_rate(learning_rate), optax.scale(-1)), {'weight_decay': weight_decay})


@configured
def per_parameter(default: optax.GradientTransformation,
                  groups: Mapping[str, optax.GradientTransformation],
                  ) -> optax.GradientTransformation:
    """Train some of a method's parameters with optimizers, or learning rates, of their own.

    Args:
      default: for all that no group names.
      groups: name of a parameter, as the method's `init` calls it -> its optimizer.

    Returns:
      The optax transformation.

    Raises:
      ValueError: no group; on use, a name that the method has not.

    Example::

        per_parameter(adamw(0.3), {'left': adamw(5e-4), 'right': adamw(5e-4)})  # of `dept`
    """
    if not groups:
        raise ValueError('per_parameter has no groups; name parameters, or use the optimizer alone')
    default_label = ''  # no parameter's name

    def labels(params: Any) -> Any:
        unknown = sorted(groups.keys() - params.keys())
        if unknown:
            raise ValueError(f'per_parameter names {", ".join(unknown)}, which the method does not '
                             f'train; it trains {", ".join(sorted(params))}')
        return {name: name if name in groups else default_label for name in params}

    each = {default_label: default, **groups}
    return Optimizer.of(
        lambda numbers: optax.partition(
            {name: with_numbers(one, numbers[name]) for name, one in each.items()}, labels),
        {name: numbers_of(one) for name, one in each.items()})


@configured
def warmup_schedule(peak: float, warmup_steps: int, total_steps: int,
                    decay: str = 'constant') -> optax.Schedule:
    """Build a learning rate that rises linearly, then stays or decays to zero.

    Args:
      peak: highest learning rate.
      warmup_steps: steps of the rise.
      total_steps: step at which a decaying schedule reaches zero.
      decay: 'constant', 'linear' or 'cosine'.

    Returns:
      A schedule for the optimizers of this module.

    Raises:
      ValueError: for another `decay`, or more warm-up than steps.
    """
    if warmup_steps >= total_steps:
        raise ValueError(f'warmup_steps={warmup_steps} leaves nothing of total_steps='
                         f'{total_steps}; expected fewer steps of warm-up than of training')
    if decay not in DECAYS:
        raise ValueError(f'decay={decay!r} is no schedule; choose one of {", ".join(DECAYS)}')
    return Schedule(peak, warmup_steps, total_steps, DECAYS.index(decay))


def _scale_by_rate(learning_rate: float | optax.Schedule) -> optax.GradientTransformation:
    """Scale updates by a rate that stands in the state; a schedule of one's own stays code."""
    if callable(learning_rate) and not isinstance(learning_rate, Schedule):
        return optax.scale_by_schedule(learning_rate)
    schedule = learning_rate if isinstance(learning_rate, Schedule) else Schedule(learning_rate)

    def init(params: Any) -> _RateState:
        del params
        arrays = Schedule(jnp.asarray(schedule.peak, jnp.float32),
                          *(jnp.asarray(number, jnp.int32) for number in (
                              schedule.warmup_steps, schedule.total_steps, schedule.decay)))
        return _RateState(jnp.zeros((), jnp.int32), arrays)

    def update(updates: Any, state: _RateState, params: Any = None) -> tuple[Any, _RateState]:
        del params
        rate = state.schedule(state.count)
        scaled = jax.tree.map(lambda leaf: rate.astype(leaf.dtype) * leaf, updates)
        return scaled, _RateState(optax.safe_increment(state.count), state.schedule)

    return optax.GradientTransformation(init, update)
