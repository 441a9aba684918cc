"""TPUs that are not here: their devices, and what their compiler says of their memory.

libtpu holds the compiler for every generation and needs no TPU to run it. What it reads from the
environment must stand there before it is loaded, which is why this is done here and not by users.
"""

import functools
import importlib.util
import math
import os
import re

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from jax_prompt.files import first_line
from jax_prompt.planning.chips import CHIPS, Chip

#: What libtpu looks for on a machine without TPUs: nothing, in few words.
_ENVIRONMENT = {
    'TPU_SKIP_MDS_QUERY': '1',  # ask no metadata server which TPU this is
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # take no lock: compilers in other processes do no harm
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-1',
    'TPU_MIN_LOG_LEVEL': '3',
    'TPU_STDERR_LOG_LEVEL': '3',
}
_NAME = re.compile(r'(?P<chip>[a-z0-9]+):(?P<shape>\d+(?:x\d+){0,2})')
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40, 'P': 2**50}
_SIZE = r'([\d.]+)([KMGTP]?)(?:i?B)?'
_USED = re.compile(rf'Used {_SIZE} of {_SIZE} hbm')
_REQUIRED = re.compile(rf'total memory required for [\w ]*\({_SIZE}\) '
                       rf'exceeds available HBM \({_SIZE}\)')


def parse_topology(name: str) -> tuple[Chip, str]:
    """Split a topology's name into its chip and its shape.

    Args:
      name: 'v5e:4x4', 'v4:2x2x2'; the shape counts chips.

    Returns:
      (the chip's figures, '4x4').

    Raises:
      ValueError: the name is malformed, the generation not known, or there are no such slices.
    """
    found = _NAME.fullmatch(name)
    if not found:
        raise ValueError(f'topology {name!r} cannot be read; write generation:shape, '
                         "such as 'v5e:4x4' or 'v4:2x2x1'")
    chip, sizes = find_chip(found['chip']), [int(size) for size in found['shape'].split('x')]
    # libtpu describes slices that nobody has, and dies of some.
    if len(sizes) > chip.dimensions or any(size not in (1, 2) and size % 4 for size in sizes) or (
            not 1 <= math.prod(sizes) <= chip.pod):
        raise ValueError(f'there is no topology {name!r}: expected at most {chip.dimensions} sizes '
                         f'of 1, 2 or a multiple of 4 and at most {chip.pod} chips, such as '
                         f'{", ".join(f"{chip.name}:{shape}" for shape in chip.shapes)}')
    return chip, found['shape']


def find_chip(name: str) -> Chip:
    """Return the figures of a generation, 'v5e'.

    Raises:
      ValueError: it is not known.
    """
    if name not in CHIPS:
        raise ValueError(f'TPU {name!r} is not known here; choose one of {", ".join(CHIPS)}')
    return CHIPS[name]


def devices_of(name: str) -> list[jax.Device]:
    """Return the devices of a slice that need not exist, to compile for.

    Args:
      name: 'v5e:4x4', 'v4:2x2x2'; the shape counts chips.

    Returns:
      The devices.

    Raises:
      ValueError: libtpu is not installed, or there is no such slice.
    """
    chip, shape = parse_topology(name)
    if importlib.util.find_spec('libtpu') is None:
        raise ValueError('planning needs the TPU compiler, which is not installed; '
                         "pip install 'jax-prompt[tpu]' (no TPU is needed)")
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    # A single chip or row is not made of whole hosts of 2x2 chips.
    odd = any(size == '1' for size in shape.split('x')[:2])
    options = {'chip_config_name': chip.config} if chip.config else {}
    options |= {'chips_per_host_bounds': (1, 1, 1)} if odd else {}
    try:
        return list(topologies.get_topology_desc(
            platform='tpu', topology_name=name, **options).devices)
    except (jax.errors.JaxRuntimeError, RuntimeError, ValueError) as error:
        reason = first_line(error).removeprefix('INVALID_ARGUMENT: ')
        raise ValueError(f'the TPU compiler does not take topology {name!r}: {reason}; usual ones '
                         f'are {", ".join(f"{chip.name}:{one}" for one in chip.shapes)}'
                         ) from error


@functools.cache
def capacity_of(chip: Chip) -> int:
    """Ask the compiler how many bytes a program may use of a device's memory.

    It keeps some of the memory for itself. It says how much it leaves only when it refuses a
    program, so it is given one that fits nowhere (an array of 4 TiB, copied).

    Args:
      chip: from `CHIPS`.

    Returns:
      Bytes a device, to the hundredth of a gibibyte that the compiler prints.
    """
    device = devices_of(f'{chip.name}:{chip.shapes[0]}')[0]
    huge = jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(lambda x: x + 1).lower(huge).compile()
    except jax.errors.JaxRuntimeError as error:
        if refusal := read_refusal(str(error)):
            return refusal[1]
    raise ValueError(f'the compiler of TPU {chip.name} does not say how much memory a device has; '
                     'is this libtpu known to jax_prompt? see planning/topology.py')


def read_refusal(message: str) -> tuple[int, int] | None:
    """Read the compiler's message that a program needs more memory than a device has.

    There are two, from an early estimate and from the final allocation; both count everything:
    arguments, results and temporaries.

    Args:
      message: of the exception that `compile()` raised.

    Returns:
      (needed, there), bytes a device, as the compiler says them (rounded by it); None where the
      message is of something else.
    """
    found = _USED.search(message) or _REQUIRED.search(message)
    if not found:
        return None
    needed, needed_unit, there, there_unit = found.groups()
    return (round(float(needed) * _UNITS[needed_unit]), round(float(there) * _UNITS[there_unit]))
