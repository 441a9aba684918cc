"""What attention logits are given for their positions: T5's relative position bias, and masks."""

import math

import jax.numpy as jnp

from jax_prompt.models.t5.config import T5Config
from jax_prompt.types import Array

#: Added to attention logits where attention is not allowed. Large enough that exp() gives an exact
#: zero beside any allowed position, small enough that sums stay finite in float32.
MASKED = -1e9

#: What is added to attention logits, one after the other: the position bias [1, H, Q, T] and the
#: mask [B, 1, 1 or Q, T] stay apart, since every layer would read their sum, B times the first.
Biases = tuple[Array, ...]


def relative_buckets(relative: Array, bidirectional: bool, config: T5Config) -> Array:
    """Sort relative positions into T5's buckets.

    Half of the buckets are exact, the others grow logarithmically up to the maximum distance, and
    everything beyond shares the last one.

    Args:
      relative: int32[...], key position minus query position, in tokens.
      bidirectional: whether keys after the query have buckets of their own (the encoder).
      config: gives the number of buckets and the maximum distance.

    Returns:
      int32[...], each in [0, num_buckets).

    Source: Raffel et al. 2020, section 2.1; Mesh TensorFlow's `_relative_position_bucket`.
    """
    buckets = config.relative_attention_num_buckets
    offset = jnp.zeros_like(relative)
    if bidirectional:
        buckets //= 2
        offset = (relative > 0).astype(jnp.int32) * buckets
        distance = jnp.abs(relative)
    else:
        distance = jnp.maximum(-relative, 0)
    exact = buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact)
    scale = math.log(config.relative_attention_max_distance / exact)
    far = exact + (ratio / scale * (buckets - exact)).astype(jnp.int32)
    return offset + jnp.where(distance < exact, distance, jnp.minimum(far, buckets - 1))


def bias_from_table(table: Array, buckets_QT: Array) -> Array:
    """Look the position bias up.

    Args:
      table: [buckets, H], one learned number a bucket and head.
      buckets_QT: int32[Q, T] from `relative_buckets`.

    Returns:
      float32[1, H, Q, T], to be added to attention logits.
    """
    return jnp.take(table.astype(jnp.float32), buckets_QT, axis=0).transpose(2, 0, 1)[None]


def behind_prefix(biases: Biases, keys: int) -> Biases:
    """Extend biases [..., T] to so many keys, with 0 for those in front.

    A prefix has no place in the text, so the position bias says nothing of it, and the text's own
    positions stay what the frozen model knows. Prefix tuning (Li & Liang 2021) and P-tuning v2 (Liu
    et al. 2022) are for models of absolute positions and so say nothing of a bias. AdapterHub's
    `adapters` (1.3) counts the prefix into the keys' positions, which moves the text's keys M
    places away from its queries: in the decoder all of its past then falls into one bucket.
    """
    return tuple(jnp.pad(bias, [(0, 0)] * (bias.ndim - 1) + [(keys - bias.shape[-1], 0)])
                 for bias in biases)


def mask_bias(mask_BT: Array, query_segments: Array | None, key_segments: Array | None) -> Array:
    """Return float32[B, 1, 1 or Q, T]: 0 where a query may look, `MASKED` elsewhere."""
    allowed = mask_BT[:, None, None, :]
    if key_segments is not None:
        allowed = allowed & (query_segments[:, None, :, None] == key_segments[:, None, None, :])
    return jnp.where(allowed, 0.0, MASKED)
