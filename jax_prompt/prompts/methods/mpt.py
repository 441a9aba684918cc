"""Multitask prompt tuning: one prompt for all tasks, times a matrix of rank one for each."""

import dataclasses
import os
import pathlib

import jax.numpy as jnp
import numpy as np

from jax_prompt.config import configured
from jax_prompt.prompts.file import load_prompt
from jax_prompt.prompts.initializers import InitContext
from jax_prompt.prompts.method import Method
from jax_prompt.prompts.prompt import Prompt, Tuned
from jax_prompt.prompts.versions import ENDING
from jax_prompt.types import Array, Params


@configured
def mpt(teachers: str | os.PathLike | None = None, distillation: float = 0.9) -> Method:
    """Train a prompt that tasks share, and for each task a matrix of rank one that scales it.

        prompt of a task = shared * (u v^T), number by number

    In a run of several tasks the shared prompt learns from all of them, and the run also leaves it
    as `shared/prompt.safetensors`. To adapt it to another task, start a run with this method from
    that file (`from_array`). The matrices begin as ones: every task with the shared prompt.

    With `teachers`, prompts that were trained for the source tasks one by one, each task also
    learns to give the probabilities that its teacher's prompt gives.

    Args:
        teachers: a folder with a prompt file of each task's name, as a run of the tasks with
            another method leaves it; None for no distillation.
        distillation: weight of the divergence from the teacher's probabilities.

    Returns:
        A method whose parameters are `shared` float32[P, D], and of each task `rows` float32[P]
        (u) and `width` float32[D] (v).

    Raises:
        ValueError: a weight that is not positive; on use, a teacher that is missing or of another
            size.

    Source: Wang et al. 2023 (arXiv:2303.02861), sections 3.2 and 3.3, without the part of its
    distillation that compares hidden states.
    """
    if not 0 < distillation < float('inf'):
        raise ValueError(f'mpt has distillation={distillation}; expected a positive number')

    def init(rng: Array, context: InitContext) -> tuple[Params, Params]:
        params = {'shared': context.start(rng), 'rows': jnp.ones(context.num_rows),
                  'width': jnp.ones(context.d_model)}
        return params, {} if teachers is None else {'teacher': _teacher(teachers, context)}

    def apply(params: Params, constants: Params) -> Tuned:
        del constants
        return Tuned(Prompt(params['shared'] * params['rows'][:, None] * params['width']))

    method = Method('mpt', init, apply, shared=('shared',))
    if teachers is None:
        return method
    return dataclasses.replace(
        method, distillation=distillation,
        teacher=lambda params, constants: Tuned(Prompt(constants['teacher'])))


def _teacher(folder: str | os.PathLike, context: InitContext) -> Array:
    """Read the rows of a task's teacher."""
    path = pathlib.Path(folder) / f'{context.name}{ENDING}'
    if not path.is_file():
        raise ValueError(f'mpt has no teacher {path} for the task; train the tasks together with '
                         'another method first, and give the folder of that run')
    rows_PD = np.asarray(load_prompt(path).prompt.rows)
    expected = context.num_rows, context.d_model
    if rows_PD.shape != expected:
        raise ValueError(f'teacher {path} has shape {rows_PD.shape} but the prompts that are '
                         f'trained have {expected} (rows, width of the model); train teachers of '
                         'as many rows for the same model')
    return jnp.asarray(rows_PD)
