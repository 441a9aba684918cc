"""How rows are answered that do not say it themselves: the settings of bulk prediction."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_prompt.inference.beam import BeamSettings
from jax_prompt.inference.calibration import Calibration, contextual_calibration
from jax_prompt.inference.decodings import Decoding, beam_decodings
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.ensemble import WAYS
from jax_prompt.inference.rows import Row, ServedPrompt
from jax_prompt.inference.sampling import SamplingSettings

_OF_LABELS = ('calibrate', 'label_temperature')
_OF_TEXT = ('num_beams', 'length_penalty', 'temperature', 'top_k', 'top_p', 'max_tokens')


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
      ensemble: 'vote' or 'mean', by which several prompts answer each text together; None for each
        text by the one prompt that it names.

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
    ensemble: str | None = None

    def __post_init__(self):
        if self.ensemble not in (None, *WAYS):
            raise ValueError(f'ensemble is {self.ensemble!r}; expected {" or ".join(WAYS)}')
        if self.label_temperature != 1:
            Calibration(None, self.label_temperature)
        if self.length_penalty != 1:
            BeamSettings(self.length_penalty)
        SamplingSettings(self.temperature, self.top_k, self.top_p, self.seed,
                         max_tokens=self.max_tokens)
        if self.num_beams < 1:
            raise ValueError(f'num_beams={self.num_beams}; expected 1 (no beam search) or more')
        if self.num_beams > 1 and self.temperature > 0:
            raise ValueError(f'num_beams={self.num_beams} with temperature={self.temperature}: a '
                             'beam search draws nothing; leave one of them out')

    def check_effects(self, has_labels: bool | None = None) -> None:
        """Refuse settings that would change no answer; a seed alone is let pass.

        Args:
          has_labels: whether all tasks have labels, or none of them has; None where they differ.

        Raises:
          ValueError: naming one that does nothing, and why.
        """
        idle = {}
        if has_labels is False:
            idle |= dict.fromkeys(_OF_LABELS, 'the task is free text and has no labels')
        if has_labels:
            idle |= dict.fromkeys(_OF_TEXT, 'the task has labels and no text is generated')
        if self.temperature == 0:
            idle |= {name: 'nothing is drawn unless temperature is above 0'
                     for name in ('top_k', 'top_p') if name not in idle}
        if self.num_beams == 1:
            idle.setdefault('length_penalty', 'there is no beam search unless num_beams is above 1')
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in idle and value != field.default:
                raise ValueError(f'{field.name}={value} would do nothing: {idle[field.name]}; '
                                 'leave it out')

    @property
    def decodings(self) -> Mapping[str, Decoding]:
        """Return what the engine must know besides sampling."""
        return beam_decodings(self.num_beams)

    def rows(self, engine: Engine, prompt: ServedPrompt, inputs: Sequence[Any],
             places: Sequence[str], numbers: Sequence[tuple[int, ...]]) -> list[Row]:
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
            calibration = None
            if self.calibrate:
                calibration = contextual_calibration(engine, prompt, prompt.labels,
                                                     self.label_temperature)
            elif self.label_temperature != 1:
                calibration = Calibration(None, self.label_temperature)
            return engine.rows_of(prompt, inputs, options=calibration, where=where)
        decoding, options = self.generation(self.seed)
        rows = engine.rows_of(prompt, inputs, max_tokens=self.max_tokens, decoding=decoding,
                              options=options, where=where)
        if self.num_beams > 1:
            return rows
        return [dataclasses.replace(row, options=self._sampling(number))
                for row, number in zip(rows, numbers, strict=True)]

    def generation(self, seed: int) -> tuple[str, BeamSettings | SamplingSettings]:
        """Return the engine's decoding for free text, and its options for a row.

        Args:
          seed: of this row, where it is sampled.
        """
        if self.num_beams > 1:
            return 'beam', BeamSettings(self.length_penalty)
        return 'sample', SamplingSettings(self.temperature, self.top_k, self.top_p, seed)

    def _sampling(self, number: tuple[int, ...]) -> SamplingSettings:
        """Return the options of the row of a number, with a seed of its own."""
        seed = np.random.SeedSequence([self.seed, *number]).generate_state(1)[0]
        return self.generation(int(seed))[1]
