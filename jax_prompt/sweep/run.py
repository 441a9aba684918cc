"""Run the trials of a sweep, each as a run in a folder of its own, in one process or several."""

import dataclasses
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import optax

from jax_prompt.config import config_of
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.files import first_line
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.file import load_prompt
from jax_prompt.sweep.report import described, figure_of, finished, merit_of, write_report
from jax_prompt.sweep.space import Space
from jax_prompt.sweep.study import (
    SweepFolder,
    SweepSettings,
    import_optuna,
    open_study,
    recorded,
    take,
)
from jax_prompt.training.folder import RunFolder
from jax_prompt.training.problem import make_problem, shared_problems, with_length
from jax_prompt.training.run import train
from jax_prompt.training.selection import merit
from jax_prompt.training.settings import PromptSettings, TrainSettings

if TYPE_CHECKING:
    import optuna

_log = logging.getLogger(__name__)

#: Trials that may fail before any has gone well: then the fault is none of single values.
_MOST_FAILURES = 3


@dataclasses.dataclass(frozen=True)
class TrialSettings:
    """What a trial trains with.

    Attributes:
      prompt, optimizer, settings: as `training.run.train` takes them.
      configuration: name -> value of the operative gin, to be kept in its folder.
    """

    prompt: PromptSettings
    optimizer: optax.GradientTransformation | None
    settings: TrainSettings
    configuration: Mapping[str, str] = dataclasses.field(default_factory=dict)


#: (value of each parameter, the prompt file to start from or None) -> what the trial trains with.
Build = Callable[[Mapping[str, Any], str | None], TrialSettings]


@dataclasses.dataclass(frozen=True, eq=False)
class Sweep:
    """What is swept, on what, and where.

    Attributes:
      opened: the frozen model, which all trials share.
      task: with the splits train and validation; test is left for whoever trains with the best.
      folder: of the sweep.
      space: what is varied.
      build: makes a trial's settings.
      settings: how to sweep.
      base: name -> value of all that is configured alike for all trials, for the study's identity.
      quiet: show no progress of the single runs.
    """

    opened: OpenedModel
    task: Any
    folder: SweepFolder
    space: Space
    build: Build
    settings: SweepSettings = SweepSettings()
    base: Mapping[str, str] = dataclasses.field(default_factory=dict)
    quiet: bool = False

    @property
    def identity(self) -> dict[str, Any]:
        """Return what all trials of the study have in common, ready for JSON."""
        read = isinstance(self.task, TextTask)  # others may have no end
        return {'model': {'fingerprint': self.opened.fingerprint,
                          'vocabulary': self.opened.vocabulary_fingerprint,
                          **self.opened.model.numerics},
                'task': self.task.to_dict(), 'configuration': dict(self.base),
                'examples': {split: _digest(self.task, split)
                             for split in ('train', 'validation') if read}}


def _digest(task: TextTask, split: str) -> str:
    """Tell the texts of a split from any others."""
    digest = hashlib.blake2b(digest_size=16)
    for pair in task.texts(split):
        digest.update(repr(pair).encode())
    return digest.hexdigest()


def run_sweep(sweep: Sweep) -> 'optuna.Study':
    """Run trials until the study has as many as it shall, and write the report.

    Several processes may do so in one folder at a time, and each may be killed and started again:
    a trial that was cut off goes on where it was, and none is run twice. A trial whose parameters
    some trial before it had takes over its result.

    Args:
      sweep: what to run.

    Returns:
      The study, with all trials that have ended.

    Raises:
      ValueError, FileNotFoundError: in one line, for whatever no trial can be run with.
    """
    sweep.folder.check()
    sweep = dataclasses.replace(
        sweep, opened=sweep.opened.as_begun((recorded(sweep.folder) or {}).get('model')))
    study = open_study(sweep.folder, sweep.space, sweep.settings, sweep.identity)
    try:
        with shared_problems():
            while True:
                taken = take(study, sweep.folder, sweep.space, sweep.settings)
                if taken is None:
                    break
                trial, held = taken
                with held:
                    _run_trial(sweep, study, trial)
    finally:
        with sweep.folder.alone():
            write_report(study, sweep.folder)
    return study


