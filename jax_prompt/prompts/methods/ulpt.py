"""ULPT: rows that live in a few dimensions, blown up by a fixed random matrix."""

import jax
import jax.numpy as jnp

from jax_prompt.config import configured
from jax_prompt.prompts.initializers import InitContext
from jax_prompt.prompts.method import Method, check_rank
from jax_prompt.prompts.prompt import Prompt, Tuned
from jax_prompt.types import Array, Params


@configured
def ulpt(rank: int = 2, from_start: bool = False) -> Method:
    """Train rows in a space of few dimensions, which a fixed random matrix takes to the model's.

        row = (z W) * scale + shift

    Only z, of `rank` numbers a row, and the scale and shift, which all rows share, are trained: at
    rank 2 and 100 rows of T5 Base 1,736 numbers in place of 76,800. What is saved are the rows.

    Args:
        rank: J, the dimensions that rows live in.
        from_start: begin with the shift at the mean of the initialiser's rows and z at what comes
            nearest to them, in place of the paper's start: z from a normal distribution, scale 1,
            shift 0.

    Returns:
        A method whose parameters are `low` float32[P, J], `scale` and `shift` float32[D], and whose
        constant is `up` float32[J, D], uniform within sqrt(6 / (J + D)).

    Raises:
        ValueError: a rank below 1; on use, above the model's width.

    Source: Wu et al. 2025 (arXiv:2502.04501), section 3; start and matrix as in the authors' code.
    """
    check_rank('ulpt', rank)

    def init(rng: Array, context: InitContext) -> tuple[Params, Params]:
        check_rank('ulpt', rank, context.d_model)
        low, up = jax.random.split(jax.random.fold_in(rng, 1))
        bound = (6 / (rank + context.d_model))**0.5
        up_JD = jax.random.uniform(up, (rank, context.d_model), jnp.float32, -bound, bound)
        low_PJ = jax.random.normal(low, (context.num_rows, rank))
        shift_D = jnp.zeros(context.d_model)
        if from_start:
            start_PD = context.start(rng)
            shift_D = start_PD.mean(axis=0)
            low_PJ = jnp.linalg.lstsq(up_JD.T, (start_PD - shift_D).T)[0].T
        return {'low': low_PJ, 'scale': jnp.ones(context.d_model), 'shift': shift_D}, {'up': up_JD}

    def apply(params: Params, constants: Params) -> Tuned:
        rows_PD = jnp.matmul(params['low'], constants['up'], precision=jax.lax.Precision.HIGHEST)
        return Tuned(Prompt(rows_PD * params['scale'] + params['shift']))

    return Method('ulpt', init, apply)
