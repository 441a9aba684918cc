"""Prompt design as a contender: words that a person writes, with or without solved examples."""

import dataclasses
from typing import Any

from jax_prompt.comparison.contender import Fitted, Trial
from jax_prompt.config import config_of
from jax_prompt.data.design import Design
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.inference.make_design import (
    BY_UNLABELLED,
    DesignSettings,
    design_file,
    make_design,
)
from jax_prompt.prompts.file import save_prompt
from jax_prompt.prompts.prompt import no_prompt

_DESIGN_FILE = 'design.safetensors'


@dataclasses.dataclass(frozen=True, eq=False)
class Designed:
    """A prompt design: zero-shot, or with demonstrations from the training data, calibrated or not.

    Attributes:
      name: what it is called.
      settings: template, words, shots and calibration; the comparison sets the seed.
    """

    name: str
    settings: DesignSettings = DesignSettings()

    @property
    def seeded(self) -> bool:
        """Whether examples of training are drawn."""
        return bool(self.settings.shots) or self.settings.calibrate == BY_UNLABELLED

    @property
    def sized(self) -> bool:
        """Whether examples of training are drawn."""
        return self.seeded

    def config(self) -> dict[str, Any]:
        """Return all that decides its results."""
        told = config_of(self.settings)
        return {'kind': 'design', **{name: told[name] for name in told if name != 'seed'}}

    def check(self, task: TextTask) -> None:
        """Refuse a task that the design is not for."""
        self.settings.design(task)

    def fit(self, trial: Trial) -> Fitted:
        """Make the design from the trial's training data."""
        began = trial.clock.seconds
        settings = dataclasses.replace(self.settings, seed=trial.seed)
        design = make_design(trial.opened, trial.task, settings)
        return Fitted((no_prompt(trial.opened.model.d_model),), design=design,
                      stored_bytes=keep_design(trial, design),
                      examples=settings.shots, seconds=trial.clock.seconds - began)


def keep_design(trial: Trial, design: Design) -> int:
    """Write a design file and return its bytes.

    Args:
      trial: that the design was made in.
      design: to be kept.
    """
    path = trial.folder / _DESIGN_FILE
    file = design_file(trial.opened, trial.task, design, seed=trial.seed)
    save_prompt(path, file)
    return path.stat().st_size
