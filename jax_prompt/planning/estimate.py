"""A guess at a program's memory and time, without compiling it.

It decides what `suggest` compiles first and what it need not compile; what is reported is always
what the compiler says. A program is traced, once for many candidates, and its products counted.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh

from jax_prompt.parallel.mesh import DATA, MODEL, make_mesh
from jax_prompt.planning.chips import Chip
from jax_prompt.planning.program import frozen_shapes, local_bytes, make_program
from jax_prompt.planning.request import PlanRequest
from jax_prompt.planning.work import equations, product_flops

#: What another bound than the longest adds to the time: work overlaps, but not wholly.
_NOT_HIDDEN = 0.25
#: Rows of the batch that is traced: a number that no size of a model is, so that a product's
#: operand without it is a weight.
_ROWS = 13
#: How often, about, operands and results of a product go through the main memory: also for norms,
#: softmax and activations between products.
_TRIPS = 1.3
#: Which part of the hidden states that products result in is summed over the model axis: several
#: are added to one another first, and rounded to bfloat16.
_SUMMED = 1 / 3


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A guess for one device.

    Attributes:
      floor_bytes: memory that is needed at least: weights, and what the backward pass keeps.
      seconds: the time of a step or batch, about.
      chip_seconds_per_example: what an example costs, about.
    """

    floor_bytes: int
    seconds: float
    chip_seconds_per_example: float


def estimate(request: PlanRequest, config: Any, mesh: dict[str, int], chip: Chip) -> Estimate:
    """Guess a program's memory and time from its trace and the sizes of the mesh.

    Args:
      request: what is planned; `remat` None counts as 'none'.
      config: the model's shape.
      mesh: sizes of the axes, {'data': 2, 'model': 8}.
      chip: whose figures bound the time.

    Returns:
      The guess.

    Raises:
      ValueError: a dimension of the weights does not divide by its mesh axis.
    """
    weights = weight_bytes(config, request.weights, request.shard_weights_over_data,
                           mesh[DATA], mesh[MODEL])
    counts = _count(dataclasses.replace(
        request, topology='v5e:1x1', mesh='data:1', batch_size=_ROWS, microbatches=1,
        shard_weights_over_data=False, weights='bfloat16'), config)
    split = mesh[MODEL]
    flops, activations, summed, kept, hidden = (
        request.batch_size / mesh[DATA] / _ROWS / split * counts[1:])
    reads = counts[0] / split * request.microbatches * (0.5 if request.weights == 'int8' else 1)
    sent = _SUMMED * 2 * (split - 1) * summed
    if request.shard_weights_over_data:
        sent += reads * (mesh[DATA] - 1) / mesh[DATA]
    share = chip.devices_per_chip
    times = (flops / chip.peak_flops, (reads + _TRIPS * activations) / chip.hbm_bandwidth,
             sent / chip.interconnect_bandwidth)
    longest = max(times)
    seconds = (longest + _NOT_HIDDEN * (sum(times) - longest)) * share
    chips = math.prod(mesh.values()) / share
    return Estimate(weights + int((kept + split * hidden) / request.microbatches), seconds,
                    seconds * chips / request.batch_size)


@functools.cache
def weight_bytes(config: Any, weights: str, over_data: bool, data: int, model: int) -> int:
    """Count the bytes of the frozen weights on one device by the partition rules.

    Args:
      config: the model's shape.
      weights: 'bfloat16' or 'int8'.
      over_data: whether they are spread over the data axis too.
      data, model: sizes of the mesh's axes.

    Returns:
      Bytes.

    Raises:
      ValueError: a dimension does not divide by its mesh axis.
    """
    mesh = AbstractMesh((data, model), (DATA, MODEL))
    return local_bytes(frozen_shapes(config, mesh, weights, over_data))


@functools.cache
def _count(request: PlanRequest, config: Any) -> np.ndarray:
    """Trace a program on one device and count what its time and memory depend on.

    Returns:
      Bytes of weights that products read; and what grows with the batch: operations in products;
      bytes of their other operands and results; of those results that are hidden states, which are
      sums over the model axis; and bytes of what a loop stacks up, which is what the backward pass
      needs of every layer or the cache of generation, those of hidden states by themselves: they
      are not split over the model axis.
    """
    program = make_program(request, config, make_mesh('data:1', jax.devices()[:1]))
    jaxpr = program.traced.jaxpr
    weights = moved = summed = 0
    kept = (0, 0)
    for equation, times in equations(jaxpr, program.rounds):
        operands, results = ([variable.aval for variable in variables]
                             for variables in (equation.invars, equation.outvars))
        if equation.primitive.name == 'dot_general':
            read = times * _bytes([one for one in operands if _ROWS not in one.shape])
            weights += read
            moved += times * _bytes(operands + results) - read
            summed += times * _bytes(results, config.d_model)
        elif equation.primitive.name == 'scan':
            stacks = results[equation.params['num_carry']:]
            hidden = _bytes(stacks, config.d_model)
            kept = max(kept, (_bytes(stacks) - hidden, hidden), key=sum)
    flops = product_flops(jaxpr, program.rounds)
    return np.array([weights, flops, moved, summed, *kept], float)


def _bytes(arrays: list[Any], width: int | None = None) -> int:
    """Sum the bytes of arrays, of those alone whose last dimension is `width` where it is given."""
    return sum(array.size * array.dtype.itemsize for array in arrays
               if width is None or array.shape[-1:] == (width,))
