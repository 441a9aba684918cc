"""Methods: how a prompt is parameterised while it is trained.

Every method folds: training differentiates through `fold`, and whatever is saved, served or
exported is the folded matrix, so that the rest of the project knows one kind of prompt.
"""

import dataclasses
from collections.abc import Callable

from jax_prompt.prompts.initializers import InitContext, Initializer
from jax_prompt.types import Array, Params


@dataclasses.dataclass(frozen=True)
class Method:
    """A parameterisation of the prompt.

    Attributes:
        name: what logs and prompt files call it.
        init: `(rng, context) -> params`, a pytree of float32 arrays.
        fold: `params -> float32[P, D]`, pure and differentiable.
    """

    name: str
    init: Callable[[Array, InitContext], Params]
    fold: Callable[[Params], Array]


def direct(initializer: Initializer) -> Method:
    """Train the rows of the prompt themselves (Lester et al. 2021, arXiv:2104.08691).

    Args:
        initializer: gives the rows to start from.

    Returns:
        A method whose parameters are `{'prompt': float32[P, D]}`.
    """

    def init(rng: Array, context: InitContext) -> Params:
        return {'prompt': initializer(rng, context)}

    def fold(params: Params) -> Array:
        return params['prompt']

    return Method('direct', init, fold)