def _run_trial(sweep: Sweep, study: 'optuna.Study', trial: 'optuna.Trial') -> None:
    """Run a trial, or what is left of it, and tell the study what came of it."""
    states, begun = import_optuna().trial.TrialState, time.perf_counter()
    _log.info('trial %d: %s', trial.number, described(trial.params))
    twin = _twin(sweep, study, trial)
    try:
        metrics, choose_by = (twin.user_attrs['metrics'], twin.user_attrs['choose_by']) if twin \
            else _train(sweep, study, trial)
        value = merit(metrics, choose_by)[0]
    except (ValueError, FileNotFoundError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        trial.set_user_attr('error', first_line(error))
        study.tell(trial.number, state=states.FAIL)
        _log.warning('trial %d failed: %s', trial.number, first_line(error))
        others = study.get_trials(deepcopy=False)
        if not finished(others) and sum(one.state == states.FAIL for one in others) >= min(
                _MOST_FAILURES, sweep.settings.trials):
            raise
        return
    if twin:
        trial.set_user_attr('same_as', twin.number)
        for step, reported in twin.intermediate_values.items():
            trial.report(reported, step)
    for name, attribute in (('metrics', metrics), ('choose_by', choose_by),
                            ('seconds', time.perf_counter() - begun)):
        trial.set_user_attr(name, attribute)
    pruned = twin.state == states.PRUNED if twin else 'pruned_at' in trial.user_attrs
    if pruned:  # Optuna takes what was reported last for its value
        study.tell(trial.number, state=states.PRUNED)
    else:
        study.tell(trial.number, value)
    best = max(finished(study.get_trials(deepcopy=False)), key=merit_of, default=None)
    _log.info('trial %d: %s %.4f%s%s', trial.number, choose_by, metrics[choose_by],
              ', pruned' if pruned else '', '' if best is None else
              f'; the best yet is trial {best.number} with {figure_of(best):.4f}')


def _train(sweep: Sweep, study: 'optuna.Study',
           trial: 'optuna.Trial') -> tuple[dict[str, float], str]:
    """Train a trial's prompt; return the kept one's metrics on validation, and what chose it."""
    build = sweep.build(trial.params, None)
    kind = repr((config_of(build.prompt.method), build.prompt.layout.to_dict()))
    trial.set_user_attr('rows', build.prompt.rows)
    trial.set_user_attr('kind', kind)
    if sweep.settings.warm_start:
        if 'start' not in trial.user_attrs:  # a trial that is resumed keeps its own
            trial.set_user_attr('start', _shorter(sweep, study, build.prompt.rows, kind))
        build = sweep.build(trial.params, trial.user_attrs['start'])
    if build.prompt.ensemble is not None:
        raise ValueError('a sweep trains one prompt a trial; leave prompt.ensemble out, and train '
                         'the ensemble with what the sweep finds')
    # What is chosen here must not have seen the test split.
    settings = dataclasses.replace(build.settings, compare=False, measure=False)
    problem = make_problem(sweep.opened, sweep.task, build.prompt, settings)
    settings, choose_by = with_length(settings, [problem]), problem.choose_by
    reported = study.get_trials(deepcopy=False)[trial.number].intermediate_values

    def on_evaluation(step: int, metrics: Mapping[str, float]) -> bool:
        if step == trial.user_attrs.get('pruned_at'):  # and killed before that was saved
            return False
        if step not in reported:
            trial.report(merit(metrics, choose_by)[0], step)
        if step < settings.steps and trial.should_prune():
            trial.set_user_attr('pruned_at', step)
            return False
        return True

    outcome = train(sweep.opened, sweep.task,
                    RunFolder(sweep.folder.trial(trial.number), build.configuration), build.prompt,
                    build.optimizer, settings, sweep.quiet, on_evaluation)
    metrics = load_prompt(outcome.folder.prompt).metadata.metrics
    if choose_by not in metrics:
        raise ValueError(f'the {choose_by} of its best prompt is not finite; lower the learning '
                         'rate')
    trial.set_user_attr('best_step', outcome.best_step)
    return dict(metrics), choose_by


def _twin(sweep: Sweep, study: 'optuna.Study',
          trial: 'optuna.Trial') -> 'optuna.trial.FrozenTrial | None':
    """Return a trial that ended with the same parameters: a run of them gives the same numbers."""
    if sweep.settings.warm_start:  # what it would start from may be another prompt
        return None
    states = import_optuna().trial.TrialState
    return next((one for one in study.get_trials(deepcopy=False)
                 if one.state in (states.COMPLETE, states.PRUNED) and one.params == trial.params
                 and 'metrics' in one.user_attrs), None)


def _shorter(sweep: Sweep, study: 'optuna.Study', rows: int, kind: str) -> str | None:
    """Return the file of the best prompt that is shorter, of the same kind."""
    found = [one for one in finished(study.get_trials(deepcopy=False))
             if one.user_attrs['rows'] < rows and one.user_attrs['kind'] == kind]
    if not found:
        return None
    best = max(found, key=merit_of)
    return str(RunFolder(sweep.folder.trial(best.number)).prompt.absolute())


