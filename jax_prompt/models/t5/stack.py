"""The layers of a stack one after the other: scanned or in a row, rematerialised, with dropout."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jax_prompt.models.t5.layers import DecoderLayer, EncoderLayer, RMSNorm
from jax_prompt.models.t5.prefix import StackPrefix, layers_of, of_rows
from jax_prompt.types import Array, Params

#: What to keep for the backward pass: everything, the results of products, or layer inputs alone.
REMAT_POLICIES = {
    'none': None,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'full': jax.checkpoint_policies.nothing_saveable,
}


def run_stack(model: Any, layer: EncoderLayer | DecoderLayer, stack: Params, hidden: Array,
              context: tuple, dropout_rng: Array | None,
              prefixes: Sequence[StackPrefix | None] = ()) -> Array:
    """Run the layers of a stack, and its last norm.

    Args:
      model: the `T5`, which says how to compute.
      layer: one of them, without its parameters.
      stack: their parameters, stacked or as a list, and the norm's.
      hidden: dtype[B, S, D].
      context: what every layer is given besides, the same for all.
      dropout_rng: a PRNG key switches dropout on.
      prefixes: of each kind of attention of the layers, in their order.

    Returns:
      dtype[B, S, D].
    """
    if model.activation_sharding is not None:
        hidden = jax.lax.with_sharding_constraint(hidden, model.activation_sharding)
    if isinstance(stack['layers'], list):
        assert dropout_rng is None, 'layers apart are for inference'
        for number, params in enumerate(stack['layers']):
            own = of_rows(prefixes, jax.tree.map(lambda leaf, n=number: leaf[n],
                                                 layers_of(prefixes)), hidden.shape[0])
            hidden = layer.apply({'params': params}, hidden, *context, *own)
        return final_norm(model, stack, hidden)
    depth = jax.tree.leaves(stack['layers'])[0].shape[0]
    in_rng, layers_rng, out_rng = (None, None, None) if dropout_rng is None else (
        jax.random.split(dropout_rng, 3))
    keys = None if dropout_rng is None else jax.random.split(layers_rng, depth)

    def body(hidden, layer_inputs):
        params, key, keys_values = layer_inputs
        rngs = None if key is None else {'dropout': key}
        own = of_rows(prefixes, keys_values, hidden.shape[0])
        return layer.apply({'params': params}, hidden, *context, *own, rngs=rngs), None

    hidden, _ = jax.lax.scan(
        _rematerialised(model, body), _dropout(model, hidden, in_rng),
        (stack['layers'], keys, layers_of(prefixes)), unroll=not model.scan_layers)
    return _dropout(model, final_norm(model, stack, hidden), out_rng)


def final_norm(model: Any, stack: Params, hidden: Array) -> Array:
    """Apply the norm that ends a stack."""
    norm = RMSNorm(model.config.layer_norm_epsilon, model.dtype)
    return norm.apply({'params': stack['final_norm']}, hidden)


def _rematerialised(model: Any, body: Callable) -> Callable:
    if model.remat == 'none':
        return body
    # The loop already keeps XLA from merging the recomputation with the first computation.
    return jax.checkpoint(body, policy=REMAT_POLICIES[model.remat],
                          prevent_cse=not model.scan_layers)


def _dropout(model: Any, hidden: Array, rng: Array | None) -> Array:
    if rng is None or model.dropout_rate == 0.0:
        return hidden
    kept = jax.random.bernoulli(rng, 1.0 - model.dropout_rate, hidden.shape)
    return jnp.where(kept, hidden / (1.0 - model.dropout_rate), 0).astype(hidden.dtype)
