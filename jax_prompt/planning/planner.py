"""Compile a program for TPUs that need not be here, and say what the compiler says of it."""

import dataclasses
import time
from typing import Any

import jax
from jax.sharding import Mesh

from jax_prompt.files import first_line
from jax_prompt.models.t5.stack import REMAT_POLICIES
from jax_prompt.parallel.mesh import describe, make_mesh
from jax_prompt.planning.chips import Chip
from jax_prompt.planning.collectives import read_collectives, sum_bytes
from jax_prompt.planning.hlo import read_module
from jax_prompt.planning.program import Program, make_program
from jax_prompt.planning.request import PlanRequest
from jax_prompt.planning.sizes import find_config
from jax_prompt.planning.topology import capacity_of, devices_of, parse_topology, read_refusal
from jax_prompt.planning.work import hbm_bytes, product_flops


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      weights: the frozen weights, with the padding that the compiler's layouts ask for.
      other_arguments: batch, prompt and optimizer state.
      results: what comes back and is not written over an argument.
      temporaries: the most that is needed at one time besides.
      program: the compiled instructions.
      total: all of them.
      capacity: what the compiler leaves a program of the device's memory.
      exceeded: by how much the total is over the capacity; 0 if it fits.
    """

    weights: int
    other_arguments: int
    results: int
    temporaries: int
    program: int
    total: int
    capacity: int
    exceeded: int = 0


@dataclasses.dataclass(frozen=True)
class Speed:
    """What one device computes and moves in one run of the program, and the time it must take.

    Each time is work over the published peak, so the longest is a lower bound (the roofline:
    Williams et al. 2009, doi:10.1145/1498765.1498785); no program reaches it.

    Attributes:
      flops: of matrix products, recomputation included.
      hbm_bytes: between main memory and the cores.
      sent_bytes: over the interconnect, by the best algorithm of each collective.
      collectives: bytes by mesh axis and operation, as `Collective.bytes` counts.
      compute_seconds, hbm_seconds, interconnect_seconds: the three times.
      seconds: the longest.
      bound: what it is of: 'compute', 'HBM' or 'interconnect'.
      chip_seconds_per_example: `seconds` times chips over rows of the batch: what an example
        costs at least.
    """

    flops: int
    hbm_bytes: int
    sent_bytes: int
    collectives: dict[str, dict[str, int]]
    compute_seconds: float
    hbm_seconds: float
    interconnect_seconds: float
    seconds: float
    bound: str
    chip_seconds_per_example: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """What came of compiling a program.

    Attributes:
      request: what was planned, with mesh and `remat` as they were compiled.
      fits: whether the compiler accepts it.
      devices, chips: how many the slice has.
      memory: of each device.
      speed: None where it does not fit: then there is no program to count.
      compile_seconds: how long the compiler took.
    """

    request: PlanRequest
    fits: bool
    devices: int
    chips: int
    memory: Memory
    speed: Speed | None
    compile_seconds: float


def plan(request: PlanRequest) -> Plan:
    """Compile the training step (or generation) that is asked for.

    Args:
      request: what to compile. Where `remat` is None, 'none', 'dots' and 'full' are tried in turn
        until one fits: the compiler refuses in seconds.

    Returns:
      The plan; the last that was tried, where none fits.

    Raises:
      ValueError: libtpu is not installed, an unknown model or topology, sizes that do not divide,
        or a program that the compiler refuses for another reason than memory.
    """
    config = find_config(request.model)
    policies = list(REMAT_POLICIES) if request.remat is None else [request.remat]
    # Nothing is kept for a backward pass where there is none.
    policies = ['none'] if request.generate else policies
    mesh = make_mesh(request.mesh, devices_of(request.topology))
    request = dataclasses.replace(request, mesh=describe(mesh.shape))
    for policy in policies:
        made = _compile(dataclasses.replace(request, remat=policy), config, mesh)
        if made.fits:
            break
    return made


def _compile(request: PlanRequest, config: Any, mesh: Mesh) -> Plan:
    """Compile one program and read off what it needs."""
    chip, _ = parse_topology(request.topology)
    program = make_program(request, config, mesh)
    capacity, start = capacity_of(chip), time.monotonic()
    compiled = refusal = speed = None
    try:
        compiled = program.compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = read_refusal(str(error))
        if refusal is None:
            raise ValueError(f'the TPU compiler refuses this program: '
                             f'{first_line(error)}') from error
    seconds = time.monotonic() - start
    if refusal is None:
        memory = _memory(compiled, program.other_bytes, capacity)
        speed = _speed(compiled, program, mesh, chip, request.batch_size)
    else:  # of what is needed the compiler says the sum alone, and rounds it
        weights, others = program.weight_bytes, program.other_bytes
        needed, capacity = refusal
        memory = Memory(weights, others, results=0, program=0, total=needed, capacity=capacity,
                        temporaries=max(0, needed - weights - others),
                        exceeded=max(1, needed - capacity))
    return Plan(request, memory.exceeded == 0, mesh.size, mesh.size // chip.devices_per_chip,
                memory, speed, seconds)


def _memory(compiled: Any, other_bytes: int, capacity: int) -> Memory:
    """Read the compiler's account of an accepted program."""
    stats = compiled.memory_analysis()
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes
    code = stats.generated_code_size_in_bytes
    total = stats.argument_size_in_bytes + results + stats.temp_size_in_bytes + code
    return Memory(stats.argument_size_in_bytes - other_bytes, other_bytes, results,
                  stats.temp_size_in_bytes, code, total, capacity, max(0, total - capacity))


def _speed(compiled: Any, program: Program, mesh: Mesh, chip: Chip, rows: int) -> Speed:
    """Count a program's work and divide it by what the chip can do."""
    module = read_module(compiled.as_text(), program.rounds)
    # Rows and what the rules split: every device multiplies the same part of the whole.
    flops = product_flops(program.traced.jaxpr, program.rounds) // mesh.size
    moved, collectives = hbm_bytes(module), read_collectives(module, mesh)
    sent = sum(one.sent_bytes for one in collectives)
    # A chip's rates are shared by the devices that are made of it.
    share = chip.devices_per_chip
    times = {'compute': flops / (chip.peak_flops / share),
             'HBM': moved / (chip.hbm_bandwidth / share),
             'interconnect': sent / (chip.interconnect_bandwidth / share)}
    bound = max(times, key=times.get)
    return Speed(flops, moved, sent, sum_bytes(collectives), *times.values(), times[bound], bound,
                 chip_seconds_per_example=times[bound] * mesh.size / share / rows)
