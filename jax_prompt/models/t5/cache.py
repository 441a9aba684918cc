"""What cached decoding begins with: keys and values of every layer."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_prompt.models.base import Prefix
from jax_prompt.models.t5.kernel_first import steps_of
from jax_prompt.models.t5.layers import DecoderLayer
from jax_prompt.models.t5.positions import mask_bias
from jax_prompt.models.t5.prefix import extended, in_front, layers_of, of_rows, stack_prefix
from jax_prompt.types import Array, Params


def init_cache(model: Any, layer: DecoderLayer, frozen: Params, encoded_BSD: Array,
               encoder_mask_BS: Array, max_length: int, prefix: Prefix | None = None) -> Params:
    """Prepare cached decoding: cross keys and values of every layer, room for the others.

    Args:
      model: the `T5`, which says how to compute.
      layer: one of the decoder's, without its parameters.
      frozen: the parameter tree.
      encoded_BSD: the encoder's outputs.
      encoder_mask_BS: bool[B, S], True where the encoder had a token.
      max_length: decoder positions to make room for.
      prefix: what stands in front of both; put there once, not at every step.

    Returns:
      A pytree for `decode_step`: `self` and `cross` keys and values [N, B, H, T, K], the
      cross-attention's bias, that of a prefix in front of `self` (None without), and the position
      to decode next. Where layers are not scanned, what is stacked here and in the tree is taken
      apart, once: slices inside the decoding loop would be copies of all weights and caches at
      every position. (`kernel_first.with_steps` does it for the weights once and for all.)
    """
    cfg, kept = model.config, model.precision.kept
    own, cross = stack_prefix(prefix, 'decoder'), stack_prefix(prefix, 'cross')

    def prepare(inputs):
        params, *prefixes = inputs
        found = layer.apply({'params': params}, encoded_BSD, method='cross_keys_values')
        first, cross_first = of_rows((own, cross), prefixes, encoded_BSD.shape[0])
        return jax.tree.map(lambda one: one.astype(kept), (
            in_front(first, (empty, empty)), in_front(cross_first, found)))

    empty = jnp.zeros((encoded_BSD.shape[0], cfg.num_heads, max_length, cfg.d_kv), kept)
    prefixes = layers_of((own, cross))
    if model.scan_layers:
        layers = dict(zip(('self', 'cross'), jax.lax.map(
            prepare, (frozen['decoder']['layers'], *prefixes)), strict=True))
    else:
        steps = steps_of(frozen)
        each = [prepare((params, *jax.tree.map(lambda leaf, n=n: leaf[n], prefixes)))
                for n, params in enumerate(steps['layers'])]
        layers = {'steps': steps, 'self': [one for one, _ in each],
                  'cross': [one for _, one in each]}
    cross_bias, = extended(cross and cross.bias, (mask_bias(encoder_mask_BS, None, None),))
    return layers | {'cross_bias': cross_bias, 'prefix_bias': own and own.bias,
                     'index': jnp.zeros((), jnp.int32)}
