"""What a search asks of a model that predictions do not: gradients, and what comes next."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.programs import programs_of
from jax_prompt.inference.rank import score_row_labels
from jax_prompt.models.base import Model
from jax_prompt.models.forward import encode
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.hosts import fetch
from jax_prompt.prompts.prompt import Prompt, no_prompt
from jax_prompt.types import Array, Params


def make_gradient(model: Model) -> Callable[..., tuple[Array, Array]]:
    """Compile the gradient of a loss by the rows of a prompt.

    Returns:
      gradient(frozen, rows_PD, ids_BS, targets_BCL, weights_BCL, right_BC, counts_B) -> (float32[],
      float32[P, D]): the sum over the batch of the cross-entropy of the right targets among all, or
      of a target by itself where it is alone, and its gradient. Id V + i is row i; `right_BC` is
      bool, with a right target for each row, and `counts_B` what each row counts.
    """
    def loss(rows_PD: Array, frozen: Params, ids_BS: Array, targets_BCL: Array,
             weights_BCL: Array, right_BC: Array, counts_B: Array) -> Array:
        encoded_BSD, mask_BS = encode(model, frozen, Prompt(rows_PD), ids_BS)
        scores_BC = score_row_labels(model, frozen, encoded_BSD, mask_BS, targets_BCL, weights_BCL)
        right_B = jax.nn.logsumexp(jnp.where(right_BC, scores_BC, -jnp.inf), axis=1)
        total_B = jax.nn.logsumexp(scores_BC, axis=1) if targets_BCL.shape[1] > 1 else 0.0
        return jnp.sum((total_B - right_B) * counts_B)

    differentiate = jax.value_and_grad(loss)
    return jax.jit(lambda frozen, rows_PD, *arrays: differentiate(rows_PD, frozen, *arrays))


def make_next_scores(model: Model, summed: bool) -> Callable[..., Array]:
    """Compile the scoring of what comes next, behind the same decoder tokens for all inputs.

    Args:
      model: the frozen model's shape.
      summed: over the inputs, whose number then does not matter for memory.

    Returns:
      score(frozen, encoded_BSD, mask_BS, prefixes_GL, position) -> float32[G, B, V], or
      float32[G, V]: log-probabilities of the token behind `position` of each of G beginnings, which
      begin with the start token; what stands after it is not seen.
    """
    @jax.jit
    def score(frozen: Params, encoded_BSD: Array, mask_BS: Array, prefixes_GL: Array,
              position: Array) -> Array:
        def of_one(prefix_L: Array) -> Array:
            inputs_BL = jnp.broadcast_to(prefix_L, (len(encoded_BSD), len(prefix_L)))
            hidden_BLD = model.decode(frozen, model.embed(frozen, inputs_BL), encoded_BSD, mask_BS)
            hidden_B1D = jax.lax.dynamic_slice_in_dim(hidden_BLD, position, 1, axis=1)
            scores_BV = jax.nn.log_softmax(model.logits(frozen, hidden_B1D)[:, 0])
            return scores_BV.sum(axis=0) if summed else scores_BV

        return jax.lax.map(of_one, prefixes_GL)

    return score


def gradient(opened: OpenedModel, rows_PD: np.ndarray, inputs: Sequence[np.ndarray],
             targets: tuple[np.ndarray, np.ndarray, np.ndarray],
             counts_B: np.ndarray) -> tuple[float, np.ndarray]:
    """Differentiate the mean loss of a batch by rows that stand in its inputs.

    Args:
      opened: the frozen model.
      rows_PD: float32[P, D].
      inputs: int32[S'] of each example; id V + i is row i.
      targets: int32[B, C, L], float32[B, C, L] and bool[B, C]: what is scored, what each position
        counts, which are right.
      counts_B: float32[B], what each example counts.

    Returns:
      (the mean loss in nats, float32[P, D]).
    """
    program = programs_of(opened).by_sizes('gradient by rows', lambda: make_gradient(opened.model))
    loss, gradient_PD = program(opened.frozen, rows_PD, padded(opened, inputs), *targets, counts_B)
    total = float(counts_B.sum())
    return float(loss) / total, np.asarray(fetch(gradient_PD), np.float32) / total


def next_words(opened: OpenedModel, inputs: Sequence[np.ndarray], prefix: Sequence[int],
               batch: int) -> np.ndarray:
    """Score the vocabulary as what comes next.

    Args:
      opened: the frozen model.
      inputs: int32[S'] of each example, any number.
      prefix: what the decoder has read, its start token first.
      batch: examples that are read at once.

    Returns:
      float32[B, V], log-probabilities.
    """
    programs, found = programs_of(opened), []
    program = programs.by_sizes('next words', lambda: make_next_scores(opened.model, False))
    for first in range(0, len(inputs), batch):
        some = inputs[first:first + batch]
        some = [*some, *[some[-1]] * (batch - len(some))]
        encoded = programs.encode(opened.frozen, no_prompt(opened.model.d_model),
                                  padded(opened, some))
        scores = program(opened.frozen, *encoded, np.array([prefix], np.int32),
                         np.int32(len(prefix) - 1))
        found.append(np.asarray(fetch(scores))[0, :len(inputs) - first])
    return np.concatenate(found)


def next_of_all(opened: OpenedModel,
                inputs: Sequence[np.ndarray]) -> Callable[[np.ndarray, int], np.ndarray]:
    """Return what scores the vocabulary as what comes next, summed over inputs.

    Args:
      opened: the frozen model.
      inputs: int32[S'] of each example.

    Returns:
      score(prefixes_GL, position) -> float32[G, V]; see `make_next_scores`.
    """
    programs = programs_of(opened)
    program = programs.by_sizes('next of all', lambda: make_next_scores(opened.model, True))
    encoded = programs.encode(opened.frozen, no_prompt(opened.model.d_model),
                              padded(opened, inputs))
    return lambda prefixes_GL, position: np.asarray(fetch(program(
        opened.frozen, *encoded, prefixes_GL, np.int32(position))))


def padded(opened: OpenedModel, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Return int32[B, S] of inputs, at one of few lengths."""
    length = Shapes().length(max(map(len, inputs)))
    ids_BS = np.full((len(inputs), length), opened.model.tokens.pad, np.int32)
    for number, ids in enumerate(inputs):
        ids_BS[number, :len(ids)] = ids
    return ids_BS
