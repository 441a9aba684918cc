"""The loss: token cross-entropy with the z-loss of the T5 family."""

import jax
import jax.numpy as jnp

from jax_prompt.types import Array

#: The step differentiates the sum over the batch's target tokens, or their mean.
REDUCTIONS = ('sum', 'mean')


def token_loss(logits_BLV: Array, targets_BL: Array, weights_BL: Array,
               z_loss: float = 1e-4) -> tuple[Array, dict[str, Array]]:
    """Compute the cross-entropy of target tokens, plus `z_loss * log(Z)**2`, summed.

    The z-loss keeps the softmax's normaliser near one, so that logits do not drift.

    Args:
      logits_BLV: float32[B, L, V].
      targets_BL: int32[B, L], the token to predict at each position.
      weights_BL: float32[B, L], 0 where there is no target.
      z_loss: weight of the squared log-normaliser.

    Returns:
      The loss float32[] and sums over the batch to be divided by `tokens` for reporting: `loss`
      (cross-entropy alone, nats), `z_loss`, `correct` (tokens whose target has the highest logit)
      and `tokens`.

    Source: T5X's `cross_entropy_with_logits`; Lester et al. 2021 train with the sum.
    """
    log_z_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    # A comparison and a sum fuse into one pass; a gather's gradient would be a scatter.
    vocabulary = jax.lax.broadcasted_iota(jnp.int32, logits_BLV.shape, 2)
    chosen_BLV = jnp.where(vocabulary == targets_BL[..., None], logits_BLV, 0.0)
    cross_entropy = jnp.sum((log_z_BL - jnp.sum(chosen_BLV, -1)) * weights_BL)
    penalty = jnp.sum(z_loss * log_z_BL**2 * weights_BL)
    tokens = jnp.sum(weights_BL)
    correct = jnp.sum((jnp.argmax(logits_BLV, -1) == targets_BL) * weights_BL)
    metrics = {'loss': cross_entropy, 'z_loss': penalty, 'correct': correct, 'tokens': tokens}
    return cross_entropy + penalty, metrics
