"""Several tasks in one run: parameters with a leading axis of tasks, each task's updates its own.

The loss is a sum over rows and every row sees the prompt of its own task alone, so the gradient of
a task's parameters is that of its own rows. An optimizer that is mapped over the tasks keeps
clipping, moments and rates apart. Each task then takes the steps that a run of its own would take.

What a method shares among tasks (`Method.shared`) has no such axis: its gradient is the tasks' sum.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_prompt.prompts.method import Method
from jax_prompt.prompts.prompt import Tuned
from jax_prompt.training.optimizers import Optimizer, numbers_of, with_numbers
from jax_prompt.types import Array, Params


def for_tasks(method: Method, count: int) -> Method:
    """Let a method give the prompts of several tasks, one after the other.

    Args:
      method: of one task.
      count: T. For one it is the method itself.

    Returns:
      A method whose parameters and constants have a leading axis [T, ...], but for what it shares.
      It has no `init`: `stack` puts what the tasks start from together.

    Raises:
      ValueError: the method tunes weights of the model, of which there is one set.
    """
    if count == 1:
        return method
    if method.trains_weights:
        raise ValueError(f'method {method.name} tunes weights of the model, of which {count} '
                         'tasks in one run cannot each have their own; train each task in a '
                         'run of its own, or choose a method that gives prompts alone')

    def for_all(function: Callable) -> Callable:
        def mapped(params: Params, constants: Params) -> Any:
            axes = {name: None if name in method.shared else 0 for name in params}
            return jax.vmap(function, in_axes=(axes, 0))(params, constants)

        return mapped

    def apply(function: Callable, params: Params, constants: Params) -> Tuned:
        tuned = for_all(function)(params, constants)
        return Tuned(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tuned.prompt))

    return dataclasses.replace(
        method, tasks=count, apply=functools.partial(apply, method.apply),
        teacher=method.teacher and functools.partial(apply, method.teacher),
        penalty=method.penalty and for_all(method.penalty))


def for_each_prompt(method: Method, change: Callable[..., Tuned]) -> Callable[..., Tuned]:
    """Let a change of prompts see those of a joint run one by one.

    Args:
      method: of the run.
      change: of what is tuned; it may also take a gradient of the same kind.
    """
    if method.tasks is None:
        return change

    def apart(leaf: Array) -> Array:
        return leaf.reshape(method.tasks, -1, *leaf.shape[1:])

    def changed(*tuned: Tuned) -> Tuned:
        found = jax.vmap(change)(*jax.tree.map(apart, tuned))
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)

    return changed


def stack(trees: Sequence[Params], shared: Sequence[str] = ()) -> Params:
    """Give what tasks start from a leading axis of tasks; for one task it stays as it is.

    Args:
      trees: parameters or constants of each task.
      shared: names of what all have in common; it is taken from the first.
    """
    if len(trees) == 1:
        return trees[0]
    return {name: leaves if name in shared else
            jax.tree.map(lambda *own: jnp.stack(own), *(tree[name] for tree in trees))
            for name, leaves in trees[0].items()}


def for_each_task(optimizer: optax.GradientTransformation,
                  method: Method) -> optax.GradientTransformation:
    """Keep what an optimizer does to the tasks of a joint run apart.

    Args:
      optimizer: of one task.
      method: from `for_tasks`.

    Returns:
      The optimizer mapped over the tasks; what they share is updated once. For a method of one task
      it is the optimizer itself.
    """
    if method.tasks is None:
        return optimizer
    mapped = Optimizer.of(lambda numbers: _mapped(with_numbers(optimizer, numbers), method),
                          numbers_of(optimizer))
    if hasattr(optimizer, 'config'):
        mapped.config = optimizer.config
    return mapped


def _mapped(optimizer: optax.GradientTransformation,
            method: Method) -> optax.GradientTransformation:
    """Map an optimizer over the tasks of a joint run."""

    def init(params: Params) -> tuple:
        own, shared = _apart(params, method)
        return (jax.vmap(optimizer.init)(own),) + ((optimizer.init(shared),) if shared else ())

    def update(updates: Params, state: tuple, params: Params) -> tuple[Params, tuple]:
        (own, shared), (own_params, shared_params) = _apart(updates, method), _apart(params, method)
        own, own_state = jax.vmap(optimizer.update)(own, state[0], own_params)
        if not shared:
            return own, (own_state,)
        shared, shared_state = optimizer.update(shared, state[1], shared_params)
        return own | shared, (own_state, shared_state)

    return optax.GradientTransformation(init, update)


def gradient_norm(gradient: Params, method: Method) -> Array:
    """Return the global norm float32[] of a gradient, or float32[T] of each task's own.

    What the tasks share counts for each of them.
    """
    if method.tasks is None:
        return optax.global_norm(gradient)
    own, shared = _apart(gradient, method)
    norms_T = jax.vmap(optax.global_norm)(own)
    return jnp.hypot(norms_T, optax.global_norm(shared)) if shared else norms_T


def _apart(tree: Params, method: Method) -> tuple[Params, Params]:
    """Return what each task has of its own, and what all share."""
    return ({name: leaf for name, leaf in tree.items() if name not in method.shared},
            {name: leaf for name, leaf in tree.items() if name in method.shared})
