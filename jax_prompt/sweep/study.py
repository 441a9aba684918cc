"""The study: what the trials of a sweep were and gave, in SQLite, for all who work on it.

Whoever runs a trial holds a lock on it, which a kill gives back. So a trial that is said to run but
is not locked was lost, and the next process goes on with it: under its number and in its folder,
from its last checkpoint. Optuna's heartbeats would tell the same only after a period of grace, fail
the trial and repeat it under another number, and they would repeat one whose process merely slept.
SQLite, because a write that is cut off by a kill or a full disk is undone; in Optuna's journal
files it would end every later reading.
"""

import contextlib
import dataclasses
import json
import logging
import pathlib
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from jax_prompt.files import locked
from jax_prompt.sweep.space import Space
from jax_prompt.training.folder import check_same

if TYPE_CHECKING:
    import optuna

STUDY_FILE = 'study.db'
TRIALS = 'trials'
SAMPLERS = ('tpe', 'random', 'grid')
_LOCKS = 'locks'
_IDENTITY, _NAME = 'identity', 'sweep'
#: Trials that are drawn evenly before TPE has something to go by, and that run to their ends before
#: there is a curve to prune by.
_STARTUP = {'tpe': 10, 'median': 4}
#: Seconds to wait for another process that writes.
_PATIENCE = 120


@dataclasses.dataclass(frozen=True)
class SweepSettings:
    """How to sweep.

    Attributes:
      trials: of the study in all, whoever runs them; of a grid there are as many as it has points.
      sampler: 'tpe' (Bergstra et al. 2011; draws where trials were good), 'random', or 'grid' for
        every combination of values.
      pruning: end a trial whose best validation so far is below the median of what trials that ran
        to the end had at the same step, as soon as there are a few.
      warm_start: start a prompt of m rows with those of the best one that is shorter, of the same
        method and layout. Longer prompts then have been trained for longer: leave it off to compare
        lengths, switch it on to find a good prompt soon.
      seed: of the sampler.
    """

    trials: int = 30
    sampler: str = 'tpe'
    pruning: bool = True
    warm_start: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.trials < 1:
            raise ValueError(f'a sweep of {self.trials} trials is none; expected at least 1')
        if self.sampler not in SAMPLERS:
            raise ValueError(f'sampler is {self.sampler!r}; expected one of {", ".join(SAMPLERS)}')


class SweepFolder:
    """The folder of a sweep: the study, its locks, and a folder of a run for each trial."""

    def __init__(self, path: pathlib.Path):
        self.path, self._locks = path, path / _LOCKS

    @property
    def study(self) -> pathlib.Path:
        """The database."""
        return self.path / STUDY_FILE

    def trial(self, number: int) -> pathlib.Path:
        """The folder of a trial's run."""
        return self.path / TRIALS / f'{number:04d}'

    def check(self) -> None:
        """Check, before anything is read, that a sweep can be here.

        Raises:
          ValueError: there is something else.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f'output {self.path} is a file; expected the folder of a sweep')
        if self.path.is_dir() and any(self.path.iterdir()) and not self.study.exists() \
                and not self._locks.exists():
            raise ValueError(f'output folder {self.path} holds files but no {STUDY_FILE}, so it is '
                             'no sweep; choose an empty or a new folder')

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process takes a trial or writes the report, and keep it so."""
        self._locks.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + _PATIENCE
        with contextlib.ExitStack() as held:
            while True:
                try:
                    held.enter_context(locked(self._locks / 'study', f'writing {self.study}'))
                    break
                except ValueError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.05)
            yield

    def hold(self, number: int) -> contextlib.ExitStack | None:
        """Take a trial for oneself; None if another process runs it."""
        held = contextlib.ExitStack()
        try:
            held.enter_context(locked(self._locks / f'{number:04d}', f'running trial {number}'))
        except ValueError:
            return None
        return held


