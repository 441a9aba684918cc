"""The weights that attention gives, for those who read what a model does with its inputs."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jax_prompt.models.base import Prefix
from jax_prompt.models.t5.kernel_first import layers_apart
from jax_prompt.types import Array, Params


def attention_weights(model: Any, frozen: Params, hidden_BSD: Array, mask_BS: Array,
                      inputs_BLD: Array, prefix: Prefix | None = None) -> dict[str, Array]:
    """Run encoder and decoder and keep the weights of every attention.

    The model's own `encode` and `decode` run; Flax lets what they call be watched from outside, so
    that the programs of those who do not read know nothing of it. A fused kernel has no weights to
    watch and products rounded to bfloat16 take another way, so both are computed the plain way.

    Args:
      model: the `T5`, which says how to compute.
      frozen: the parameter tree.
      hidden_BSD: embeddings of the encoder's inputs, virtual tokens included.
      mask_BS: bool[B, S], True where there is a token.
      inputs_BLD: embeddings of the decoder's inputs.
      prefix: that the layers see in front of their own keys.

    Returns:
      'encoder' float32[B, N, H, S, T], 'decoder' [B, N, H, L, T] and 'cross' [B, N, H, L, T]; T has
      the prefix's positions first, where there are some. Each row of T sums to 1.
    """
    plain = dataclasses.replace(model, attention='xla', factors=None)
    apart = {stack: part | {'layers': _apart(part['layers'])} if stack in ('encoder', 'decoder')
             else part for stack, part in frozen.items()}
    seen: list[Array] = []

    def watch(call: Callable, args: tuple, kwargs: Mapping[str, Any],
              context: nn.module.InterceptorContext) -> Any:
        found = call(*args, **kwargs)
        if context.method_name == 'weights':
            seen.append(found.astype(jnp.float32))
        return found

    with nn.intercept_methods(watch):
        encoded_BSD = plain.encode(apart, hidden_BSD, mask_BS, prefix=prefix)
        depth = len(seen)
        plain.decode(apart, inputs_BLD, encoded_BSD, mask_BS, prefix=prefix)
    # A layer of the decoder attends to what is written before it attends to the encoder.
    of = {'encoder': seen[:depth], 'decoder': seen[depth::2], 'cross': seen[depth + 1::2]}
    return {name: jnp.stack(layers, axis=1) for name, layers in of.items()}


def _apart(layers: Params | list[Params]) -> list[Params]:
    """Return layers one by one: within a loop of the compiler nobody could watch them."""
    return layers if isinstance(layers, list) else layers_apart(layers)
