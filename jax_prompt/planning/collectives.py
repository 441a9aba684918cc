"""What a compiled program sends between devices, read from its optimized HLO.

Every collective instruction names the groups of devices that take part; on a mesh, the axes along
which the members of a group differ are the axes that it runs over.

Instructions in a loop's body count as often as the loop runs: XLA for CPU and GPU writes the number
of rounds beside a loop (`known_trip_count`); for TPU it is read from the loop's counter, which for
every `lax.scan` goes from one constant to another. A collective in a loop whose rounds are not
known is an error, since no number would be right. All branches of a conditional count, so where
there is one the bytes are an upper bound.
"""

import dataclasses
import re
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jax_prompt.planning.hlo import (
    Computation,
    Instruction,
    executions,
    read_module,
    type_bytes,
)
from jax_prompt.planning.replica_groups import read_groups

OPERATIONS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all',
              'collective-permute', 'collective-broadcast')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction of a compiled program.

    Attributes:
      name: of the instruction.
      operation: one of `OPERATIONS`.
      axes: the mesh axes that it runs over.
      bytes: of the whole array, on each device, of one execution: what is reduced (all-reduce,
        reduce-scatter), what is there after gathering (all-gather), what is sent on (all
        others). A ring moves (n-1)/n of it over every link for n devices in a group,
        twice that for an all-reduce.
      group_size: n.
      times: how often it is executed in one run of the program.
    """

    name: str
    operation: str
    axes: tuple[str, ...]
    bytes: int
    group_size: int
    times: int


def collective_bytes(compiled: Any, mesh: Mesh,
                     rounds: int | None = None) -> dict[str, dict[str, int]]:
    """Sum what a compiled program sends, by mesh axis and operation.

    Args:
      compiled: what `jit(...).lower(...).compile()` returns, or its HLO text.
      mesh: the mesh that its arguments live on.
      rounds: how often to count a loop whose rounds cannot be read.

    Returns:
      Axis -> operation -> bytes a device and run, as counted by `Collective.bytes`. Collectives
      over both axes at once are under 'data+model'.

    Raises:
      ValueError: see `collectives`.
    """
    totals: dict[str, dict[str, int]] = {}
    for one in collectives(compiled, mesh, rounds):
        by_operation = totals.setdefault('+'.join(one.axes), {})
        by_operation[one.operation] = by_operation.get(one.operation, 0) + one.bytes * one.times
    return totals


def axis_bytes(totals: dict[str, dict[str, int]], axis: str) -> int:
    """Sum all bytes that cross an axis, alone or together with others.

    Args:
      totals: from `collective_bytes`.
      axis: 'data' or 'model'.

    Returns:
      Bytes a device and run.
    """
    return sum(sum(by_operation.values()) for axes, by_operation in totals.items()
               if axis in axes.split('+'))


def collectives(compiled: Any, mesh: Mesh, rounds: int | None = None) -> list[Collective]:
    """List the collectives of a compiled program that more than one device takes part in.

    Args:
      compiled: what `jit(...).lower(...).compile()` returns, or its HLO text.
      mesh: the mesh that its arguments live on.
      rounds: how often to count a loop whose rounds cannot be read.

    Returns:
      The instructions, in the order of the text. The parts of an asynchronous one count once.

    Raises:
      ValueError: a form of groups, an element type or an operand that this reader does not know, or
        a collective in a loop of unknown length where `rounds` is None.
    """
    module = read_module(compiled if isinstance(compiled, str) else compiled.as_text())
    times = executions(module, rounds)
    begun = {_channel(one) for instructions in module.computations.values()
             if _begins(instructions) for one in instructions.values()} - {''}
    found = []
    for computation, instructions in module.computations.items():
        for instruction in instructions.values():
            operation = instruction.opcode.removesuffix('-start')
            if _channel(instruction) in begun and not _begins(instructions):
                continue
            if operation in OPERATIONS and times[computation] != 0:
                count = times[computation]
                if count is None:
                    raise ValueError(f'{instruction.name} is in a loop whose number of rounds '
                                     'cannot be known; its bytes cannot be counted')
                found += _collective(operation, instruction, instructions, mesh, count)
    return found


def _begins(instructions: Computation) -> bool:
    """Tell whether a computation begins a collective that others carry on.

    The TPU compiler spreads one over the fusions that run meanwhile: each of them, and the one that
    ends it, has a copy of the instruction, of the same channel.
    """
    return any('"AsyncCollectiveStart"' in one.attributes for one in instructions.values())


def _channel(instruction: Instruction) -> str:
    """Return the number of a collective's channel, or '' where it has none."""
    if instruction.opcode.removesuffix('-start') not in OPERATIONS:
        return ''
    found = re.search(r'\bchannel_id=(\d+)', instruction.attributes)
    return found[1] if found else ''


def _collective(operation: str, instruction: Instruction, others: Computation,
                mesh: Mesh, times: int) -> list[Collective]:
    """Describe one collective; an empty list where every device is alone in its group."""
    groups = read_groups(instruction.attributes, mesh.size)
    size = max(map(len, groups), default=1)
    if size == 1:
        return []
    unknown = [name for name in instruction.operands if name not in others]
    if unknown or not instruction.operands:
        raise ValueError(f'{instruction.name} has operands that are not defined before it: '
                         f'{unknown}')
    number = sum(type_bytes(others[name].type) for name in instruction.operands)
    if operation == 'all-gather':
        number *= size
    return [Collective(instruction.name, operation, _axes(groups, mesh), number, size,
                       times)]


def _axes(groups: list[list[int]], mesh: Mesh) -> tuple[str, ...]:
    """Return the mesh axes along which the members of a group differ.

    Ids in a partitioned program are places in the mesh, row after row.
    """
    varying = set()
    for group in groups:
        places = np.stack(np.unravel_index(group, tuple(mesh.shape.values())))
        varying |= {axis for axis, along in zip(mesh.shape, places, strict=True)
                    if len(set(along.tolist())) > 1}
    return tuple(axis for axis in mesh.shape if axis in varying)
