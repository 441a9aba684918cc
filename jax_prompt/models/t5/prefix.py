"""A prefix in T5's layers: each row's keys and values, and the biases of what is attended to."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_prompt.models.base import Prefix
from jax_prompt.models.t5.positions import MASKED, Biases, behind_prefix
from jax_prompt.types import Array

#: (keys, values) of one layer for each row, [B, H, M, K]; None for none.
LayerPrefix = tuple[Array, Array] | None


class StackPrefix(NamedTuple):
    """The part of a `Prefix` that one attention of all layers of a stack sees.

    Attributes:
      keys_values: keys and values, each float32[N, T, H, M, K]; layers first, to be scanned.
      prompt_ids, lengths_B: see `Prefix`.
    """

    keys_values: tuple[Array, Array]
    prompt_ids: Array | None
    lengths_B: Array | None

    @property
    def bias(self) -> Array:
        """Return float32[1 or B, 1, 1, M]: 0 where a row sees it, `MASKED` elsewhere."""
        positions = jnp.arange(self.keys_values[0].shape[-2])
        if self.lengths_B is None:
            return jnp.zeros((1, 1, 1, len(positions)))
        return jnp.where(positions < self.lengths_B[:, None], 0.0, MASKED)[:, None, None]


def stack_prefix(prefix: Prefix | None, name: str) -> StackPrefix | None:
    """Return what one kind of attention sees of a prefix; None where that is nothing.

    Args:
      prefix: of the model.
      name: 'encoder', 'decoder' or 'cross'.
    """
    if prefix is None or name not in prefix.keys_values:
        return None
    keys_values = tuple(jnp.moveaxis(one, 1, 0) for one in prefix.keys_values[name])
    return StackPrefix(keys_values, prefix.prompt_ids, (prefix.lengths or {}).get(name))


def layers_of(prefixes: Sequence[StackPrefix | None]) -> list[tuple[Array, Array] | None]:
    """Return the keys and values of prefixes, layers first; None for one that is not there."""
    return [prefix and prefix.keys_values for prefix in prefixes]


def of_rows(prefixes: Sequence[StackPrefix | None], layer: Sequence[tuple[Array, Array] | None],
            rows: int) -> list[LayerPrefix]:
    """Give each of so many rows its prompt's keys and values.

    Args:
      prefixes: say which prompt a row uses.
      layer: a layer's part of each, [T, H, M, K].
      rows: B.

    Returns:
      Of each [B, H, M, K].
    """
    return [prefix and tuple(_chosen(one_THMK, prefix.prompt_ids, rows) for one_THMK in one)
            for prefix, one in zip(prefixes, layer, strict=True)]


def extended(bias_B11M: Array | None, biases: Biases) -> Biases:
    """Extend biases [..., T], the last of which is a mask, to [..., M + T].

    Args:
      bias_B11M: from `StackPrefix.bias`; None without a prefix.
      biases: what is added to logits.
    """
    if bias_B11M is None:
        return biases
    *others, mask = biases
    shape = jnp.broadcast_shapes(bias_B11M.shape[:-1], mask.shape[:-1])
    mask = jnp.concatenate([jnp.broadcast_to(one, (*shape, one.shape[-1]))
                            for one in (bias_B11M, mask)], axis=-1)
    return *behind_prefix(others, mask.shape[-1]), mask


def in_front(prefix: LayerPrefix, keys_values: tuple[Array, Array]) -> tuple[Array, Array]:
    """Put a layer's prefix in front of its own keys and values, [B, H, T, K]."""
    if prefix is None:
        return keys_values
    return tuple(jnp.concatenate([first.astype(own.dtype), own], axis=2)
                 for first, own in zip(prefix, keys_values, strict=True))


def _chosen(one_THMK: Array, prompt_ids: Array | None, rows: int) -> Array:
    """Give each row its prompt's part."""
    if prompt_ids is not None:
        return _lookup(one_THMK, prompt_ids)
    # A broadcast, whose gradient sums within each part of the batch: parts that stand on devices of
    # their own exchange nothing.
    prompts, *shape = one_THMK.shape
    return jnp.broadcast_to(one_THMK[:, None], (prompts, rows // prompts, *shape)).reshape(
        rows, *shape)


@jax.custom_vjp
def _lookup(one_THMK: Array, prompt_ids: Array) -> Array:
    """Look each row's prompt up."""
    return jnp.take(one_THMK, prompt_ids, axis=0)


def _lookup_forward(one_THMK: Array, prompt_ids: Array) -> tuple[Array, tuple[Array, int]]:
    return _lookup(one_THMK, prompt_ids), (prompt_ids, one_THMK.shape[0])


def _lookup_backward(residuals: tuple[Array, int], grad_BHMK: Array) -> tuple[Array, None]:
    """Sum the gradient of each prompt's rows as a one-hot product, as `prompts.virtual` does."""
    prompt_ids, prompts = residuals
    one_hot_BT = jax.nn.one_hot(prompt_ids, prompts, dtype=jnp.float32)
    return jnp.einsum('BT,BHMK->THMK', one_hot_BT, grad_BHMK.astype(jnp.float32),
                      precision=jax.lax.Precision.HIGHEST), None


_lookup.defvjp(_lookup_forward, _lookup_backward)
