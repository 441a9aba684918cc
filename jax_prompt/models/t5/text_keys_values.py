"""The keys and values that a T5 computes of a text, for prefixes that start from them."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_prompt.models.t5.layers import DecoderLayer, EncoderLayer
from jax_prompt.models.t5.positions import MASKED, Biases, bias_from_table, relative_buckets
from jax_prompt.types import Array, Params


def text_keys_values(model: Any, frozen: Params,
                     ids_M: Array) -> dict[str, tuple[Array, Array]]:
    """Compute keys and values of every layer from a text.

    Args:
      model: the `T5`, which says how to compute.
      frozen: the parameter tree.
      ids_M: int32[M], the text's tokens.

    Returns:
      As a prefix of one prompt has them, each float32[1, N, H, M, K]: 'encoder' as the encoder
      reads the text, 'cross' as the decoder sees what the encoder makes of it, and 'decoder' as the
      decoder writes it.
    """
    cfg, positions = model.config, jnp.arange(len(ids_M))
    hidden_1MD = model.embed(frozen, ids_M[None])
    encoded_1MD = model.encode(frozen, hidden_1MD, jnp.ones((1, len(ids_M)), bool))
    layer = DecoderLayer(cfg, model.precision)

    def biases(stack: Params, bidirectional: bool) -> tuple[Biases, Array]:
        buckets = relative_buckets(positions - positions[:, None], bidirectional, cfg)
        own = () if cfg.per_layer_relative_bias else (
            bias_from_table(stack['relative_bias']['embedding'], buckets),)
        causal = jnp.where(positions[:, None] >= positions, 0.0, MASKED)
        return own if bidirectional else (*own, causal), buckets

    encoder, decoder = frozen['encoder'], frozen['decoder']
    found = {
        'encoder': _of_layers(EncoderLayer(cfg, model.precision), encoder['layers'], hidden_1MD,
                              biases(encoder, bidirectional=True)),
        'decoder': _of_layers(layer, decoder['layers'], hidden_1MD,
                              (encoded_1MD, *biases(decoder, bidirectional=False), ())),
        'cross': jax.lax.map(lambda params: layer.apply(
            {'params': params}, encoded_1MD, method='cross_keys_values'), decoder['layers'])}
    return jax.tree.map(lambda one: one.swapaxes(0, 1).astype(jnp.float32), found)


def _of_layers(layer: EncoderLayer | DecoderLayer, stacked: Params, hidden_1MD: Array,
               context: tuple) -> tuple[Array, Array]:
    """Run layers and return the keys and values of their self-attention, [N, 1, H, M, K]."""

    def body(hidden_1MD, params):
        own = layer.apply({'params': params}, hidden_1MD, method='self_keys_values')
        return layer.apply({'params': params}, hidden_1MD, *context), own

    return jax.lax.scan(body, hidden_1MD, stacked)[1]
