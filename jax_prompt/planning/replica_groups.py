"""The devices that take part in one collective, in each of the forms that XLA writes them.

    {{0,1},{2,3}}                  the groups themselves; {} is one group of all
    [2,4]<=[4,2]T(1,0)             0..7 as a [4, 2] array, transposed, in two groups of four
    mesh['a'=4,'b'=2] {'a'}        all places of the mesh that differ along axis 'a' alone

The last two are explained in XLA's `hlo/ir/replica_group.h`.
"""

import math
import re

import numpy as np

_EXPLICIT = re.compile(r'\{((?:\{[\d,]*\},?)*)\}')
_IOTA = re.compile(r'\[(?P<groups>[\d,]+)\]<=\[(?P<shape>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?')
_MESH = re.compile(r"@?mesh[\[<](?P<axes>[^\]>]*)[\]>]"
                   r"(?:, ?device_ids=\((?P<devices>(?:[^()]|\([^()]*\))*)\))?"
                   r" ?\{(?P<over>[^}]*)\}")


def read_groups(attributes: str, count: int) -> list[list[int]]:
    """Read which devices take part in a collective together.

    Args:
      attributes: what follows an instruction's operands in HLO, with `replica_groups=` or, for a
        collective-permute, `source_target_pairs=`, whose pairs are groups of two.
      count: devices of the mesh; without any group all of them are one.

    Returns:
      The groups, of places in the program's device order.

    Raises:
      ValueError: the groups are in a form that is not known here.
    """
    _, permuted, pairs = attributes.partition('source_target_pairs=')
    if permuted:
        return [sorted(set(pair)) for pair in _explicit(_EXPLICIT.match(pairs))]
    text = attributes.partition('replica_groups=')[2]
    if found := _EXPLICIT.match(text):
        return _explicit(found) or [list(range(count))]
    if found := _IOTA.match(text):
        ids = np.arange(math.prod(_numbers(found['shape']))).reshape(_numbers(found['shape']))
        ids = ids.transpose(_numbers(found['order'])) if found['order'] else ids
        return ids.reshape(_numbers(found['groups'])).tolist()
    if found := _MESH.match(text):
        return _mesh_groups(found)
    raise ValueError(f'replica groups in a form that is not known here: {text[:80]!r}')


def _explicit(found: re.Match) -> list[list[int]]:
    """Read {{0,1},{2,3}}."""
    return [_numbers(group) for group in re.findall(r'\{([\d,]+)\}', found[1])]


def _mesh_groups(found: re.Match) -> list[list[int]]:
    """Read mesh['a'=4,'b'=2] {'a'}: all places that differ along the named axes form a group.

    An axis may be a part of one: 'a':(2)4 is the factor 4 of 'a' that stands after a factor 2.
    """
    axes = re.findall(r"'?([\w.-]+)'?=(\d+)", found['axes'])
    shape = [int(size) for _, size in axes]
    ids = _mesh_devices(found['devices'], math.prod(shape))
    # Split every axis where a part of it is named: before, the part, after.
    parts = {name: (int(before or 1), int(size) if size else None) for name, before, size in
             re.findall(r"'?([\w.-]+)'?(?::\((\d+)\)(\d+))?(?:,|$)", found['over'])}
    factors, inside = [], []
    for name, size in ((name, int(size)) for name, size in axes):
        before, part = parts.get(name, (1, 1))
        part = size // before if part is None else part
        factors += [before, part, size // before // part]
        inside.append(len(factors) - 2)
    outside = [i for i in range(len(factors)) if i not in inside]
    members = math.prod(factors[i] for i in inside)
    return ids.reshape(factors).transpose(outside + inside).reshape(-1, members).tolist()


def _mesh_devices(text: str | None, count: int) -> np.ndarray:
    """Return the places of a mesh in its order: 0, 1, 2..., a list, or [4,16]T(1,0)."""
    if text is None:
        return np.arange(count)
    if found := re.fullmatch(r'\[([\d,]+)\](?:T\(([\d,]+)\))?', text):
        ids = np.arange(count).reshape(_numbers(found[1]))
        return (ids.transpose(_numbers(found[2])) if found[2] else ids).reshape(-1)
    return np.array(_numbers(text))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(',') if number]
