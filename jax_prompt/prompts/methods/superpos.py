"""SuperPos: every row is a mixture of words of the vocabulary, of which the weights are trained."""

import dataclasses

import jax
import jax.numpy as jnp

from jax_prompt.config import configured
from jax_prompt.prompts.initializers import InitContext, sampled_vocabulary
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.prompt import Prompt, Tuned
from jax_prompt.types import Array, Params


@configured
def superpos(entries: int = 128, most_frequent: int = 5000) -> Method:
    """Train each row as a superposition of sampled embeddings of the vocabulary.

        row = sum over i of weight_i embedding_i

    The weights are free: no softmax, so that they may be negative and need not sum to one. Rows
    stay among combinations of what the model knows. What is saved are the rows.

    Row p begins as the initialiser's: that row is the p-th entry, with weight 1. The other entries
    are frequent vocabulary and begin with weight 0.

    Args:
        entries: J, embeddings that are mixed; the paper's gain levels off at 128.
        most_frequent: how many vocabulary entries the others are drawn from.

    Returns:
        A method whose parameters are `weights` float32[P, J] and whose constant is `entries`
        float32[J, D].

    Raises:
        ValueError: fewer than one entry; on use, fewer entries than rows, or than the vocabulary
            can give.

    Source: SadraeiJavaeri et al. 2024 (arXiv:2406.05279), section 2.
    """
    if not isinstance(entries, int) or isinstance(entries, bool) or entries < 1:
        raise ValueError(f'superpos has entries={entries!r}; expected a whole number of at least 1')
    others = sampled_vocabulary(most_frequent)

    def init(rng: Array, context: InitContext) -> tuple[Params, Params]:
        rest = entries - context.num_rows
        if rest < 0:
            raise ValueError(f'superpos has entries={entries} but the prompt has '
                             f'{context.num_rows} rows; expected at least one entry a row')
        sampled_JD = others(jax.random.fold_in(rng, 1), dataclasses.replace(context, num_rows=rest))
        return ({'weights': jnp.eye(context.num_rows, entries)},
                {'entries': jnp.concatenate([context.start(rng), sampled_JD])})

    def apply(params: Params, constants: Params) -> Tuned:
        return Tuned(Prompt(jnp.matmul(params['weights'], constants['entries'],
                                       precision=jax.lax.Precision.HIGHEST)))

    return Method('superpos', init, apply)
