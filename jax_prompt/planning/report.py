"""Plans as text."""

import dataclasses

from jax_prompt.planning.planner import Plan, Speed
from jax_prompt.planning.topology import parse_topology

#: What of a `Memory` adds up to the total.
_PARTS = ('weights', 'other_arguments', 'results', 'temporaries', 'program')


def describe(plan: Plan) -> str:
    """Write a plan as a few lines for people.

    Args:
      plan: from `plan`.

    Returns:
      Lines, the verdict first.
    """
    request, memory = plan.request, plan.memory
    what = 'generation' if request.generate else 'training'
    verdict = (f'fits: {_gib(memory.total)} of {_gib(memory.capacity)} GiB a device' if plan.fits
               else f'does not fit: {_gib(memory.exceeded)} GiB too much on every device '
                    f'({_gib(memory.total)} needed, {_gib(memory.capacity)} there)')
    lines = [f'{what} {request.model}, {request.weights} weights, on {request.topology} '
             f'({plan.chips} {"chip" if plan.chips == 1 else "chips"}), mesh {request.mesh}',
             ', '.join([f'batch {request.batch_size} x ({request.inputs_length} inputs + '
                        f'{request.prompt_length} prompt rows), {request.targets_length} targets',
                        *_extras(plan)]), verdict,
             'GiB a device: ' + ', '.join(
                 f'{name.replace("_", " ")} {_gib(size)}'
                 for name, size in dataclasses.asdict(memory).items() if size and name in _PARTS)]
    lines += _speed_lines(plan, plan.speed) if plan.speed else []
    return '\n'.join([*lines, f'compiled in {plan.compile_seconds:.0f} s'])


def describe_try(plan: Plan) -> str:
    """Write a plan in one line."""
    request, memory = plan.request, plan.memory
    what = [request.topology, f'mesh {request.mesh}', f'batch {request.batch_size}',
            request.weights, *_extras(plan)]
    if not plan.fits:
        return f'{", ".join(what)}: {_gib(memory.exceeded)} GiB too much'
    return (f'{", ".join(what)}: fits, {_gib(memory.total)} of {_gib(memory.capacity)} GiB, at '
            f'least {_seconds(plan.speed.chip_seconds_per_example)} of a chip an example')


def _extras(plan: Plan) -> list[str]:
    request = plan.request
    extras = [f'a prefix of {request.prefix_length}'] if request.prefix_length else []
    extras += [] if request.generate else [f'remat {request.remat}']
    extras += [f'{request.microbatches} microbatches'] if request.microbatches > 1 else []
    return extras + (['weights over data too'] if request.shard_weights_over_data else [])


def _speed_lines(plan: Plan, speed: Speed) -> list[str]:
    chip, _ = parse_topology(plan.request.topology)
    run = 'a batch' if plan.request.generate else 'a step'
    return [
        f'work a device and {run[2:]}: {speed.flops / 1e12:.4g} TFLOP in products, '
        f'{speed.hbm_bytes / 1e9:.4g} GB through HBM, {speed.sent_bytes / 1e9:.4g} GB sent',
        *(f'  over {axes}: ' + ', '.join(f'{operation} {size:,} bytes'
                                         for operation, size in by_operation.items())
          for axes, by_operation in sorted(speed.collectives.items())),
        f'at least {_seconds(speed.seconds)} {run}, bound by {speed.bound} '
        f'(compute {_seconds(speed.compute_seconds)}, HBM {_seconds(speed.hbm_seconds)}, '
        f'interconnect {_seconds(speed.interconnect_seconds)}): at most '
        f'{plan.request.batch_size / speed.seconds:.4g} examples/s',
        f'figures of the chip: {chip.source}',
    ]


def _gib(size: int) -> str:
    return f'{size / 2**30:.2f}'


def _seconds(seconds: float) -> str:
    return f'{seconds * 1e3:.4g} ms' if seconds < 1 else f'{seconds:.4g} s'
