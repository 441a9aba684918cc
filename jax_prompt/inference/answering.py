"""How rows are answered that do not say it themselves: the settings of bulk prediction."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_prompt.inference.beam import BeamSettings
from jax_prompt.inference.calibration import Calibration
from jax_prompt.inference.content_free import choose_calibration
from jax_prompt.inference.decodings import Decoding, beam_decodings
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.rows import Row, ServedPrompt
from jax_prompt.inference.sampling import SamplingSettings


@dataclasses.dataclass(frozen=True)
class AnswerSettings:
    """How texts are answered: the first two are for tasks with labels, the others for free text.

    Attributes:
      calibrate: take away what the labels' scores are without an input (see `calibration`).
      label_temperature: divides the scores of labels; above 1 makes probabilities less sure.
      num_beams: of a beam search; 1 for greedy, or sampled, text.
      length_penalty: alpha of the beam search.
      temperature, top_k, top_p: of sampling, see `SamplingSettings`; temperature 0 is greedy.
      seed: each text draws from a seed of its own, made of this one and its place in the input.
      max_tokens: to generate at most; None for the task's `targets_length`.

    Raises:
      ValueError: for a setting outside its range, or beams with sampling.
    """

    calibrate: bool = False
    label_temperature: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int | None = None

    def __post_init__(self):
        Calibration(None, self.label_temperature)
        BeamSettings(self.length_penalty, max_tokens=self.max_tokens)
        SamplingSettings(self.temperature, self.top_k, self.top_p, self.seed)
        if self.num_beams < 1:
            raise ValueError(f'num_beams={self.num_beams}; expected 1 (no beam search) or more')
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError(f'num_beams={self.num_beams} with temperature={self.temperature}: a '
                             'beam search draws nothing; leave one of them out')

    @property
    def decodings(self) -> Mapping[str, Decoding]:
        """Return what the engine must know besides sampling."""
        return beam_decodings(self.num_beams)

    def rows(self, engine: Engine, prompt: ServedPrompt, inputs: Sequence[Any],
             places: Sequence[str], numbers: Sequence[tuple[int, int]]) -> list[Row]:
        """Make the rows of texts of one task.

        Args:
          engine: with `decodings`.
          prompt: of all of them.
          inputs: of each row, see `Engine.rows_of`.
          places: where each stands, for messages.
          numbers: what tells the place of each from all others, for the seeds.

        Raises:
          ValueError: inputs that do not fit the task.
        """
        where = places.__getitem__
        if prompt.labels is not None:
            calibration = choose_calibration(engine, prompt, prompt.labels, self.calibrate,
                                             self.label_temperature)
            return engine.rows_of(prompt, inputs, options=calibration, where=where)
        if self.num_beams > 1:
            return engine.rows_of(prompt, inputs, max_tokens=self.max_tokens, decoding='beam',
                                  options=BeamSettings(self.length_penalty), where=where)
        rows = engine.rows_of(prompt, inputs, max_tokens=self.max_tokens, where=where)
        return [dataclasses.replace(row, options=self._sampling(number))
                for row, number in zip(rows, numbers, strict=True)]

    def _sampling(self, number: tuple[int, int]) -> SamplingSettings:
        seed = np.random.SeedSequence([self.seed, *number]).generate_state(1)[0]
        return SamplingSettings(self.temperature, self.top_k, self.top_p, int(seed))
