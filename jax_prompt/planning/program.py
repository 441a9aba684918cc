"""The project's own programs, lowered for devices that need not exist; nothing is allocated."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jax_prompt.inference.generate import make_generator
from jax_prompt.models.t5.int8 import quantised_shapes
from jax_prompt.models.t5.model import T5
from jax_prompt.parallel.mesh import DATA, divisors, one_of
from jax_prompt.parallel.rules import (
    batch_sharding,
    frozen_shardings,
    replicated,
    state_shardings,
)
from jax_prompt.planning.request import PlanRequest
from jax_prompt.prompts.methods.direct import direct
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.training.optimizers import adafactor
from jax_prompt.training.step import init_state, make_train_step
from jax_prompt.types import Params


@dataclasses.dataclass(frozen=True)
class Program:
    """A program with its arguments' shapes, ready to be compiled.

    Attributes:
      function: the jitted function.
      arguments: pytrees of `jax.ShapeDtypeStruct`, each with where it lives; the frozen weights
        are one of them.
      frozen: the frozen weights among them.
      rounds: at most how often its one loop of unknown length runs; None where all are known.
    """

    function: Any
    arguments: tuple[Any, ...]
    frozen: Params
    rounds: int | None = None

    @property
    def weight_bytes(self) -> int:
        """Count the bytes of the frozen weights on one device, padding aside."""
        return local_bytes(self.frozen)

    @property
    def other_bytes(self) -> int:
        """Count the bytes of all other arguments on one device."""
        return local_bytes(self.arguments) - self.weight_bytes

    @functools.cached_property
    def traced(self) -> Any:
        """Return it as JAX traces it, with its `jaxpr`."""
        return self.function.trace(*self.arguments)

    def compile(self) -> Any:
        """Compile it; raises what the compiler raises."""
        return self.traced.lower().compile()


def training_program(request: PlanRequest, config: Any, mesh: Mesh) -> Program:
    """Lower the training step: direct prompt, Adafactor, as `jax-prompt train` runs them.

    Args:
      request: what is planned; its `remat` must be chosen.
      config: the model's shape.
      mesh: of the devices to compile for.

    Returns:
      The program.

    Raises:
      ValueError: sizes that the mesh does not divide.
    """
    _check_rows(request, mesh)
    frozen, optimizer = frozen_shapes(config, mesh, request.weights,
                           request.shard_weights_over_data), adafactor()
    # How the prompt begins does not matter here: its shape does.
    method = direct()
    prompt = jnp.zeros((request.prompt_length, config.d_model))
    state = jax.eval_shape(lambda: init_state({'prompt': prompt}, optimizer))
    state = _living(state, state_shardings(mesh, state))
    step = make_train_step(make_model(request, config, mesh), method, optimizer,
                           microbatches=request.microbatches, mesh=mesh)
    targets = (request.batch_size, request.targets_length)
    batch = {
        'encoder_input_tokens': _integers((request.batch_size, request.positions), mesh),
        'decoder_input_tokens': _integers(targets, mesh),
        'decoder_target_tokens': _integers(targets, mesh),
        'decoder_loss_weights': jax.ShapeDtypeStruct(targets, jnp.float32,
                                                     sharding=batch_sharding(mesh)),
    }
    return Program(step, (state, frozen, batch), frozen)


def generation_program(request: PlanRequest, config: Any, mesh: Mesh) -> Program:
    """Lower greedy generation with its key and value cache.

    Args:
      request: what is planned.
      config: the model's shape.
      mesh: of the devices to compile for.

    Returns:
      The program. Its loop ends when every row has ended; at most it runs `targets_length` times.

    Raises:
      ValueError: sizes that the mesh does not divide.
    """
    _check_rows(request, mesh)
    frozen = frozen_shapes(config, mesh, request.weights,
                           request.shard_weights_over_data)
    prompt = Prompt(jax.ShapeDtypeStruct((request.prompt_length, config.d_model), jnp.float32,
                                         sharding=replicated(mesh)))
    ids = _integers((request.batch_size, request.positions), mesh)
    generate = make_generator(make_model(request, config, mesh), request.targets_length)
    return Program(generate, (frozen, prompt, ids), frozen, request.targets_length)


def make_model(request: PlanRequest, config: Any, mesh: Mesh) -> T5:
    """Build the model as it runs on accelerators: bfloat16, one compiled layer in a loop."""
    return T5(config, dtype=jnp.bfloat16, remat=request.remat or 'none',
              activation_sharding=batch_sharding(mesh))


def frozen_shapes(config: Any, mesh: Mesh, weights: str = 'bfloat16',
                  over_data: bool = False) -> Params:
    """Return the frozen weights' shapes, each with where it lives.

    Args:
      config: the model's shape.
      mesh: of devices, or an abstract one.
      weights: 'bfloat16' or 'int8'.
      over_data: whether they are spread over the data axis too.

    Raises:
      ValueError: a dimension does not divide by its mesh axis.
    """
    shapes = _weight_shapes(config, weights)
    return _living(shapes, frozen_shardings(mesh, shapes, T5.rules, over_data))


@functools.cache
def _weight_shapes(config: Any, weights: str) -> Params:
    shapes = T5(config).param_shapes(jnp.bfloat16)
    return quantised_shapes(shapes) if weights == 'int8' else shapes


def local_bytes(tree: Any) -> int:
    """Sum the bytes of a tree of shapes on one device, padding aside."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
               for leaf in jax.tree.leaves(tree))


def _living(tree: Any, shardings: Any) -> Any:
    """Return a tree's shapes with where they live."""
    return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding), tree, shardings)


def _integers(shape: tuple[int, ...], mesh: Mesh) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch_sharding(mesh))


def _check_rows(request: PlanRequest, mesh: Mesh) -> None:
    """Raise ValueError where the rows that run at once do not divide by the data axis."""
    if request.rows_at_once % mesh.shape[DATA]:
        fitting = divisors(math.gcd(request.rows_at_once, mesh.size))
        what = (f'batch_size={request.batch_size}' if request.microbatches == 1 else
                f'batch_size / microbatches = {request.rows_at_once}')
        raise ValueError(f'{what} does not divide by {DATA}={mesh.shape[DATA]}; choose a multiple '
                         f'of {mesh.shape[DATA]}, or with {mesh.size} devices '
                         f'{DATA}:{one_of(fitting)}')
