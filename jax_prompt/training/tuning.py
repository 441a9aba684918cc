"""Choose a way of training by measuring it, where the better one differs from machine to machine.

Packed rows have fewer pads and one program; padded rows have less attention. Which is faster is for
a machine's units, its memory and the lengths of the texts to say: on one the two are level, on
another a tenth or a third apart. So the candidates take the run's own first batches in turns. More
padded lengths leave fewer pads, and each is a program to compile first.
"""

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jax_prompt.parallel.hosts import from_first
from jax_prompt.parallel.placement import global_batch, place
from jax_prompt.parallel.rules import replicated
from jax_prompt.training.joint import for_each_task
from jax_prompt.training.loop import Run
from jax_prompt.training.problem import training_batches
from jax_prompt.training.programs import train_step_of
from jax_prompt.training.settings import AUTO
from jax_prompt.training.tuned_weights import begin
from jax_prompt.types import Batch

_log = logging.getLogger(__name__)

#: Batches that each way takes. The first step of each shape compiles it, and is not counted.
_BATCHES = 4
#: Numbers of padded lengths to choose from, by the shapes of so many batches.
_BUCKETS, _LOOKED_AT = (1, 2, 3, 4, 6, 8, 12, 16), 64


def with_chosen_batching(run: Run, begun: Callable[[], Mapping[str, Any] | None]) -> Run:
    """Return a run whose batches are packed or padded, to so many lengths, as is faster here.

    Args:
      run: with `settings.packing` and `settings.max_buckets` decided, or 'auto'.
      begun: returns what the run's folder recorded when it was begun, None for a new one. What was
        chosen then is kept, on whatever machine it goes on: batches decide the last bits.

    Returns:
      The run, decided.
    """
    # Padded rows are compared with packed ones at their best.
    for name, choose in (('max_buckets', _choose_buckets), ('packing', _choose_packing)):
        if getattr(run.settings, name) == AUTO:
            kept = (from_first(begun) or {}).get('settings', {}).get(name)
            run = _with(run, **{name: choose(run) if kept is None else kept})
    return run


def _with(run: Run, **settings: Any) -> Run:
    return dataclasses.replace(run, settings=dataclasses.replace(run.settings, **settings))


def _choose_packing(run: Run) -> bool:
    seen = _tokens_a_second([_with(run, packing=packing) for packing in (False, True)])
    padded, packed = from_first(lambda: seen)
    _log.info('settings.packing=auto: %s, which is faster here (padded rows %.0f tokens/s, '
              'packed rows %.0f)', bool(packed > padded), padded, packed)
    return bool(packed > padded)


def _choose_buckets(run: Run) -> int:
    """Choose the number of padded lengths that takes the least time, compiling included."""
    run = _with(run, packing=False)
    compiling, seconds = _seconds_of_a_position(run)

    def estimate(count: int) -> float:
        shapes = [batch['encoder_input_tokens'].shape for batch in itertools.islice(
            training_batches(run.opened, run.problems, _with(run, max_buckets=count).settings, 0),
            _LOOKED_AT)]
        positions = float(np.mean([rows * length for rows, length in shapes]))
        return compiling * len(set(shapes)) + run.settings.steps * positions * seconds

    costs = from_first(lambda: [estimate(count) for count in _BUCKETS])
    chosen = int(np.argmin(costs))
    _log.info('settings.max_buckets=auto: %d (%.0f s for all steps; with %d it were %.0f s; a '
              'program compiles in %.1f s)', _BUCKETS[chosen], costs[chosen], _BUCKETS[0], costs[0],
              compiling)
    return _BUCKETS[chosen]


def _seconds_of_a_position(run: Run) -> list[float]:
    """Return what compiling a step takes, and running it, of a position of this host's rows."""
    step = _stepping(run)
    batch = next(training_batches(run.opened, run.problems, _with(run, max_buckets=1).settings, 0))
    compiled, *ran = [step(batch) for _ in range(_BATCHES)]
    least = min(ran)
    return [max(compiled - least, 0.0), least / batch['encoder_input_tokens'].size]


def _stepping(run: Run) -> Callable[[Batch], float]:
    """Return what takes a step of training and tells its seconds; what it learns is thrown away."""
    mesh, optimizer = run.opened.mesh, for_each_task(run.optimizer, run.method)
    state, living = begin(run.opened, run.initial, optimizer, run.settings)
    # One function for all: ways differ in the shapes of their batches.
    step = train_step_of(run.opened, run.method, optimizer, run.settings, living)
    constants = place(run.constants, replicated(mesh))

    def take(batch: Batch) -> float:
        nonlocal state
        batch = global_batch(batch, mesh)
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, run.opened.frozen, batch, constants))
        return time.perf_counter() - start

    return take


def _tokens_a_second(ways: list[Run]) -> list[float]:
    """Return the tokens of inputs, pads apart, that each way learns from in a second."""
    step, pad = _stepping(ways[0]), ways[0].opened.model.tokens.pad
    batches = [list(itertools.islice(training_batches(way.opened, way.problems, way.settings, 0),
                                     _BATCHES)) for way in ways]
    tokens = [sum(_tokens(batch, pad) for batch in some) for some in batches]
    seconds = np.zeros(len(ways))
    for counts in (False, True):
        for number, way in itertools.product(range(_BATCHES), range(len(ways))):
            seconds[way] += counts * step(batches[way][number])
    return [count / taken for count, taken in zip(tokens, seconds, strict=True)]


def _tokens(batch: Batch, pad: int) -> int:
    return int(np.count_nonzero(np.asarray(batch['encoder_input_tokens']) != pad))
