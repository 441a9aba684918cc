"""What a compiled program sends between devices, read from its optimized HLO.

Every collective instruction names the groups of devices that take part; on a mesh, the axes along
which the members of a group differ are the axes that it runs over. Instructions in a loop's body
count as often as the loop runs. All branches of a conditional count, so where there is one the
bytes are an upper bound.
"""

import dataclasses
import math
import re

import numpy as np
from jax.sharding import Mesh

from jax_prompt.planning.hlo import Module

OPERATIONS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'ragged-all-to-all',
              'collective-permute', 'collective-broadcast')

_EXPLICIT = re.compile(r'\{((?:\{[\d,]*\},?)*)\}')
_ORDERED = r'\[(?P<shape>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?'
_IOTA = re.compile(r'\[(?P<groups>[\d,]+)\]<=' + _ORDERED)
_MESH = re.compile(r"mesh\[(?P<axes>[^\]]*)\](?:, device_ids=\(" + _ORDERED
                   + r"\))? \{(?P<over>[^}:]*)\}")
_CHANNEL = re.compile(r'\bchannel_id=(\d+)')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction of a compiled program.

    Attributes:
      operation: one of `OPERATIONS`.
      axes: the mesh axes that it runs over.
      bytes: of the whole array, on each device, of one execution: what is reduced (all-reduce,
        reduce-scatter), what is there after gathering (all-gather), what is sent on (all others).
      group_size: how many devices take part together.
      times: how often it is executed in one run of the program.
    """

    operation: str
    axes: tuple[str, ...]
    bytes: int
    group_size: int
    times: int

    @property
    def sent_bytes(self) -> int:
        """Return the bytes that a device has to send for it in one run of the program.

        Source: Patarasuk & Yuan 2009, doi:10.1016/j.jpdc.2008.09.002, section 3: an all-reduce
        among n costs each at least 2 (n - 1) / n of the array, its two halves one each.
        """
        if self.operation in ('collective-permute', 'collective-broadcast'):
            return self.bytes * self.times
        halves = 2 if self.operation == 'all-reduce' else 1
        return math.ceil(halves * self.bytes * (self.group_size - 1) / self.group_size) * self.times


def read_collectives(module: Module, mesh: Mesh) -> list[Collective]:
    """List the collectives of a compiled program that more than one device takes part in.

    The TPU compiler spreads one over the fusions that run meanwhile, in a loop as well: each has a
    copy of the instruction, of the same channel. It counts once, as often as it begins.

    Args:
      module: the program, from `read_module`.
      mesh: the mesh that its arguments live on.

    Returns:
      The collectives, in the order of the text. The parts of an asynchronous one count once.

    Raises:
      ValueError: a form of groups or an element type that this reader does not know, or a
        collective in a loop of unknown length.
    """
    found: dict[str, Collective] = {}
    for computation, instructions in module.computations.items():
        for one in instructions.values():
            operation = one.opcode.removesuffix('-start')
            if operation not in OPERATIONS:
                continue
            groups = read_groups(one.attributes, mesh.size)
            size = max(map(len, groups))
            sent = sum(array.bytes for operand in one.operands
                       for array in instructions[operand].arrays)
            sent *= size if operation == 'all-gather' else 1
            if size > 1 and (times := module.times(computation)):
                channel = _CHANNEL.search(one.attributes)
                key = channel[1] if channel else one.name
                times = min(times, found[key].times) if key in found else times
                found[key] = Collective(operation, _axes(groups, mesh), sent, size, times)
    return list(found.values())


def sum_bytes(collectives: list[Collective]) -> dict[str, dict[str, int]]:
    """Sum the bytes of one run of a program by mesh axis and operation.

    Args:
      collectives: from `read_collectives`.

    Returns:
      Axis -> operation -> bytes a device, as counted by `Collective.bytes`. Collectives over both
      axes at once are under 'data+model'.
    """
    totals: dict[str, dict[str, int]] = {}
    for one in collectives:
        by_operation = totals.setdefault('+'.join(one.axes), {})
        by_operation[one.operation] = by_operation.get(one.operation, 0) + one.bytes * one.times
    return totals


def read_groups(attributes: str, count: int) -> list[list[int]]:
    """Read which devices take part in a collective together, in each form that XLA writes it.

        {{0,1},{2,3}}             the groups themselves; {} is one group of all
        [2,4]<=[4,2]T(1,0)        0..7 as a [4, 2] array, transposed, in two groups of four
        mesh['a'=4,'b'=2] {'a'}   all places of the mesh that differ along axis 'a' alone

    Args:
      attributes: what follows an instruction's operands in HLO, with `replica_groups=` or, for a
        collective-permute, `source_target_pairs=`, whose pairs are groups of two.
      count: devices of the mesh; without any group all of them are one.

    Returns:
      The groups, of places in the program's device order.

    Raises:
      ValueError: the groups are in a form that is not known here.
    """
    text = re.split('source_target_pairs=|replica_groups=', attributes, maxsplit=1)[-1]
    if found := _EXPLICIT.match(text):
        groups = [sorted(set(_numbers(group))) for group in re.findall(r'\{([\d,]+)\}', found[1])]
        return groups or [list(range(count))]
    if found := _IOTA.match(text):
        return _arranged(found, count).reshape(_numbers(found['groups'])).tolist()
    if found := _MESH.match(text):
        sizes = dict(re.findall(r"('\w+')=(\d+)", found['axes']))
        inside = [axis in found['over'].split(',') for axis in sizes]
        ids = _arranged(found, count).reshape([int(size) for size in sizes.values()])
        members = math.prod(np.compress(inside, ids.shape))
        return ids.transpose(np.argsort(inside, kind='stable')).reshape(-1, members).tolist()
    raise ValueError(f'replica groups in a form that is not known here: {text[:80]!r}')


def _arranged(found: re.Match, count: int) -> np.ndarray:
    """Read [4,2]T(1,0): the numbers from 0 in that shape, its axes in that order."""
    shape = _numbers(found['shape'] or str(count))
    order = _numbers(found['order']) if found['order'] else None
    return np.arange(math.prod(shape)).reshape(shape).transpose(order)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(',')]


def _axes(groups: list[list[int]], mesh: Mesh) -> tuple[str, ...]:
    """Return the mesh axes along which the members of a group differ.

    Ids in a partitioned program are places in the mesh, row after row.
    """
    varying = set()
    for group in groups:
        places = np.unravel_index(group, tuple(mesh.shape.values()))
        varying |= {axis for axis, along in zip(mesh.shape, places, strict=True)
                    if len(set(along.tolist())) > 1}
    return tuple(axis for axis in mesh.shape if axis in varying)
