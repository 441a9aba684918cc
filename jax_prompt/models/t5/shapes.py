"""Read a T5's configuration off the shapes of its tensors, where no file tells it."""

import re
from collections.abc import Mapping
from typing import Any

from jax_prompt.models.t5.names import EMBEDDING

_BIAS = 'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
_QUERY = 'encoder.block.0.layer.0.SelfAttention.q.weight'
_OUT = 'encoder.block.0.layer.1.DenseReluDense.wo.weight'


def fields_from_shapes(tensors: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the fields of a `T5Config` that shapes tell.

    What they cannot tell is left to `T5Config`'s defaults: the activation, the largest distance of
    the relative bias, the special ids. Whether the head is tied and whether each layer has a bias
    table of its own is for the caller to say.

    Args:
      tensors: Hugging Face name -> anything with a `shape`, projections as `[inputs, outputs]`.
      where: the source, for messages.

    Raises:
      ValueError: a tensor that tells them is missing, or shapes contradict each other.
    """
    for name in (EMBEDDING, _BIAS, _QUERY, _OUT):
        if name not in tensors:
            raise ValueError(f'{where} has no tensor {name!r}, and there is no config.json beside '
                             'it to tell the shape; expected a whole T5')
        if len(tensors[name].shape) != 2:
            raise ValueError(f'{where} has {name!r} with shape {list(tensors[name].shape)}; '
                             'expected a matrix')
    bias, query, out = (tensors[name].shape for name in (_BIAS, _QUERY, _OUT))
    vocab_size, d_model = tensors[EMBEDDING].shape
    buckets, num_heads = bias
    if not num_heads or query[1] % num_heads:
        raise ValueError(f'{where} has {num_heads} heads by its relative bias, but queries of '
                         f'width {query[1]}; expected a multiple')
    return dict(
        vocab_size=vocab_size, d_model=d_model, d_kv=query[1] // num_heads, d_ff=out[0],
        num_heads=num_heads, num_layers=_depth(tensors, 'encoder'),
        num_decoder_layers=_depth(tensors, 'decoder'),
        gated='encoder.block.0.layer.1.DenseReluDense.wi_0.weight' in tensors,
        relative_attention_num_buckets=buckets)


def _depth(tensors: Mapping[str, Any], stack: str) -> int:
    found = (re.match(rf'{stack}\.block\.(\d+)\.', name) for name in tensors)
    return 1 + max((int(match[1]) for match in found if match), default=0)
