"""Ways to generate that an engine can be given; rows of a batch have settings of their own."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jax_prompt.inference.beam import BeamSettings, search_beams, stack_beam_settings
from jax_prompt.inference.generate import check_beams
from jax_prompt.inference.sampling import SamplingSettings, sample_tokens, stack_settings
from jax_prompt.models.base import Model
from jax_prompt.types import Array


@dataclasses.dataclass(frozen=True)
class Decoding:
    """A way to generate.

    Attributes:
      make: (model, max_length) -> decode(frozen, encoded_BSD, mask_BS, rows, prefix=None) ->
        int32[B, L], jitted, in which a row depends on its own settings alone.
      settings: of a row that asks for nothing; a dataclass with `max_tokens`.
      stack: (settings of all B rows, max_length) -> the arrays `rows`.
    """

    make: Callable[[Model, int], Callable[..., Array]]
    settings: Any
    stack: Callable[[Sequence[Any], int], Any]

    def arrays(self, rows: Sequence[Any], batch: int, max_length: int) -> Any:
        """Put what the rows of a batch ask for into arrays.

        Args:
          rows: each with `options`, or None, and `max_tokens`.
          batch: B; rows beyond those given are fillers.
          max_length: L, that the decoding is compiled for.

        Returns:
          What `stack` makes of them.
        """
        asked = [dataclasses.replace(row.options or self.settings, max_tokens=row.max_tokens)
                 for row in rows]
        return self.stack(asked + [self.settings] * (batch - len(rows)), max_length)


def _sampler(model: Model, max_length: int) -> Callable[..., Array]:
    return jax.jit(lambda frozen, encoded_BSD, mask_BS, rows, prefix=None: sample_tokens(
        model, frozen, encoded_BSD, mask_BS, max_length, rows, prefix))


#: Greedy and sampled rows in one batch, each as its `SamplingSettings` ask.
SAMPLING = Decoding(_sampler, SamplingSettings(), stack_settings)


@functools.cache
def beam_search(num_beams: int = 4) -> Decoding:
    """Return beam search, whose rows have `BeamSettings` and give their best sequence.

    Args:
      num_beams: G, sequences that are followed at one time.

    Raises:
      ValueError: as `check_beams` does, once it is known for which model.
    """

    def make(model: Model, max_length: int) -> Callable[..., Array]:
        check_beams(model, num_beams)
        return jax.jit(lambda frozen, encoded_BSD, mask_BS, rows, prefix=None: search_beams(
            model, frozen, encoded_BSD, mask_BS, num_beams, rows, prefix).tokens_BGL[:, 0])

    return Decoding(make, BeamSettings(), stack_beam_settings)


def beam_decodings(num_beams: int) -> dict[str, Decoding]:
    """Return the engine's decoding 'beam' of so many beams; nothing for one, which is no search."""
    return {'beam': beam_search(num_beams)} if num_beams > 1 else {}
