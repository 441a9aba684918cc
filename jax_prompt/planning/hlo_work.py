"""What a compiled program computes and moves, counted from its optimized HLO.

XLA's own `cost_analysis()` counts a loop's body once however often it runs, so a scan over 24
layers looks like one layer. Here every instruction counts as often as its computation runs, by the
same formulas as XLA's `HloCostAnalysis`.
"""

import math
import re
from typing import Any

from jax_prompt.planning.hlo import (
    Computation,
    Instruction,
    Module,
    array_shape,
    executions,
    read_module,
    type_parts,
)

# They move nothing: names for what is there, control flow whose bodies are counted by themselves,
# and the ends of what a `-start` has begun.
_FREE = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional',
         'call', 'after-all', 'opt-barrier', 'partition-id', 'replica-id', 'async-start',
         'async-update', 'async-done'}
_FREE_CALLS = ('custom_call_target="ConcatBitcast"', 'custom_call_target="AllocateBuffer"')
# A fusion in a fusion that lays the same bytes out anew (int8 weights on TPU): nothing moves yet.
_VIEW = 'output_to_operand_aliasing={{}: (0, {})}'
# Who runs other computations instruction by instruction, and as what it names them.
_RUNS = {'while': ('body', 'condition'), 'call': ('to_apply',), 'async-start': ('calls',),
         'conditional': ('true_computation', 'false_computation')}
# They read of their first operand what they give, and no more.
_SLICES = {'dynamic-slice', 'slice', 'gather'}
_WINDOW = re.compile(r'\bwindow=\{([^}]*)\}')
_LABELS = re.compile(r'\bdim_labels=(\w+)_(\w+)->(\w+)')


def product_flops(compiled: Any, rounds: int | None = None) -> int:
    """Count the floating-point operations of a compiled program's matrix products, on one device.

    A multiplication and an addition are two. Elementwise work is left out: it does not run on the
    units whose peak is quoted, and is a percent or two of a T5.

    Args:
      compiled: what `jit(...).lower(...).compile()` returns, or its HLO text.
      rounds: how often to count a loop whose rounds cannot be read.

    Returns:
      The number, loops as often as they run, recomputation included.

    Raises:
      ValueError: a product is in a loop whose rounds cannot be read, and `rounds` is None.
    """
    module = _module(compiled)
    total = 0
    for name, times in executions(module, rounds).items():
        computation = module.computations[name]
        for one in computation.values():
            if one.opcode in ('convolution', 'dot') and times != 0:
                count = _convolution if one.opcode == 'convolution' else _dot
                total += _known(times, one) * count(one, computation)
    return total


def hbm_bytes(compiled: Any, rounds: int | None = None) -> int:
    """Count the bytes that a compiled program moves between a device's main memory and its core.

    Every instruction reads its operands and writes its result, save what the compiler keeps in
    the core's own memory (layouts marked S(1) and the like). Of an operand that is only
    sliced, such as the stacked weights in a loop over layers, the slice counts.

    Args:
      compiled: what `jit(...).lower(...).compile()` returns, or its HLO text.
      rounds: how often to count a loop whose rounds cannot be read.

    Returns:
      Bytes, without the padding of layouts.

    Raises:
      ValueError: memory is moved in a loop whose rounds cannot be read, and `rounds` is None.
    """
    module = _module(compiled)
    times = executions(module, rounds)
    total = 0
    for name in _scheduled(module):
        computation = module.computations[name]
        for one in computation.values():
            moved = _moved(one, computation, module)
            if moved and times[name] != 0:
                total += _known(times[name], one) * moved
    return total


def _module(compiled: Any) -> Module:
    return read_module(compiled if isinstance(compiled, str) else compiled.as_text())


def _known(times: int | None, instruction: Instruction) -> int:
    if times is None:
        raise ValueError(f'{instruction.name} is in a loop whose number of rounds cannot be known; '
                         'say how many to count')
    return times


def _dot(one: Instruction, computation: Computation) -> int:
    """Two operations for every element of the result and of the contracted dimensions."""
    left = array_shape(computation[one.operands[0]].type)
    found = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', one.attributes)
    contracted = [int(place) for place in found[1].split(',') if place] if found else []
    return 2 * math.prod(array_shape(one.type)) * math.prod(left[place] for place in contracted)


def _convolution(one: Instruction, computation: Computation) -> int:
    """Count as XLA does: pairs of output and window positions that meet a real input.

    The TPU compiler writes batched products as convolutions with holes and margins in which most
    pairs meet none.
    """
    left, right = (array_shape(computation[name].type) for name in one.operands[:2])
    lhs, rhs, out = _LABELS.search(one.attributes).groups()
    window = _WINDOW.search(one.attributes)
    window = dict(part.split('=') for part in window[1].split()) if window else {}
    shape = array_shape(one.type)
    pairs = 1
    for axis, place in enumerate(sorted(label for label in lhs if label.isdigit())):
        stride, margin, hole, spread = (
            int(re.match(r'-?\d+', window[name].split('x')[axis])[0]) if name in window else default
            for name, default in (('stride', 1), ('pad', 0), ('lhs_dilate', 1), ('rhs_dilate', 1)))
        pairs *= sum(_meetings(shape[out.index(place)], left[lhs.index(place)], stride, hole,
                               margin - spread * reach)
                     for reach in range(right[rhs.index(place)]))
    groups = re.search(r'\bbatch_group_count=(\d+)', one.attributes)
    rows = left[lhs.index('b')] // (int(groups[1]) if groups else 1)
    # The kernel's input features are those of one feature group already.
    return 2 * rows * right[rhs.index('i')] * right[rhs.index('o')] * pairs


