"""What tells one run from another: all that decides its trajectory, ready for JSON."""

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_prompt.config import config_of
from jax_prompt.parallel.hosts import fetch
from jax_prompt.training.folder import RUN_FORMAT
from jax_prompt.training.loop import Run
from jax_prompt.training.settings import PromptSettings, TrainSettings

#: Settings that do not change a run's trajectory: they may differ when it is resumed.
_FREE_SETTINGS = ('steps', 'log_every', 'keep', 'patience', 'evaluation_batch_size', 'microbatches',
                  'compare', 'measure')
#: Settings that came later than the format: at their defaults they say nothing, as before them.
_LATER_SETTINGS = ('prompt_dropout', 'noise', 'adversarial', 'average', 'average_from',
                   'train_limit')
#: Likewise the later arguments of optimizers.
_LATER_ARGUMENTS = {'adafactor': {'parameter_scaling': False, 'factored_from': 128}}


def run_identity(run: Run, prompt: PromptSettings) -> dict[str, Any]:
    """Return what decides the run's trajectory.

    Constructors are told by what they were given, so that nothing depends on how a configuration
    names them; what they made, by its numbers.

    Args:
      run: the run.
      prompt: how it was asked to begin, the initialiser chosen.
    """
    settings = {name: value for name, value in dataclasses.asdict(run.settings).items()
                if name not in _FREE_SETTINGS and not (
                    name in _LATER_SETTINGS and value == getattr(TrainSettings, name))}
    opened = run.opened
    return {
        'format': RUN_FORMAT,
        'model': {'fingerprint': opened.fingerprint, 'vocabulary': opened.vocabulary_fingerprint,
                  **opened.model.numerics,
                  'weights': sorted({str(leaf.dtype) for leaf in jax.tree.leaves(opened.frozen)})},
        **_problems(run),
        'prompt': {'rows': prompt.rows, 'layout': prompt.layout.to_dict(),
                   'method': config_of(run.method), 'initializer': config_of(prompt.initializer),
                   'start': _digest((run.initial, run.constants)), **_worded(run)},
        'optimizer': _told(run.optimizer),
        'settings': settings,
    }


def _problems(run: Run) -> dict[str, Any]:
    """Tell what is learned: a task and its examples, or by its name what each of several is."""
    told = [{'task': one.task.to_dict() | _judged(one.task),
             'examples': {split: found.digest for split, found in one.examples.items()}}
            for one in run.problems]
    if len(told) == 1:
        return told[0]
    return {'tasks': {problem.name: one | {'batch_size': problem.batch_size, 'seed': problem.seed}
                      for problem, one in zip(run.problems, told, strict=True)}}


def _worded(run: Run) -> dict[str, Any]:
    """Tell the design around the rows, where there is one."""
    design = run.problems[0].design
    if design is None:
        return {}
    pool = design.nearest
    return {'design': design.to_dict() | ({'states': _digest(pool.states_ND)} if pool else {})}


def _judged(task: Any) -> dict[str, Any]:
    """Tell what a task is judged by, which decides the prompt that is kept, where it says so."""
    told = {'metrics': config_of(task.metrics), 'golds': getattr(task, 'golds', None)}
    return {name: value for name, value in told.items() if value}


def _digest(tree: Any) -> str:
    """Tell a tree of arrays from any other, in hex."""
    digest = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(fetch(leaf)).tobytes())
    return digest.hexdigest()


def _told(optimizer: optax.GradientTransformation) -> Any:
    """Tell an optimizer by how it was made, or else by what it does."""
    if hasattr(optimizer, 'config'):
        config = config_of(optimizer)
        later = _LATER_ARGUMENTS.get(config['name'], {})
        return {name: value for name, value in config.items()
                if name not in later or value != later[name]}
    params = jnp.linspace(0.5, 2.0, 6).reshape(2, 3)
    state, told = optimizer.init(params), []
    for gradient in (params - 1.0, 3.0 * params):
        updates, state = optimizer.update(gradient, state, params)
        told.append(f'{float(jnp.abs(updates).sum()):.5g}')
    return told
