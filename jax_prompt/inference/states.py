"""What the frozen encoder makes of texts: its states, averaged over each text."""

import contextlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.programs import programs_of
from jax_prompt.models.base import Model
from jax_prompt.models.forward import encode
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.hosts import fetch
from jax_prompt.parallel.placement import place
from jax_prompt.parallel.rules import replicated
from jax_prompt.prompts.prompt import no_prompt
from jax_prompt.types import Array, Params


def mean_states(opened: OpenedModel, tokens: Sequence[Sequence[int]],
                shapes: Shapes) -> np.ndarray:
    """Average the encoder's states over each text, and bring the averages to length 1.

    Texts are batched with others of like length. A product of two results is their cosine.

    Args:
      opened: the frozen model, which reads the texts without any prompt.
      tokens: of each text, without an end token.
      shapes: at which batches run.

    Returns:
      float32[N, D].
    """
    model, programs = opened.model, programs_of(opened)
    run = programs.by_sizes('mean states', lambda: jax.jit(lambda frozen, ids_BS: mean_state(
        model, frozen, ids_BS)))
    several = opened.mesh is not None and opened.mesh.size > 1
    ids = [[*some, model.tokens.eos] for some in tokens]
    found = np.zeros((len(ids), model.d_model), np.float32)
    longest_first = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
    for first in range(0, len(ids), shapes.largest_batch):
        numbers = longest_first[first:first + shapes.largest_batch]
        ids_BS = np.full((shapes.batch_size(len(numbers)), shapes.length(len(ids[numbers[0]]))),
                         model.tokens.pad, np.int32)
        for row, number in enumerate(numbers):
            ids_BS[row, :len(ids[number])] = ids[number]
        with programs.launch if several else contextlib.nullcontext():
            states_BD = run(opened.for_scoring,
                            place(ids_BS, replicated(opened.mesh)) if several else ids_BS)
        found[numbers] = fetch(states_BD)[:len(numbers)]
    return found


def mean_state(model: Model, frozen: Params, ids_BS: Array) -> Array:
    """Return float32[B, D], of length 1: the mean of the encoder's states where there are tokens.

    Args:
      model: the frozen model's shape.
      frozen: its weights.
      ids_BS: int32[B, S].
    """
    encoded_BSD, mask_BS = encode(model, frozen, no_prompt(model.d_model), ids_BS)
    weights_BS = mask_BS.astype(jnp.float32)
    sums_BD = jnp.einsum('BSD,BS->BD', encoded_BSD.astype(jnp.float32), weights_BS)
    means_BD = sums_BD / jnp.maximum(weights_BS.sum(axis=1, keepdims=True), 1)
    # Rows that only fill the batch have none.
    return means_BD / jnp.maximum(jnp.linalg.norm(means_BD, axis=1, keepdims=True), 1e-30)
