"""Meshes: the devices as a table with a `data` and a `model` axis.

Rows of the batch are spread over `data`; heads, feed-forward widths and the vocabulary over
`model`. `model` is the inner axis: every layer communicates over it, so its devices are neighbours.
"""

import math
from collections.abc import Mapping, Sequence

import jax
from jax.experimental import mesh_utils

DATA, MODEL = 'data', 'model'
AXES = (DATA, MODEL)

#: The size that stands for all devices that the other axis leaves.
REST = -1


def make_mesh(spec: str = 'data:-1,model:1',
              devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Arrange the devices.

    Args:
      spec: sizes of the axes, 'data:4,model:2'. One may be -1, for what the other leaves; an axis
        that is not named has the size 1.
      devices: all are used; None for every device of every process. May be the devices of an
        ahead-of-time topology.

    Returns:
      A mesh with the axes 'data' and 'model', of any size from 1. On a TPU neighbours in the mesh
      are neighbours in the torus where the sizes allow.

    Raises:
      ValueError: what is wrong with the sizes, in one line.

    Example:
      >>> dict(make_mesh('data:-1', jax.devices()[:1]).shape)
      {'data': 1, 'model': 1}
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = _without_rest(_parse(spec), len(devices))
    shape = tuple(sizes[axis] for axis in AXES)
    # v5e's 4x4 chips make a 2x8 mesh only if one of their two axes may be split.
    table = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    return jax.sharding.Mesh(table, AXES)


def describe(sizes: Mapping[str, int]) -> str:
    """Write sizes as `make_mesh` reads them: {'data': 4, 'model': 2} -> 'data:4,model:2'."""
    return ','.join(f'{axis}:{size}' for axis, size in sizes.items())


def divisors(number: int) -> list[int]:
    """List the divisors of a positive number, the smallest first."""
    return [d for d in range(1, number + 1) if number % d == 0]


def one_of(choices: Sequence[int]) -> str:
    """Write choices as words: [1, 2, 4] -> '1, 2 or 4'."""
    words = [str(choice) for choice in choices]
    return ' or '.join([', '.join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _parse(spec: str) -> dict[str, int]:
    """Return the size of every axis, as it was written; the axes in the order of `AXES`."""
    sizes: dict[str, int] = {}
    for part in spec.split(','):
        axis, _, written = (word.strip() for word in part.partition(':'))
        try:
            size = int(written)
        except ValueError:
            raise ValueError(f'mesh {spec!r} cannot be read at {part.strip()!r}; '
                             "write axis:size pairs, such as 'data:4,model:2'") from None
        if axis not in AXES:
            raise ValueError(f'mesh {spec!r} names the axis {axis!r}; '
                             f'the axes of a mesh are {" and ".join(AXES)}')
        if axis in sizes:
            raise ValueError(f'mesh {spec!r} names the axis {axis!r} twice; name it once')
        if size < 1 and size != REST:
            raise ValueError(f'mesh {spec!r} gives {axis} the size {size!r}; expected a '
                             'positive whole number, or -1 for what the other axis leaves')
        sizes[axis] = size
    return {axis: sizes.get(axis, 1) for axis in AXES}


def _without_rest(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Put a number in the place of -1, and check that all devices are used."""
    written = describe(sizes)
    unknown = [axis for axis, size in sizes.items() if size == REST]
    if len(unknown) > 1:
        raise ValueError(f'mesh {written} leaves both sizes open; give at least one of them')
    if not unknown:
        if math.prod(sizes.values()) != count:
            raise ValueError(
                f'mesh {written} has {math.prod(sizes.values())} places for {count} devices; '
                f'choose sizes whose product is {count}, or -1 for one of them')
        return sizes
    (known, size), = ((axis, size) for axis, size in sizes.items() if size != REST)
    if count % size:
        raise ValueError(f'mesh {written} cannot be made of {count} devices; '
                         f'choose {known}:{one_of(divisors(count))}')
    return sizes | {unknown[0]: count // size}
