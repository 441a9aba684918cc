"""Random weights at T5's initial scales, for tests and benchmarks."""

import jax
import jax.numpy as jnp

from jax_prompt.models.t5.layers import DecoderLayer, EncoderLayer
from jax_prompt.types import Array, Params


def init_stack(rng: Array, layer: EncoderLayer | DecoderLayer, depth: int) -> Params:
    """Initialise the layers of one stack, stacked, with its bias table and final norm.

    Args:
      rng: a PRNG key.
      layer: whose parameters are initialised, each layer with a key of its own.
      depth: N, the number of layers.

    Returns:
      `layers`, `final_norm` and, where the layers share it, `relative_bias`.
    """
    cfg = layer.config
    hidden = jnp.zeros((1, 1, cfg.d_model), layer.precision.activations)
    args = (hidden, (), jnp.zeros((1, 1), jnp.int32))
    if isinstance(layer, DecoderLayer):
        args = (hidden, *args, ())
    layer_rng, bias_rng = jax.random.split(rng)
    keys = jax.random.split(layer_rng, depth)
    stack = {
        'layers': jax.vmap(lambda key: layer.init(key, *args)['params'])(keys),
        'final_norm': {'scale': jnp.ones(cfg.d_model)},
    }
    if not cfg.per_layer_relative_bias:
        shape = (cfg.relative_attention_num_buckets, cfg.num_heads)
        table = jax.random.normal(bias_rng, shape) * cfg.d_model**-0.5
        stack['relative_bias'] = {'embedding': table}
    return stack