def _meetings(outputs: int, inputs: int, stride: int, hole: int, shift: int) -> int:
    """Count the outputs o whose o * stride - shift is the place of an input, a multiple of hole."""
    common = math.gcd(stride, hole)
    if shift % common:
        return 0
    period = hole // common
    first = shift // common * pow(stride // common, -1, period) % period
    lowest = max(0, -(-shift // stride))
    highest = min(outputs - 1, (shift + hole * (inputs - 1)) // stride)
    if highest < lowest:
        return 0
    return (highest - first) // period - (lowest - 1 - first) // period


def _scheduled(module: Module) -> list[str]:
    """List the computations whose instructions are run one by one, not fused into another's."""
    found, waiting = [], [module.entry]
    while waiting:
        name = waiting.pop()
        if name in found or name not in module.computations:
            continue
        found.append(name)
        for one in module.computations[name].values():
            waiting += [one.computation(role) for role in _RUNS.get(one.opcode, ())]
            branches = re.search(r'branch_computations=\{([^}]*)\}', one.attributes)
            waiting += re.findall(r'[\w.-]+', branches[1]) if branches else []
    return found


def _moved(one: Instruction, computation: Computation, module: Module) -> int:
    """Return the bytes that one instruction reads from and writes to main memory."""
    if (one.opcode in _FREE or one.opcode.endswith('-done')
            or any(call in one.attributes for call in _FREE_CALLS)):
        return 0
    if one.opcode == 'slice-start':  # its type is ((source), result, context)
        source, result = _main(computation[one.operands[0]].type), type_parts(one.type)[1]
        return (result.bytes if source else 0) + (result.bytes if result.main else 0)
    if one.opcode.endswith('-start') and one.opcode != 'all-reduce-start':
        return _main(one.type)  # source and result both stand in its type
    if one.opcode == 'fusion':
        return _fusion(one, computation, module)
    taken = [computation[name].type for name in one.operands if name in computation]
    if one.opcode == 'dynamic-update-slice':
        return 2 * _main(taken[1]) if _main(taken[0]) else 0
    if one.opcode in _SLICES:
        size = sum(part.bytes for part in type_parts(one.type))
        return (size if _main(taken[0]) else 0) + _main(one.type) + sum(map(_main, taken[1:]))
    return _main(one.type) + sum(map(_main, taken))


def _fusion(one: Instruction, computation: Computation, module: Module) -> int:
    """Return what a fusion reads and writes, by how its inside uses each operand."""
    inside = module.computations[one.computation('calls')]
    passed = _passed_on(one, inside)
    read = sum(min(size, _read(index, inside, module, size))
               for index, name in enumerate(one.operands)
               if name in computation and (size := _main(computation[name].type))
               and index not in passed.values())
    parts = zip(type_parts(one.type), _written(inside, module), strict=False)
    return read + sum(min(part.bytes, written) for index, (part, written) in enumerate(parts)
                      if part.main and index not in passed)


def _passed_on(one: Instruction, inside: Computation) -> dict[int, int]:
    """Return the results of a fusion that carries a collective on which are its operands as given.

    Result -> operand. Other fusions may write into an operand in place; these only hand buffers to
    the next, while the collective fills them.
    """
    if not any('channel_id=' in each.attributes for each in inside.values()):
        return {}
    pairs = re.findall(r'\{(\d*)\}: \((\d+), \{\}', one.attributes)
    return {int(result or 0): int(operand) for result, operand in pairs}


def _read(index: int, inside: Computation, module: Module, whole: int) -> int:
    """Return how many bytes of its parameter a fused computation reads."""
    parameter = next((one.name for one in inside.values()
                      if one.opcode == 'parameter' and one.arguments.strip() == str(index)), None)
    total, names = 0, [parameter]
    while names:
        name = names.pop()
        for user in inside.values():
            places = [place for place, taken in enumerate(user.operands) if taken == name]
            if not places:
                continue
            if user.opcode == 'bitcast' or _VIEW in user.attributes:
                names.append(user.name)
            elif user.opcode in _SLICES and places == [0]:
                total += sum(part.bytes for part in type_parts(user.type))
            elif user.opcode == 'fusion':
                within = module.computations[user.computation('calls')]
                total += sum(_read(place, within, module, whole) for place in places)
            elif user.opcode != 'dynamic-update-slice' or places != [0]:
                return whole
    return total


def _written(inside: Computation, module: Module) -> list[int]:
    """Return the bytes that each part of a fused computation's result has written."""
    root = next(one for one in inside.values() if one.root)
    parts = [inside[name] for name in root.operands] if root.opcode == 'tuple' else [root]
    sizes = []
    for part in parts:
        while part.opcode == 'bitcast' and part.operands[0] in inside:
            part = inside[part.operands[0]]
        if part.opcode == 'dynamic-update-slice':
            sizes.append(sum(one.bytes for one in type_parts(inside[part.operands[1]].type)))
        elif part.opcode == 'fusion':
            sizes += _written(module.computations[part.computation('calls')], module)
        else:
            sizes += [one.bytes for one in type_parts(part.type)]
    return sizes


def _main(type_text: str) -> int:
    """Sum the bytes of a type that stand in main memory."""
    return sum(part.bytes for part in type_parts(type_text) if part.main)
