"""`jax-prompt sweep`."""

import copy
import pathlib
from collections.abc import Mapping
from typing import Any

import gin

from jax_prompt.commands import gin_setup
from jax_prompt.commands.reachable import operative_configuration, reached_by
from jax_prompt.commands.shared import Opener, require
from jax_prompt.data.tasks.registered import RegisteredTask
from jax_prompt.data.tasks.text_task import TextTask
from jax_prompt.evaluation.registry import check_metrics
from jax_prompt.files import brief
from jax_prompt.sweep.report import (
    BEST_FILE,
    REPORT_FILE,
    described,
    figure_of,
    finished,
    merit_of,
)
from jax_prompt.sweep.run import Sweep, TrialSettings, run_sweep
from jax_prompt.sweep.space import Space
from jax_prompt.sweep.study import SweepFolder, SweepSettings, import_optuna

#: What a trial takes of `train`'s configuration.
_VARIED = ('prompt', 'optimizer', 'settings')
#: What trials may differ in without being of another study: where they are written and run.
_FREE = ('train', 'mesh', 'layers')


def sweep_command(model: Opener | None = None, task: TextTask | RegisteredTask | None = None,
                  space: Mapping[str, Any] | None = None, output: str | None = None,
                  study: SweepSettings | None = None, quiet: bool = True) -> int:
    """Train with many settings, as `train` is configured but for those that the space varies.

    See `sweep.run.run_sweep`. The folder holds `report.md`, `trials.csv`, pictures, and `best.gin`,
    which `jax-prompt train` takes.
    """
    require(model, 'model', '--model=SOURCE')
    require(task, 'task', '--task=NAME or --task=FILE.csv')
    require(space, 'search space', "--gin.sweep.space=\"{'prompt.rows': [5, 20]}\"")
    require(output, 'output folder', '--output=FOLDER')
    if gin.get_bindings('train', resolve_references=False).get('tasks') is not None:
        raise ValueError('train.tasks is set, but a sweep is of one task; name it with --task')
    import_optuna()
    folder, space = SweepFolder(pathlib.Path(output)), Space.of(space)
    folder.check()
    check_metrics(task)
    base = {name: value for name, value in operative_configuration('train').items()
            if name not in space.parameters and name.split('.')[0].split('/')[-1] not in _FREE}
    initializer = gin.get_bindings('prompt', resolve_references=False).get('initializer')
    _check(space)

    def build(params: Mapping[str, Any], start: str | None) -> TrialSettings:
        gin.bind_parameter('prompt.initializer', initializer)  # of the trial before it may be here
        gin_setup.rebind(params)
        if start is not None:
            rest = gin.get_bindings('prompt', resolve_references=False).get('initializer')
            gin.bind_parameter('extended.fallback', rest)
            gin_setup.rebind({'prompt.initializer': '@extended()', 'extended.source': start})
        bound = gin.get_bindings('train', resolve_references=False)
        made = {name: copy.deepcopy(bound.get(name)) for name in _VARIED}
        return TrialSettings(**made, configuration=operative_configuration('train'))

    found = run_sweep(Sweep(model(), task, folder, space, build, study or SweepSettings(), base,
                            quiet))
    _print(found, folder)
    return 0


def _check(space: Space) -> None:
    """Check, before anything is read, that gin takes all values, and that each has an effect."""
    reached: set[str] = set()
    for name, parameter in space.parameters.items():
        for value in parameter.ends:
            gin_setup.rebind({name: value})
            reached |= reached_by('train', _VARIED)
    for name in space.parameters:
        owner, _, parameter = name.rpartition('.')
        if (owner or name) not in reached and not (owner == 'train' and parameter in _VARIED):
            raise ValueError(f'{name} in the search space has no effect: neither prompt, optimizer '
                             f'nor settings of a trial lead to {brief(owner or name)}; leave it '
                             'out, or let a choice of another parameter refer to it')


def _print(study: Any, folder: SweepFolder) -> None:
    """Print how the best trials did, and where the rest stands."""
    done = sorted(finished(study.get_trials(deepcopy=False)), key=merit_of, reverse=True)
    for one in done[:5]:
        print(f'trial {one.number}: {one.user_attrs["choose_by"]} {figure_of(one):.4f} on '
              f'validation, best step {one.user_attrs["best_step"]}: {described(one.params)}')
    running = sum(one.state.name == 'RUNNING' for one in study.get_trials(deepcopy=False))
    if running:
        print(f'{running} trials are run by other processes; the same command goes on with those '
              'that these leave')
    print(f'all trials, importances and pictures: {folder.path / REPORT_FILE}')
    if (folder.path / BEST_FILE).exists():
        print(f'to train with the best: jax-prompt train --gin_file={folder.path / BEST_FILE}')
