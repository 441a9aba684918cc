"""DPT: a prompt of low rank, as a product of two matrices."""

import jax
import jax.numpy as jnp

from jax_prompt.config import configured
from jax_prompt.prompts.initializers import InitContext
from jax_prompt.prompts.method import Method, check_rank
from jax_prompt.prompts.prompt import Prompt, Tuned
from jax_prompt.types import Array, Params


@configured
def dpt(rank: int = 10, scale: float | None = 0.5) -> Method:
    """Train the two factors of a prompt of low rank.

        prompt = left right

    Prompts that were trained row by row turn out to be of low rank, so that few numbers say as
    much. What is saved is the product.

    Args:
        rank: J, the paper's is 10.
        scale: the factors start uniformly within [-scale, scale). None starts them from the best
            product for the initialiser's rows (their singular value decomposition).

    Returns:
        A method whose parameters are `left` float32[P, J] and `right` float32[J, D].

    Raises:
        ValueError: a rank below 1, a scale that is not positive; on use, a rank above the rows or
            the model's width.

    Source: Xiao et al. 2023 (arXiv:2310.10094), section 4; the start as in the authors' code.
    """
    check_rank('dpt', rank)
    if scale is not None and not 0 < scale < float('inf'):
        raise ValueError(f'dpt has scale={scale}; expected a positive number, or None to start '
                         "from the initialiser's rows")

    def init(rng: Array, context: InitContext) -> tuple[Params, Params]:
        check_rank('dpt', rank, min(context.num_rows, context.d_model))
        if scale is None:
            left_PJ, values_J, right_JD = jnp.linalg.svd(context.start(rng), full_matrices=False)
            root_J = jnp.sqrt(values_J[:rank])
            return {'left': left_PJ[:, :rank] * root_J,
                    'right': root_J[:, None] * right_JD[:rank]}, {}
        left, right = jax.random.split(jax.random.fold_in(rng, 1))
        return {'left': jax.random.uniform(left, (context.num_rows, rank), jnp.float32,
                                           -scale, scale),
                'right': jax.random.uniform(right, (rank, context.d_model), jnp.float32,
                                            -scale, scale)}, {}

    def apply(params: Params, constants: Params) -> Tuned:
        del constants
        return Tuned(Prompt(jnp.matmul(params['left'], params['right'],
                                       precision=jax.lax.Precision.HIGHEST)))

    return Method('dpt', init, apply)
