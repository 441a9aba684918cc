"""Ways to generate that an engine can be given; rows of a batch have settings of their own."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jax_prompt.inference.beam import BeamSettings, make_beam_search, stack_beam_settings
from jax_prompt.inference.sampling import SamplingSettings, make_sampler, stack_settings
from jax_prompt.t5.model import T5
from jax_prompt.types import Array


@dataclasses.dataclass(frozen=True)
class Decoding:
    """A way to generate.

    Attributes:
      make: (model, max_length) -> generate(frozen, prompt_PD, ids_BS, rows) -> int32[B, L],
        jitted, in which a row depends on its own settings alone.
      settings: of a row that asks for nothing; a dataclass with `max_tokens`.
      stack: (settings of all B rows, max_length) -> the arrays `rows`.
    """

    make: Callable[[T5, int], Callable[..., Array]]
    settings: Any
    stack: Callable[[Sequence[Any], int], Any]

    def arrays(self, rows: Sequence[Any], batch: int, max_length: int) -> Any:
        """Return the arrays of a batch of rows, each with `options` and `max_tokens`."""
        asked = [dataclasses.replace(row.options or self.settings, max_tokens=row.max_tokens)
                 for row in rows]
        return self.stack(asked + [self.settings] * (batch - len(rows)), max_length)


#: Greedy and sampled rows in one batch, each as its `SamplingSettings` ask.
SAMPLING = Decoding(make_sampler, SamplingSettings(), stack_settings)


def beam_search(num_beams: int = 4) -> Decoding:
    """Return beam search, whose rows have `BeamSettings` and give their best sequence."""

    def make(model: T5, max_length: int) -> Callable[..., Array]:
        search = make_beam_search(model, max_length, num_beams)
        return jax.jit(lambda *batch: search(*batch).tokens_BGL[:, 0])

    return Decoding(make, BeamSettings(), stack_beam_settings)


def beam_decodings(num_beams: int) -> dict[str, Decoding]:
    """Return the engine's decoding 'beam' of so many beams; nothing for one, which is no search."""
    return {'beam': beam_search(num_beams)} if num_beams > 1 else {}
