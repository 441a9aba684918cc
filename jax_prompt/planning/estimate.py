"""A guess at a program's memory and time, in microseconds instead of minutes.

It decides what `suggest` compiles first and what it need not compile; what is reported is always
what the compiler says.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.int8 import quantised_shapes
from jax_prompt.models.t5.model import T5
from jax_prompt.parallel.mesh import DATA, MODEL
from jax_prompt.parallel.rules import path_name, rule_for
from jax_prompt.planning.chips import Chip
from jax_prompt.planning.request import PlanRequest

#: What another bound than the longest adds to the time: work overlaps, but not wholly.
_NOT_HIDDEN = 0.25


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


def estimate(request: PlanRequest, config: T5Config, mesh: dict[str, int], chip: Chip) -> Estimate:
    """Guess a program's memory and time from sizes alone.

    Args:
      request: what is planned; `remat` None counts as 'none'.
      config: the model's shape.
      mesh: sizes of the axes, {'data': 2, 'model': 8}.
      chip: whose figures bound the time.

    Returns:
      The guess.
    """
    weights = weight_bytes(config, request.weights, request.shard_weights_over_data,
                           mesh[DATA], mesh[MODEL])
    work = _generation(request, config, mesh, weights) if request.generate else (
        _training(request, config, mesh, weights))
    share = chip.devices_per_chip
    times = (work.flops / chip.peak_flops, work.hbm_bytes / chip.hbm_bandwidth,
             work.sent_bytes / chip.interconnect_bandwidth)
    longest = max(times)
    seconds = (longest + _NOT_HIDDEN * (sum(times) - longest)) * share
    chips = math.prod(mesh.values()) / share
    return Estimate(weights + work.kept_bytes, seconds, seconds * chips / request.batch_size)


@functools.cache
def weight_bytes(config: T5Config, weights: str, over_data: bool, data: int, model: int) -> int:
    """Count the bytes of the frozen weights on one device by the partition rules.

    Args:
      config: the model's shape.
      weights: 'bfloat16' or 'int8'.
      over_data: whether they are spread over the data axis too.
      data, model: sizes of the mesh's axes.

    Returns:
      Bytes.
    """
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(_shapes(config, weights)):
        rule = rule_for(path_name(path))
        parts = math.prod(
            count for letter, count, used in ((rule.model, model, True),
                                              (rule.data, data, over_data))
            if used and letter and leaf.shape[rule.dimensions.index(letter)] > 1)
        total += -(-leaf.size // parts) * leaf.dtype.itemsize
    return total


@functools.cache
def _shapes(config: T5Config, weights: str):
    shapes = T5(config).param_shapes(jnp.bfloat16)
    return quantised_shapes(shapes) if weights == 'int8' else shapes


@dataclasses.dataclass(frozen=True)
class _Work:
    """What one device does in a step or batch, about."""

    flops: float
    hbm_bytes: float
    sent_bytes: float
    kept_bytes: int


def _training(request: PlanRequest, config: T5Config, mesh: dict[str, int], weights: int) -> _Work:
    """Guess the work of a training step: forward, activations' gradients, recomputation."""
    rows, split = request.batch_size / mesh[DATA], mesh[MODEL]
    products, attention = _forward_flops(request, config, rows, split)
    again = {'none': (0, 0), 'dots': (0, 1), 'full': (1, 1)}[request.remat or 'none']
    flops = products * (2 + again[0]) + attention * (3 + again[1])
    passes = (2 + again[0]) * request.microbatches
    hidden = rows * request.positions * config.d_model * 2
    square = rows * config.num_heads * request.positions**2 * 4 / split
    # Some twenty hidden states and ten tables of attention logits a layer are read or written.
    moved = weights * passes + config.num_layers * (20 * hidden + 10 * square)
    # Hidden states summed over the model axis: two a layer forward, two back, and two of the
    # encoder's outputs for each layer of the decoder; recomputation adds one or two.
    sums = 6 + {'none': 0, 'dots': 1, 'full': 2}[request.remat or 'none']
    sent = sums * config.num_layers * hidden * 2 * (split - 1) / split
    if request.shard_weights_over_data:
        sent += passes * weights * (mesh[DATA] - 1)
    return _Work(flops, moved, sent, int(_kept(request, config, mesh)))


def _kept(request: PlanRequest, config: T5Config, mesh: dict[str, int]) -> float:
    """Return the bytes that the backward pass keeps of the encoder, at least."""
    rows, split = request.rows_at_once / mesh[DATA], mesh[MODEL]
    inputs = rows * request.positions * config.d_model * 2
    if request.remat == 'full':
        return config.num_layers * inputs
    heads = config.num_heads * config.d_kv
    wide = config.d_ff * (2 if config.gated else 1)
    products = rows * request.positions * (3 * heads + wide) * 2 / split
    if request.remat == 'dots':
        return config.num_layers * (inputs + products)
    weights = rows * config.num_heads * request.positions**2 * 2 / split
    return config.num_layers * (inputs + products + weights)


def _generation(request: PlanRequest, config: T5Config, mesh: dict[str, int],
                weights: int) -> _Work:
    """Guess the work of generating: encode once, then read weights and cache for each token."""
    rows, split = request.batch_size / mesh[DATA], mesh[MODEL]
    products, attention = _forward_flops(request, config, rows, split)
    width = config.num_heads * config.d_kv / split
    cache = 4 * config.num_decoder_layers * rows * (request.positions
                                                    + request.targets_length) * width
    hidden = rows * request.positions * config.d_model * 2
    ring = 2 * (split - 1) / split
    steps = request.targets_length
    token = rows * config.d_model * 2
    sent = ring * (2 * config.num_layers * hidden + 3 * config.num_decoder_layers * token * steps)
    if request.shard_weights_over_data:
        sent += (1 + steps) * weights * (mesh[DATA] - 1)
    moved = weights + 20 * config.num_layers * hidden + steps * (weights / 2 + cache)
    return _Work(products + attention, moved, sent, int(cache))


def _forward_flops(request: PlanRequest, config: T5Config, rows: float,
                   split: int) -> tuple[float, float]:
    """Return the forward pass's operations in products with weights, and in attention."""
    heads = config.num_heads * config.d_kv
    feed_forward = (3 if config.gated else 2) * config.d_model * config.d_ff
    positions, targets = request.positions, request.targets_length
    encoder = positions * config.num_layers * (4 * config.d_model * heads + feed_forward)
    decoder = targets * (config.num_decoder_layers * (8 * config.d_model * heads + feed_forward)
                         + config.d_model * config.vocab_size)
    if 2 * targets > config.d_kv or request.generate:  # keys and values of all encoder positions
        decoder += 2 * positions * config.num_decoder_layers * config.d_model * heads
        cross = 4 * config.num_decoder_layers * targets * positions * heads
    else:
        cross = 4 * config.num_decoder_layers * targets * config.num_heads * config.d_model * (
            positions)
    attention = rows * (4 * config.num_layers * heads * positions**2 + cross) / split
    return 2 * rows * (encoder + decoder) / split, attention
