"""Choose a way of training by measuring it, where the better one differs from machine to machine.

Packed rows have fewer pads and one program; padded rows have less attention. Which is faster is for
a machine's units, its memory and the lengths of the texts to say: on one the two are level, on
another a tenth or a third apart. So the candidates take the run's own first batches in turns.
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


def with_chosen_batching(run: Run, begun: Callable[[], Mapping[str, Any] | None]) -> Run:
    """Return a run whose batches are packed or padded, as is faster here if it leaves that open.

    Args:
      run: with `settings.packing` 'auto', or decided.
      begun: returns what the run's folder recorded when it was begun, None for a new one. What was
        chosen then is kept, on whatever machine it goes on: batches decide the last bits.

    Returns:
      The run, decided.
    """
    if run.settings.packing != AUTO:
        return run
    ways = [_with_packing(run, packing) for packing in (False, True)]
    packing = (from_first(begun) or {}).get('settings', {}).get('packing')
    if packing is None:
        seen = _tokens_a_second(ways)
        padded, packed = from_first(lambda: seen)
        packing = packed > padded
        _log.info('settings.packing=auto: %s, which is faster here (padded rows %.0f tokens/s, '
                  'packed rows %.0f)', bool(packing), padded, packed)
    return ways[bool(packing)]


def _with_packing(run: Run, packing: bool) -> Run:
    return dataclasses.replace(run, settings=dataclasses.replace(run.settings, packing=packing))


def _tokens_a_second(ways: list[Run]) -> list[float]:
    """Return the tokens of inputs, pads apart, that each way learns from in a second.

    The steps are those of training, on its first batches; what they learn is thrown away.
    """
    run, mesh = ways[0], ways[0].opened.mesh
    optimizer = for_each_task(run.optimizer, run.method)
    state, living = begin(run.opened, run.initial, optimizer, run.settings)
    # One function for all: ways differ in the shapes of their batches.
    step = train_step_of(run.opened, run.method, optimizer, run.settings, living)
    constants = place(run.constants, replicated(mesh))
    batches = [list(itertools.islice(training_batches(way.opened, way.problems, way.settings, 0),
                                     _BATCHES)) for way in ways]
    tokens = [sum(_tokens(batch, run.opened.model.tokens.pad) for batch in some)
              for some in batches]
    seconds = np.zeros(len(ways))
    for counts in (False, True):
        for number, way in itertools.product(range(_BATCHES), range(len(ways))):
            batch = global_batch(batches[way][number], mesh)
            start = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, run.opened.frozen, batch, constants))
            seconds[way] += counts * (time.perf_counter() - start)
    return [count / taken for count, taken in zip(tokens, seconds, strict=True)]


def _tokens(batch: Batch, pad: int) -> int:
    return int(np.count_nonzero(np.asarray(batch['encoder_input_tokens']) != pad))
