"""Prompt tuning as it was first: the rows of the prompt themselves are trained."""

from jax_prompt.config import configured
from jax_prompt.prompts.initializers import InitContext
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.prompt import Prompt, Tuned
from jax_prompt.types import Array, Params


@configured
def direct() -> Method:
    """Train the rows of the prompt themselves.

    Returns:
        A method whose parameters are `{'prompt': float32[P, D]}`.

    Source: Lester et al. 2021 (arXiv:2104.08691), section 2.1.
    """

    def init(rng: Array, context: InitContext) -> tuple[Params, Params]:
        return {'prompt': context.start(rng)}, {}

    def apply(params: Params, constants: Params) -> Tuned:
        del constants
        return Tuned(Prompt(params['prompt']))

    return Method('direct', init, apply)
