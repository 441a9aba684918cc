"""The project's own programs, lowered for devices that need not exist; nothing is allocated."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jax_prompt.inference.generate import make_generator
from jax_prompt.models.t5.model import T5
from jax_prompt.parallel.mesh import DATA, divisors, one_of
from jax_prompt.parallel.rules import (
    batch_sharding,
    frozen_shardings,
    replicated,
)
from jax_prompt.planning.request import PlanRequest
from jax_prompt.prompts.initializers import InitContext
from jax_prompt.prompts.methods.direct import direct
from jax_prompt.prompts.methods.prefix_tuning import prefix_tuning
from jax_prompt.training.optimizers import adafactor
from jax_prompt.training.settings import TrainSettings
from jax_prompt.training.step import init_state, make_train_step
from jax_prompt.types import Params
from jax_prompt.weights.assemble import tree_shapes


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


def make_program(request: PlanRequest, config: Any, mesh: Mesh) -> Program:
    """Put together the training step of `jax-prompt train`, or greedy generation with its cache.

    Args:
      request: what is planned; `remat` None counts as 'none'.
      config: the model's shape.
      mesh: of the devices to compile for.

    Returns:
      The program: bfloat16, one compiled layer in a loop; the prompt is trained directly, and a
      prefix without a network, by Adafactor. Generation ends when every row has ended, after
      `targets_length` rounds at most.

    Raises:
      ValueError: sizes that the mesh does not divide.
    """
    if request.rows_at_once % mesh.shape[DATA]:
        fitting = divisors(math.gcd(request.rows_at_once, mesh.size))
        what = (f'batch_size={request.batch_size}' if request.microbatches == 1 else
                f'batch_size / microbatches = {request.rows_at_once}')
        raise ValueError(f'{what} does not divide by {DATA}={mesh.shape[DATA]}; choose a multiple '
                         f'of {mesh.shape[DATA]}, or with {mesh.size} devices '
                         f'{DATA}:{one_of(fitting)}')
    frozen = frozen_shapes(config, mesh, request.weights, request.shard_weights_over_data)
    model = T5(config, dtype=jnp.bfloat16, remat=request.remat or 'none',
               activation_sharding=batch_sharding(mesh))
    rows = functools.partial(jax.ShapeDtypeStruct, sharding=batch_sharding(mesh))
    inputs = rows((request.batch_size, request.positions), jnp.int32)
    method = prefix_tuning(request.prefix_length) if request.prefix_length else direct()
    # How the prompt begins does not matter here: its shape does.
    params, constants = _living(*_everywhere(mesh, jax.eval_shape(lambda: method.init(
        jax.random.key(0), InitContext(
            jnp.zeros((1, config.d_model)), request.prompt_length, list,
            initializer=lambda rng, context: jnp.zeros((context.num_rows, context.d_model)),
            prefix_shapes=model.prefix_shapes)))))
    if request.generate:
        prompt = jax.eval_shape(method.apply, params, constants).prompt
        generate = make_generator(model, request.targets_length)
        return Program(generate, (frozen, _living(*_everywhere(mesh, prompt)), inputs), frozen,
                       request.targets_length)
    optimizer = adafactor()
    state = jax.eval_shape(lambda params: init_state(params, optimizer), params)
    state = _living(*_everywhere(mesh, state))
    settings = TrainSettings(batch_size=request.batch_size, microbatches=request.microbatches)
    step = make_train_step(model, method, optimizer, settings, mesh)
    targets = (request.batch_size, request.targets_length)
    batch = {'encoder_input_tokens': inputs, 'decoder_input_tokens': rows(targets, jnp.int32),
             'decoder_target_tokens': rows(targets, jnp.int32),
             'decoder_loss_weights': rows(targets, jnp.float32)}
    return Program(step, (state, frozen, batch, constants), frozen)


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
    shapes = tree_shapes(config, 'bfloat16', weights)
    return _living(shapes, frozen_shardings(mesh, shapes, config.rules, over_data))


def local_bytes(tree: Any) -> int:
    """Sum the bytes of a tree of shapes on one device, padding aside."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
               for leaf in jax.tree.leaves(tree))


def _everywhere(mesh: Mesh, tree: Any) -> tuple[Any, Any]:
    """Return a tree's shapes, and that every device holds a copy."""
    return tree, jax.tree.map(lambda _: replicated(mesh), tree)


def _living(tree: Any, shardings: Any) -> Any:
    """Return a tree's shapes with where they live."""
    return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding), tree, shardings)
