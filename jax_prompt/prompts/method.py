"""Methods: how what is trained is parameterised; parameters in, `Tuned` out.

Training differentiates through `apply`, and whatever is saved, served or exported is its result, so
that the rest of the project knows no method. A new method is a file in `methods/` and a line that
registers it there.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jax_prompt.prompts.initializers import InitContext
from jax_prompt.prompts.prompt import Tuned
from jax_prompt.types import Array, Params


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """A parameterisation of what is trained.

    Attributes:
        name: what logs and prompt files call it.
        init: `(rng, context) -> (params, constants)`: a pytree of float32 arrays to train, and one
            of arrays that `apply` needs besides; {} for none. `context.start(rng)` gives the rows
            that the run's initialiser chose.
        apply: `(params, constants) -> Tuned`, pure and differentiable. Constants are arguments of
            the compiled step, never part of the program.
        penalty: `(params, constants) -> float32[]`, what training adds to the mean loss of a target
            token; None for nothing.
        config: how it was made, for a run's identity and card; `config.configured` sets it.
        teacher: `(params, constants) -> Tuned` whose probabilities training shall also give, with
            the weight `distillation`; None for no distillation.
        distillation: weight of the divergence from the teacher's probabilities.
        shared: names of those of its parameters that the tasks of a joint run have in common.
        tasks: T, for how many tasks at once it gives prompts, one after the other; None for the
            plain case of one. `training.joint.for_tasks` makes such a method of any.
        trains_weights: whether it tunes weights of the model, which a run then keeps as well.
    """

    name: str
    init: Callable[[Array, InitContext], tuple[Params, Params]]
    apply: Callable[[Params, Params], Tuned]
    penalty: Callable[[Params, Params], Array] | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    teacher: Callable[[Params, Params], Tuned] | None = None
    distillation: float = 0.0
    shared: tuple[str, ...] = ()
    tasks: int | None = None
    trains_weights: bool = False


def check_rank(name: str, rank: int, most: int | None = None) -> None:
    """Check the rank of a method's matrices.

    Args:
        name: of the method.
        rank: of its matrices.
        most: the highest that makes sense; None where it is not known yet.

    Raises:
        ValueError: it is no whole number from 1 to that.
    """
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1 or (
            most is not None and rank > most):
        end = 'at least 1' if most is None else f'1 to {most} (rows, or width of the model)'
        raise ValueError(f'{name} has rank={rank!r}; expected a whole number of {end}')
