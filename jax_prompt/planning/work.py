"""What a program computes, counted from its jaxpr, and moves, counted from its optimized HLO.

XLA's own `cost_analysis()` counts a loop's body once however often it runs, and what stays in a
core's own memory as if it went through the main memory.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

from jax_prompt.planning.hlo import Array, Computation, Instruction, Module

# They move nothing: names for what is there, control flow whose bodies are counted by themselves,
# and the ends of what a `-start` has begun.
_FREE = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional',
         'call', 'after-all', 'opt-barrier', 'partition-id', 'replica-id', 'async-start',
         'async-update'}
_FREE_CALLS = ('custom_call_target="ConcatBitcast"', 'custom_call_target="AllocateBuffer"')
# They run other computations instruction by instruction.
_RUNS = {'while', 'call', 'conditional', 'async-start'}
# They read of their first operand what they give, and no more.
_SLICES = {'dynamic-slice', 'slice', 'gather'}


def equations(jaxpr: Any, rounds: int | None = None, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Yield every equation of a traced program with how often it runs, those of its loops included.

    Args:
      jaxpr: `jit(...).trace(...).jaxpr`.
      rounds: how often to count a loop whose rounds depend on data (`lax.while_loop`).
      times: how often all of it runs.

    Raises:
      ValueError: there is such a loop and `rounds` is None.
    """
    for equation in jaxpr.eqns:
        yield equation, times
        inner = times * equation.params['length'] if equation.primitive.name == 'scan' else times
        if equation.primitive.name == 'while':
            if rounds is None:
                raise ValueError('the program has a loop whose number of rounds cannot be known; '
                                 'say how many to count')
            inner = times * rounds
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else [value]:
                if hasattr(part, 'eqns'):
                    yield from equations(part, rounds, inner)


def product_flops(jaxpr: Any, rounds: int | None = None) -> int:
    """Count the floating-point operations of a traced program's matrix products, on all devices.

    A multiplication and an addition are two. Elementwise work is left out: it does not run on the
    units whose peak is quoted, and is a percent or two of a T5.

    Args:
      jaxpr, rounds: as for `equations`.

    Returns:
      The number, recomputation included.

    Raises:
      ValueError: as `equations` does.
    """
    total = 0
    for equation, times in equations(jaxpr, rounds):
        if equation.primitive.name == 'dot_general':
            (contracted, _), _ = equation.params['dimension_numbers']
            left = equation.invars[0].aval.shape
            total += times * 2 * equation.outvars[0].aval.size * math.prod(
                left[place] for place in contracted)
    return total


def hbm_bytes(module: Module) -> int:
    """Count the bytes that a compiled program moves between a device's main memory and its core.

    Every instruction reads its operands and writes its result, save what the compiler keeps in
    the core's own memory (layouts marked S(1) and the like). Of an operand that is only
    sliced, such as the stacked weights in a loop over layers, the slice counts.

    Args:
      module: the program, from `read_module`.

    Returns:
      Bytes, without the padding of layouts.

    Raises:
      ValueError: memory is moved in a loop of unknown length.
    """
    scheduled = [module.entry]  # run one by one, not fused into another's
    for name in scheduled:  # which grows meanwhile
        scheduled += [callee for one in module.computations[name].values() if one.opcode in _RUNS
                      for callee in one.called if callee not in scheduled]
    moved = {name: sum(_moved(one, module.computations[name], module)
                       for one in module.computations[name].values()) for name in scheduled}
    return sum(each * module.times(name) for name, each in moved.items() if each)


def _moved(one: Instruction, computation: Computation, module: Module) -> int:
    """Return the bytes that one instruction reads from and writes to main memory."""
    if (one.opcode in _FREE or one.opcode.endswith('-done')
            or any(call in one.attributes for call in _FREE_CALLS)):
        return 0
    operands = [array for name in one.operands if name in computation
                for array in computation[name].arrays]
    if one.opcode == 'slice-start':  # its type is ((source), result, context)
        result = one.arrays[1]
        return result.bytes * (operands[0].in_hbm + result.in_hbm)
    if one.opcode.endswith('-start') and one.opcode != 'all-reduce-start':
        return _bytes(one.arrays)  # source and result both stand in its type
    read, written = _parts(_inside(one, computation, module))
    # Results that are operands as given: a collective fills them while they are handed on.
    passed = {int(result or 0): int(operand) for result, operand in
              re.findall(r'\{(\d*)\}: \((\d+), \{\}', one.attributes)}
    operands = [array for place, array in enumerate(operands) if place not in passed.values()]
    results = [array for place, array in enumerate(one.arrays) if place not in passed]
    return _bytes(operands, read) + _bytes(results, written)


def _inside(one: Instruction, computation: Computation,
            module: Module) -> list[tuple[Instruction, Computation]]:
    """List what an instruction runs, each with its neighbours: itself, or a fusion's inside."""
    if one.opcode != 'fusion':
        return [(one, computation)]
    return [each for callee in one.called
            for inner in module.computations[callee].values()
            for each in _inside(inner, module.computations[callee], module)]


def _parts(inside: list[tuple[Instruction, Computation]]) -> tuple[dict[int, int], dict[int, int]]:
    """Return how much is read, and how much written, of arrays that are sliced or written in part.

    They are known by their size, which a new view of them does not change.
    """
    read: dict[int, int] = {}
    written: dict[int, int] = {}
    for one, computation in inside:
        taken = [array.bytes for name in one.operands[:2] if name in computation
                 for array in computation[name].arrays]
        if one.opcode in _SLICES:
            read[taken[0]] = max(read.get(taken[0], 0), one.arrays[0].bytes)
        elif one.opcode == 'dynamic-update-slice':
            read.setdefault(taken[0], 0)
            written[taken[0]] = max(written.get(taken[0], 0), taken[1])
    return read, written


def _bytes(arrays: list[Array], parts: dict[int, int] | None = None) -> int:
    """Sum the bytes of what stands in main memory, of some arrays a part only."""
    return sum(min(array.bytes, (parts or {}).get(array.bytes, array.bytes))
               for array in arrays if array.in_hbm)
