"""What trains: soft prompts by any method, several as an ensemble, layers or the whole model."""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import optax

from jax_prompt.comparison.clock import Clock
from jax_prompt.comparison.contender import Fitted, Trial
from jax_prompt.config import config_of
from jax_prompt.data.tasks.mixture import Mixture
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.registry import check_metrics
from jax_prompt.files import write_file
from jax_prompt.training.run import train_together
from jax_prompt.training.settings import PromptSettings, TrainSettings

#: Of the settings, what the comparison decides or what changes no result.
_NOT_ITS_OWN = ('seed', 'compare', 'measure', 'keep', 'log_every', 'evaluation_limit')
_CURVE = 'curve.json'


@dataclasses.dataclass(frozen=True, eq=False)
class Tuning:
    """A way of tuning, run by `training.run.train_together` with its resume.

    Attributes:
      name: what it is called.
      prompt: rows, layout, method and start; with `ensemble` its members answer together.
      optimizer: an optax transformation; None for Adafactor.
      settings: how to train; the comparison sets the seed, and the whole of a trial's validation is
        used.
    """

    name: str
    prompt: PromptSettings = PromptSettings()
    optimizer: optax.GradientTransformation | None = None
    settings: TrainSettings = TrainSettings()
    seeded: bool = dataclasses.field(default=True, init=False)
    sized: bool = dataclasses.field(default=True, init=False)

    def config(self) -> dict[str, Any]:
        """Return all that decides its results."""
        settings = {name: value for name, value in config_of(self.settings).items()
                    if name not in _NOT_ITS_OWN}
        return {'kind': 'tuning', 'prompt': config_of(self.prompt),
                'optimizer': config_of(self.optimizer), 'settings': settings}

    def check(self, task: TextTask) -> None:
        """Refuse a task whose metrics cannot judge it."""
        check_metrics(task)

    def fit(self, trial: Trial) -> Fitted:
        """Train, or go on with the run that the trial's folder holds."""
        settings = dataclasses.replace(self.settings, seed=trial.seed, evaluation_limit=None,
                                       compare=False, measure=False, keep=1)
        curve, folder = _Curve(trial.folder / _CURVE, trial.clock), trial.folder / 'run'
        outcomes = train_together(trial.opened, Mixture((trial.task,)), folder, self.prompt,
                                  self.optimizer, settings, quiet=True, on_evaluation=curve.note)
        best = max(one.best_step for one in outcomes)
        points = curve.points()
        kept = next(one for one in points if one['step'] == best)
        return Fitted(
            tuple(one.tuned.prompt for one in outcomes), self.prompt.layout,
            outcomes[0].trained_numbers, sum(one.prompt_bytes for one in outcomes),
            best * settings.batch_size, kept['seconds'], outcomes[0].tuned.weights,
            self.prompt.words,
            curve=[{'examples': one['step'] * settings.batch_size, **one} for one in points],
            validation=kept['metrics'] if len(outcomes) == 1 else None)


def forget(folder: pathlib.Path) -> None:
    """Remove what nobody needs of a run that is measured: checkpoints, and copies of the model."""
    for large in ('checkpoints', 'model'):
        shutil.rmtree(folder / 'run' / large, ignore_errors=True)


class _Curve:
    """The evaluations of a run with the seconds before each, kept over kills.

    A run that goes on does so from a checkpoint: what it repeats is told anew, and its seconds
    follow those of the evaluation at the checkpoint.
    """

    def __init__(self, path: pathlib.Path, clock: Clock):
        self._path, self._clock, self._began = path, clock, clock.seconds
        self._before: float | None = None

    def points(self) -> list[dict[str, Any]]:
        """Return step, seconds and metrics of each evaluation so far."""
        return json.loads(self._path.read_text()) if self._path.exists() else []

    def note(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Keep an evaluation; never ends a run."""
        points = [one for one in self.points() if one['step'] < step]
        if self._before is None:
            self._before = points[-1]['seconds'] if points else 0.0
        seconds = self._before + self._clock.seconds - self._began
        points.append({'step': step, 'seconds': seconds, 'metrics': dict(metrics)})
        write_file(self._path, json.dumps(points).encode(), overwrite=True)
        return True
