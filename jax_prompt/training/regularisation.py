"""What keeps a prompt from learning its examples by heart: noise on it, and averages of it.

Weight decay is the optimizers', dropout within the frozen model the model's; a pull towards given
words is a method's penalty (`prompts.methods.wayward`).
"""

import jax
import jax.numpy as jnp

from jax_prompt.prompts.prompt import Tuned
from jax_prompt.training.settings import TrainSettings
from jax_prompt.types import Array, Params

#: Sets the prompt's own randomness apart from that of dropout in the model.
_OF_THE_PROMPT = 1


def disturbed(tuned: Tuned, settings: TrainSettings, rng: Array) -> Tuned:
    """Drop numbers of a prompt and add noise to it, as one update sees it.

    Args:
      tuned: what a method gave.
      settings: `prompt_dropout`, whose survivors make up for what is dropped, and `noise`. Without
        either, nothing changes, to the last bit.
      rng: of the update.

    Returns:
      The prompt to differentiate at. All examples of a batch see the same one.

    Source: of the noise, Chen et al. 2023 (arXiv:2305.02423), whose PTP-RN perturbs embeddings; the
    prompt's here, relative to their size, since models differ in it.
    """
    if not settings.prompt_dropout and not settings.noise:
        return tuned

    def disturb(number: int, leaf: Array) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(rng, _OF_THE_PROMPT), number)
        if settings.noise:
            size = settings.noise * jax.lax.stop_gradient(_root_mean_square(leaf))
            leaf = leaf + size * jax.random.normal(jax.random.fold_in(key, 0), leaf.shape)
        if settings.prompt_dropout:
            kept = 1.0 - settings.prompt_dropout
            keep = jax.random.bernoulli(jax.random.fold_in(key, 1), kept, leaf.shape)
            leaf = jnp.where(keep, leaf / kept, 0.0)
        return leaf

    leaves, structure = jax.tree.flatten(tuned.prompt)
    return tuned.replace(prompt=structure.unflatten(
        disturb(number, leaf) for number, leaf in enumerate(leaves)))


def worsened(tuned: Tuned, gradient: Tuned, size: float) -> Tuned:
    """Move a prompt to where the loss is about the worst in its neighbourhood.

    Args:
      tuned: what a method gave.
      gradient: of the loss there.
      size: of the neighbourhood, relative to the norm of each of the prompt's arrays.

    Returns:
      The prompt plus `size * |prompt| * gradient / |gradient|`; what is tuned besides stays.

    Source: Chen et al. 2023 (arXiv:2305.02423), PTP-ADV; of the prompt, with one step of ascent.
    """

    def move(leaf: Array, slope: Array) -> Array:
        length = jnp.sqrt(jnp.sum(slope**2))
        step = size * jnp.sqrt(jnp.sum(leaf**2)) / jnp.where(length > 0, length, 1.0)
        return leaf + step * slope

    return tuned.replace(prompt=jax.tree.map(move, tuned.prompt, gradient.prompt))


def averaged(average: Params | None, params: Params, step: Array,
             settings: TrainSettings) -> Params | None:
    """Take the parameters of a step into their average.

    The first parameters that count replace what was there and the next are averaged with equal
    weights, until these fall to `1 - settings.average`: a moving average without a bias towards its
    start, and a plain one (SWA) where `average` is 1.

    Args:
      average: of the steps before; None for a run without one.
      params: after the update.
      step: int32[], updates made.
      settings: `average` and `average_from`.

    Returns:
      The average; None for a run without one.

    Source: Izmailov et al. 2018 (arXiv:1803.05407) of the plain average.
    """
    if average is None:
        return None
    count = jnp.maximum(step - settings.average_from, 1).astype(jnp.float32)
    weight = jnp.maximum(1.0 - settings.average, 1.0 / count)
    return jax.tree.map(lambda old, new: old + weight * (new - old), average, params)


def _root_mean_square(leaf: Array) -> Array:
    """Return the size of an array's numbers."""
    return jnp.sqrt(jnp.sum(leaf**2) / max(leaf.size, 1))
