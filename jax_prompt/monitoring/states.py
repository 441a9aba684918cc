"""What the frozen encoder makes of texts: one vector a text, to compare samples of texts by."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.programs import programs_of
from jax_prompt.models.base import Model
from jax_prompt.models.forward import encode
from jax_prompt.models.open import OpenedModel
from jax_prompt.parallel.placement import place
from jax_prompt.parallel.rules import replicated
from jax_prompt.prompts.prompt import Prompt, no_prompt
from jax_prompt.types import Array, Params


def mean_states(opened: OpenedModel, texts: Sequence[Sequence[int]],
                shapes: Shapes = Shapes()) -> np.ndarray:  # noqa: B008
    """Return the mean of the encoder's outputs over each text, read without a prompt.

    So it is a property of the text and the frozen model alone, the same for all versions of a
    prompt.

    Args:
      opened: the frozen model.
      texts: token ids of each, the end token included.
      shapes: at which sizes batches run.

    Returns:
      float32[N, D], in the order of the texts.
    """
    run = programs_of(opened).by_sizes('mean states', lambda: jax.jit(
        functools.partial(_mean_states, opened.model)))
    several = opened.mesh is not None and opened.mesh.size > 1
    prompt = no_prompt(opened.model.d_model)
    states_BD = np.zeros((len(texts), opened.model.d_model), np.float32)
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for first in range(0, len(order), shapes.largest_batch):
        numbers = order[first:first + shapes.largest_batch]
        size = shapes.batch_size(len(numbers)), shapes.length(len(texts[numbers[-1]]))
        ids_BS = np.full(size, opened.model.tokens.pad, np.int32)
        for row, number in enumerate(numbers):
            ids_BS[row, :len(texts[number])] = texts[number]
        ids_BS[len(numbers):, 0] = opened.model.tokens.eos  # a mean over nothing is none
        if several:
            ids_BS = place(ids_BS, replicated(opened.mesh))
        states_BD[numbers] = np.asarray(run(opened.for_scoring, prompt, ids_BS))[:len(numbers)]
    return states_BD


def _mean_states(model: Model, frozen: Params, prompt: Prompt, ids_BS: Array) -> Array:
    encoded_BSD, mask_BS = encode(model, frozen, prompt, ids_BS)
    weights_BS = mask_BS / mask_BS.sum(axis=1, keepdims=True)
    return jnp.einsum('BSD,BS->BD', encoded_BSD.astype(jnp.float32), weights_BS)
