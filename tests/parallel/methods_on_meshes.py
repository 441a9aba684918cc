"""Train every method for three steps on one device and on eight, and print what came of each.

Run by test_methods_on_meshes.py, which says what has to come of them.
"""

import dataclasses
import json

import jax
import numpy as np

from jax_prompt.models.t5.model import T5
from jax_prompt.parallel.mesh import make_mesh
from jax_prompt.parallel.placement import global_batch, place
from jax_prompt.parallel.rules import batch_sharding, frozen_shardings, replicated
from jax_prompt.prompts.initializers import InitContext, uniform
from jax_prompt.prompts.methods.dept import dept
from jax_prompt.prompts.methods.dpt import dpt
from jax_prompt.prompts.methods.residual import residual
from jax_prompt.prompts.methods.superpos import superpos
from jax_prompt.prompts.methods.ulpt import ulpt
from jax_prompt.prompts.methods.wayward import wayward
from jax_prompt.prompts.virtual import with_rows_added
from jax_prompt.training.settings import TrainSettings
from jax_prompt.training.step import init_state, make_train_step
from tests.models.t5.random_weights import init
from tests.parallel.steps_on_meshes import OPTIMIZER, B, P, V, host_batch, tiny

ADDED = 6
REGULARISED = dict(noise=0.1, prompt_dropout=0.1, adversarial=0.1, average=0.9)
METHODS = {'residual': residual(8), 'ulpt': ulpt(3), 'dpt': dpt(2), 'superpos': superpos(9),
           'dept': dept(2, ADDED), 'regularised': wayward('7 8')}


def batch_of(name: str) -> dict[str, np.ndarray]:
    batch = host_batch()
    if name == 'dept':
        ids = batch['encoder_input_tokens']
        ids[:, P:P + ADDED] = with_rows_added(
            ids[:, P:P + ADDED], P + np.arange(ADDED), V) * (ids[:, P:P + ADDED] > 0)
    return batch


def train(mesh: jax.sharding.Mesh, name: str, microbatches: int) -> dict:
    """Take three steps; report losses and parameters."""
    model = dataclasses.replace(tiny(depth=1), activation_sharding=batch_sharding(mesh))
    frozen = init(model, jax.random.key(0))
    frozen = place(frozen, frozen_shardings(mesh, frozen, T5.rules))
    table_VD = np.asarray(model.embedding_table(init(model, jax.random.key(0))))
    context = InitContext(table_VD, P, lambda text: [int(word) for word in text.split()],
                          initializer=uniform())
    params, constants = METHODS[name].init(jax.random.key(1), context)
    settings = TrainSettings(batch_size=B, microbatches=microbatches,
                             **REGULARISED if name == 'regularised' else {})
    state = place(init_state(params, OPTIMIZER, settings), replicated(mesh))
    constants = place(constants, replicated(mesh))
    step, losses = make_train_step(model, METHODS[name], OPTIMIZER, settings, mesh), []
    for _ in range(3):
        state, metrics = step(state, frozen, global_batch(batch_of(name), mesh), constants)
        losses.append(float(metrics['loss']))
    leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(state.evaluated)]
    return {'losses': losses, 'params': np.concatenate(leaves).tolist()}


def main() -> None:
    one, eight = make_mesh('data:1', jax.devices()[:1]), make_mesh('data:4,model:2')
    print(json.dumps({name: {'one': train(one, name, 1), 'eight': train(eight, name, 1),
                             'microbatches': train(eight, name, 2)} for name in METHODS}))


if __name__ == '__main__':
    main()
