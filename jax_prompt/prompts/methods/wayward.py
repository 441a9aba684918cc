"""A pull towards given words, around any method."""

from collections.abc import Mapping

import jax.numpy as jnp

from jax_prompt.config import configured
from jax_prompt.prompts.initializers import InitContext, text_rows
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.methods.direct import direct
from jax_prompt.prompts.prompt import Tuned
from jax_prompt.types import Array, Params


@configured
def wayward(text: str, gamma: float = 0.01, method: Method | None = None) -> Method:
    """Train with a penalty on the distance of a prompt's rows to the embeddings of a text.

        `gamma * (sum over the text's tokens i of |row_i - embedding_i|^2) / tokens`

    is added to the mean loss of a target token. It keeps a prompt near words that one can read, and
    few examples from pulling it far.

    Args:
        text: the words; its first token goes with the prompt's first row. Rows beyond it are free.
        gamma: weight of the penalty.
        method: how the rows are parameterised; None for `direct()`.

    Returns:
        The method with a penalty; what it gives is saved under the method's own name.

    Raises:
        ValueError: a weight that is not positive; on use, a text of more tokens than rows, or none.

    Source: Khashabi et al. 2022 (arXiv:2112.08348), section 3.
    """
    if not 0 < gamma < float('inf'):
        raise ValueError(f'wayward has gamma={gamma}; expected a positive number')
    inner = method or direct()

    def init(rng: Array, context: InitContext) -> tuple[Params, Params]:
        words_PD = text_rows(context, text)
        if len(words_PD) > context.num_rows:
            raise ValueError(f'the text of wayward has {len(words_PD)} tokens but the prompt '
                             f'{context.num_rows} rows; lengthen the prompt or shorten the text')
        params, constants = inner.init(rng, context)
        return params, {'method': constants, 'words': words_PD}

    def apply(params: Params, constants: Mapping[str, Params]) -> Tuned:
        return inner.apply(params, constants['method'])

    def penalty(params: Params, constants: Mapping[str, Params]) -> Array:
        words_PD = constants['words']
        rows_PD = apply(params, constants).prompt.rows[:len(words_PD)]
        found = gamma * jnp.sum((rows_PD - words_PD)**2) / len(words_PD)
        if inner.penalty is not None:
            found += inner.penalty(params, constants['method'])
        return found

    return Method(inner.name, init, apply, penalty)
