"""Find the cheapest way to run a model that fits: guess first, compile to confirm."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

from jax_prompt.models.t5.stack import REMAT_POLICIES
from jax_prompt.parallel.mesh import DATA, MODEL, describe, divisors
from jax_prompt.planning.estimate import estimate, weight_bytes
from jax_prompt.planning.planner import Plan, plan
from jax_prompt.planning.report import describe as describe_plan
from jax_prompt.planning.report import describe_try
from jax_prompt.planning.request import WEIGHTS, PlanRequest
from jax_prompt.planning.sizes import find_config
from jax_prompt.planning.topology import capacity_of, devices_of, find_chip, parse_topology

_MICROBATCHES = (1, 2, 4, 8, 16)
#: The policies, those that keep most for the backward pass first.
_POLICIES = list(REMAT_POLICIES)


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """What came of a search.

    Attributes:
      best: the cheapest plan that fits; None where none was found.
      tried: all plans that were compiled, in their order.
      considered: how many candidates there were.
    """

    best: Plan | None
    tried: tuple[Plan, ...]
    considered: int


def suggest(request: PlanRequest, most_compilations: int = 24,
            tell: Callable[[Plan], None] = lambda made: None) -> Suggestion:
    """Search meshes, stored weights, rematerialisation, microbatches and batch sizes.

    Cheapest means: fewest chip-seconds an example by the roofline. All candidates for the batch
    size that is asked for are guessed at, those that cannot fit are left out, and the others are
    compiled in the order of their guessed cost until one fits. (The compiler refuses within
    seconds, and what needs more memory than a refused candidate is not tried.) Where none fits,
    half the batch is tried, and so on.

    Args:
      request: the model, lengths and batch. Its topology is a slice, 'v5e:4x4', or a generation,
        'v5e', for slices of all usual sizes; its mesh, weights, remat, microbatches and
        `shard_weights_over_data` are what is searched for.
      most_compilations: after so many the search gives up.
      tell: is given each plan as soon as it is compiled, for progress.

    Returns:
      The suggestion.

    Raises:
      ValueError: as `plan` does.
    """
    config = find_config(request.model)
    tried: list[Plan] = []
    considered, batch = 0, request.batch_size
    while batch >= 1 and len(tried) < most_compilations:
        candidates = _candidates(dataclasses.replace(request, batch_size=batch, microbatches=1),
                                 config)
        considered += len(candidates)
        for one in candidates:
            if len(tried) >= most_compilations:
                break
            if any(_needs_more(one, made.request) for made in tried):
                continue
            tried.append(plan(one))
            tell(tried[-1])
            if tried[-1].fits:
                return Suggestion(tried[-1], tuple(tried), considered)
        batch //= 2
    return Suggestion(None, tuple(tried), considered)


def describe_suggestion(suggestion: Suggestion) -> str:
    """Write a suggestion as a few lines for people: what was compiled, then the best."""
    lines = [f'{suggestion.considered} candidates, {len(suggestion.tried)} compiled:']
    lines += [f'  {describe_try(one)}' for one in suggestion.tried]
    if suggestion.best is None:
        return '\n'.join([*lines, 'none fits; give more chips, shorter inputs or a smaller batch'])
    return '\n'.join([*lines, '', 'the cheapest that fits:', describe_plan(suggestion.best)])


def _needs_more(one: PlanRequest, refused: PlanRequest) -> bool:
    """Tell whether a candidate keeps all that a refused one keeps, and more."""
    same = dataclasses.replace(one, remat=refused.remat, microbatches=refused.microbatches)
    return (same == refused and one.microbatches <= refused.microbatches
            and _POLICIES.index(one.remat) <= _POLICIES.index(refused.remat))


def _candidates(request: PlanRequest, config: Any) -> list[PlanRequest]:
    """List every way to run a batch size that may fit, in the order of its cost.

    Among equals comes first what changes least and is quickest to compile.
    """
    found = []
    policies, parts = (['none'], [1]) if request.generate else (_POLICIES, _MICROBATCHES)
    slices = [request.topology] if ':' in request.topology else [
        f'{request.topology}:{shape}' for shape in find_chip(request.topology).shapes]
    for topology in slices:
        chip, devices = parse_topology(topology)[0], len(devices_of(topology))
        room = capacity_of(chip)
        for model, weights, over_data in itertools.product(divisors(devices), WEIGHTS,
                                                           (False, True)):
            mesh = {DATA: devices // model, MODEL: model}
            try:
                weight_bytes(config, 'bfloat16', over_data, mesh[DATA], mesh[MODEL])
            except ValueError:  # the mesh does not divide the weights
                continue
            if over_data and mesh[DATA] == 1:
                continue
            for remat, microbatches in itertools.product(policies, parts):
                if request.batch_size % (microbatches * mesh[DATA]):
                    continue
                one = dataclasses.replace(
                    request, topology=topology, mesh=describe(mesh), weights=weights, remat=remat,
                    microbatches=microbatches, shard_weights_over_data=over_data)
                guess = estimate(one, config, mesh, chip)
                cost = guess.chip_seconds_per_example
                if guess.floor_bytes <= room:
                    found.append((one, (float(f'{cost:.2g}'), devices // chip.devices_per_chip,
                                        WEIGHTS.index(weights), over_data, cost, microbatches,
                                        policies.index(remat))))
    return [one for one, _ in sorted(found, key=lambda pair: pair[1])]