def import_optuna() -> Any:
    """Return Optuna, told to leave speaking to the sweep.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ValueError(f'a sweep needs the Python package {error.name!r}, which is not '
                         "installed: pip install 'jax-prompt[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings('ignore', category=optuna.exceptions.ExperimentalWarning)
    logging.getLogger('alembic').setLevel(logging.WARNING)
    return optuna


def open_study(folder: SweepFolder, space: Space, settings: SweepSettings,
               identity: Mapping[str, Any]) -> 'optuna.Study':
    """Open the study of a folder, or begin it.

    Args:
      folder: of the sweep.
      space: what is varied.
      settings: how.
      identity: what all trials have in common, ready for JSON; a study has one.

    Raises:
      ValueError: the folder's study is of another search space or of another identity.
    """
    optuna, ours = import_optuna(), {'space': space.told(), **identity}
    points = list(space.grid()) if settings.sampler == 'grid' else []
    with folder.alone():
        storage = _storage(folder)
        # Not before training: what a start gives says little of what it leads to.
        pruner = optuna.pruners.MedianPruner(_STARTUP['median'], n_warmup_steps=1) \
            if settings.pruning else optuna.pruners.NopPruner()
        study = optuna.create_study(storage=storage, study_name=_NAME, direction='maximize',
                                    pruner=pruner, load_if_exists=True)
        theirs = study.user_attrs.get(_IDENTITY)
        if theirs is None:  # new, or killed before it was done
            for point in points[len(study.trials):]:
                study.enqueue_trial(point)
            study.set_user_attr(_IDENTITY, ours)
        else:
            _check_identity(ours, theirs, folder.study)
    return study


def recorded(folder: SweepFolder) -> Mapping[str, Any] | None:
    """Return the identity that a folder's study was begun with; None where there is none."""
    if not folder.study.exists():
        return None
    optuna = import_optuna()
    with folder.alone():
        try:
            study = optuna.load_study(study_name=_NAME, storage=_storage(folder))
        except KeyError:  # killed before it was made
            return None
        return study.user_attrs.get(_IDENTITY)


def _storage(folder: SweepFolder) -> 'optuna.storages.RDBStorage':
    return import_optuna().storages.RDBStorage(
        f'sqlite:///{folder.study.absolute()}',
        engine_kwargs={'connect_args': {'timeout': _PATIENCE}})


def _check_identity(ours: Mapping[str, Any], theirs: Mapping[str, Any],
                    where: pathlib.Path) -> None:
    spaces = json.loads(json.dumps(ours['space'])), theirs['space']
    for name in sorted(spaces[0].keys() | spaces[1].keys()):
        here, there = (repr(space[name]) if name in space else 'not varied' for space in spaces)
        if here != there:
            raise ValueError(f'study {where} is of another search space: {name} is {there} there '
                             f'and {here} here; name another output, or the same space to go on')
    check_same(dict(ours), dict(theirs), f'study {where}')


def take(study: 'optuna.Study', folder: SweepFolder, space: Space, settings: SweepSettings,
         ) -> 'tuple[optuna.Trial, contextlib.ExitStack] | None':
    """Take a trial that nobody runs: one that was lost, else a new one; None if there is none.

    Args:
      study, folder, space, settings: of the sweep.

    Returns:
      The trial, with all parameters drawn, and what holds it.
    """
    optuna = import_optuna()
    states = optuna.trial.TrialState
    with folder.alone():
        trials = study.get_trials(deepcopy=False)
        for one in trials:
            held = folder.hold(one.number) if one.state == states.RUNNING else None
            if held is None:
                continue
            if study.get_trials(deepcopy=False)[one.number].state != states.RUNNING:
                held.close()  # it has ended in this moment
                continue
            # Optuna's public calls know a running trial by its id alone.
            trial = optuna.Trial(study, one._trial_id)
            space.suggest(trial)  # what was not drawn when its process was killed
            return trial, held
        waiting = any(one.state == states.WAITING for one in trials)
        if not waiting and (settings.sampler == 'grid' or len(trials) >= settings.trials):
            return None
        # Of its number alone: two processes draw different points, and the same whoever draws.
        seed = settings.seed * 100_003 + len(trials)
        study.sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=_STARTUP['tpe']) if settings.sampler == 'tpe' else \
            optuna.samplers.RandomSampler(seed=seed)
        trial = study.ask()
        held = folder.hold(trial.number)
        assert held is not None, 'nobody else takes a trial now'
        space.suggest(trial)
        return trial, held
