"""DePT: a short prompt, and a change of low rank to the embeddings of the text."""

import jax
import jax.numpy as jnp

from jax_prompt.config import configured
from jax_prompt.prompts.initializers import InitContext
from jax_prompt.prompts.method import Method, check_rank
from jax_prompt.prompts.prompt import Prompt, Tuned
from jax_prompt.types import Array, Params


@configured
def dept(rank: int = 45, length: int | None = None) -> Method:
    """Train a short prompt, and rows that are added to the text's embeddings by position.

        virtual tokens: prompt;  embedding of token s: embedding_s + (left right)_s

    A shorter prompt makes shorter inputs, so that training and use cost less; the numbers that it
    saves go to the change of the text. The two want different learning rates: see
    `optimizers.per_parameter` and `methods/dept.gin`.

    It does not fold into virtual tokens: a prompt file holds the added rows beside them, and
    neither PEFT nor T5X can say them.

    Args:
        rank: J, the paper's is 45 for 40 virtual tokens of T5 Base, which together are as many
            numbers as 100 virtual tokens.
        length: W, the tokens of a text that are changed, from its first on; None for as many as the
            longest text of the training split has, since others would be changed untrained.

    Returns:
        A method whose parameters are `prompt` float32[P, D], `left` float32[W, J], uniform within
        1 / sqrt(J), and `right` float32[J, D], zeros: the text begins unchanged.

    Raises:
        ValueError: a rank or length below 1; on use, a rank above the length or the model's width.

    Source: Shi and Lipani 2024 (arXiv:2309.05173), section 2; the start as in the authors' code.
    """
    check_rank('dept', rank)
    if length is not None and length < 1:
        raise ValueError(f'dept has length={length}; expected at least 1 token, or None for the '
                         'longest text')

    def init(rng: Array, context: InitContext) -> tuple[Params, Params]:
        reach = length or context.inputs_length
        check_rank('dept', rank, min(reach, context.d_model))
        left_WJ = jax.random.uniform(jax.random.fold_in(rng, 1), (reach, rank), jnp.float32,
                                     -rank**-0.5, rank**-0.5)
        return {'prompt': context.start(rng), 'left': left_WJ,
                'right': jnp.zeros((rank, context.d_model))}, {}

    def apply(params: Params, constants: Params) -> Tuned:
        del constants
        added_WD = jnp.matmul(params['left'], params['right'],
                              precision=jax.lax.Precision.HIGHEST)
        return Tuned(Prompt(jnp.concatenate([params['prompt'], added_WD]), len(added_WD)))

    return Method('dept', init, apply)
