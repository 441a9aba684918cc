"""The dimension key, array aliases and the training state.

Arrays in numeric code carry their dimensions as a suffix, one capital letter a dimension:

    B  examples in a batch
    P  rows of the prompt (virtual tokens)
    S  encoder positions, virtual tokens included
    T  positions that are attended to (S or L, by context)
    L  decoder positions
    G  ways in which a row is continued side by side (beams), or groups of rows
    D  width of the model
    H  attention heads
    K  width of one head
    F  width of the feed-forward layer
    V  rows of the embedding table (the vocabulary)
    N  layers of a stack
    C  labels of a classification task

A suffix is a promise: `hidden_BSD` has the shape [B, S, D]. Pytrees and batch keys carry none.
"""

from typing import Any

import flax.struct
import jax

Array = jax.Array
#: A nested dict of arrays: the frozen model, or what a prompt method trains.
Params = dict[str, Any]
#: Features by seqio's names: `encoder_input_tokens` int32[B, S], `decoder_input_tokens`,
#: `decoder_target_tokens` int32[B, L] and `decoder_loss_weights` float32[B, L].
Batch = dict[str, Array]


@flax.struct.dataclass
class TrainState:
    """Everything that training changes; nothing in it has the size of the frozen model.

    Attributes:
      step: int32[], optimizer updates made so far.
      params: what the prompt method trains (float32), e.g. `{'prompt': float32[P, D]}`.
      opt_state: optax's state for `params`.
    """

    step: Array
    params: Params
    opt_state: Any


def count_parameters(tree: Params) -> int:
    """Count the numbers in a tree of arrays or of shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
