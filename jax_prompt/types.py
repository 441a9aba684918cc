"""The dimension key, array aliases and the training state.

Arrays in numeric code carry their dimensions as a suffix, one capital letter a dimension:

    A  words that a search may choose from
    B  examples in a batch
    C  labels of a classification task, or candidates that are chosen among
    D  width of the model
    E  width of the hidden layer of a prompt's reparameterisation
    F  width of the feed-forward layer
    G  ways in which a row is continued side by side (beams), or groups of rows
    H  attention heads
    J  rank of a product of matrices, or what is mixed in it
    K  width of one head
    L  decoder positions
    M  positions of a prefix; in calibration, inputs without content
    N  layers of a stack
    P  rows of one prompt (virtual tokens)
    Q  positions that attend, where they are no more than that
    R  rows of all prompts in use, one prompt after the other
    S  encoder positions, virtual tokens included
    T  positions that are attended to (S or L, by context); of prefixes, prompts that have one
    U  blocks of tokens that are looked at together
    V  rows of the embedding table (the vocabulary)
    W  tokens of such a block, or the largest of all
    X  buckets of relative positions

A digit is a dimension of that size. A suffix is a promise: `hidden_BSD` has the shape [B, S, D].
Pytrees and batch keys carry none.
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
      params: what the method trains (float32), e.g. `{'prompt': float32[P, D]}`.
      opt_state: optax's state for `params`, the learning rate in it.
      average: of the parameters so far, for a run that averages them.
    """

    step: Array
    params: Params
    opt_state: Any
    average: Params | None = None

    @property
    def evaluated(self) -> Params:
        """Return the parameters that are evaluated and kept: the average where there is one."""
        return self.params if self.average is None else self.average


def count_parameters(tree: Params) -> int:
    """Count the numbers in a tree of arrays or of shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
