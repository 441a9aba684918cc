"""Optimizers for prompts: the original recipe first, and the usual alternatives.

Each constructor returns an optax transformation. Its state exists for the prompt alone.
"""

import optax

#: Lester et al. trained from checkpoints at step 1,100,000 without telling Adafactor, so that its
#: second moment was an almost equal-weight mean from the first step on.
ORIGINAL_STEP_OFFSET = 1_100_000


def adafactor(learning_rate: float | optax.Schedule = 0.3, decay_rate: float = 0.8,
              weight_decay: float = 1e-5, clipping_threshold: float = 1.0,
              original_step_offset: bool = False) -> optax.GradientTransformation:
    """Build Adafactor as the first prompt-tuning system set it.

    No momentum, no scaling by the parameter's norm; the weight decay is taken off the parameter
    directly, not times the learning rate. Prompts of 128 rows and more (and as wide) get factored
    second moments, as there.

    Args:
      learning_rate: constant or a schedule.
      decay_rate: exponent of the second moment's decay, 1 - t**-decay_rate.
      weight_decay: fraction of the parameter taken off a step.
      clipping_threshold: upper bound of an update's root mean square before the learning rate.
      original_step_offset: reproduce the first system's runs, whose step count began at 1,100,000.

    Returns:
      The optax transformation.

    Source: Lester et al. 2021, section 3.2, and the configuration files of their release.
    """
    offset = -ORIGINAL_STEP_OFFSET if original_step_offset else 0
    return optax.adafactor(
        learning_rate=learning_rate, decay_rate=decay_rate, decay_offset=offset,
        multiply_by_parameter_scale=False, clipping_threshold=clipping_threshold, momentum=None,
        weight_decay_rate=weight_decay)


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
    return optax.chain(*clip, optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay))


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
    rest = total_steps - warmup_steps
    after = {
        'constant': lambda: optax.constant_schedule(peak),
        'linear': lambda: optax.linear_schedule(peak, 0.0, rest),
        'cosine': lambda: optax.cosine_decay_schedule(peak, rest),
    }
    if decay not in after:
        raise ValueError(f'decay={decay!r} is no schedule; choose one of {", ".join(after)}')
    if warmup_steps == 0:
        return after[decay]()
    rise = optax.linear_schedule(0.0, peak, warmup_steps)
    return optax.join_schedules([rise, after[decay]()], [warmup_steps])
