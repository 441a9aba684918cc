"""Train a prefix for two steps on meshes of eight devices, and print what came of each.

Run by test_prefixes_on_meshes.py, which says what has to come of them.
"""

import dataclasses
import json

import jax
import numpy as np

from jax_prompt.models.t5.int8 import quantise_tree
from jax_prompt.models.t5.model import T5
from jax_prompt.parallel.mesh import make_mesh
from jax_prompt.parallel.placement import global_batch, place
from jax_prompt.parallel.rules import batch_sharding, frozen_shardings, replicated
from jax_prompt.prompts.initializers import InitContext, uniform
from jax_prompt.prompts.methods.prefix_tuning import prefix_tuning
from jax_prompt.training.settings import TrainSettings
from jax_prompt.training.step import init_state, make_train_step
from tests.models.t5.random_weights import init
from tests.parallel.steps_on_meshes import OPTIMIZER, B, P, host_batch, tiny

METHOD = prefix_tuning(3)


def train(sizes: str, int8: bool = False, **settings) -> dict:
    """Take two steps; report losses and the first gradient."""
    mesh = make_mesh(sizes, None if 'data:1,model:1' != sizes else jax.devices()[:1])
    model = dataclasses.replace(tiny(depth=2), activation_sharding=batch_sharding(mesh))
    frozen = init(model, jax.random.key(0))
    context = InitContext(model.embedding_table(frozen), P, lambda text: [5],
                          initializer=uniform(), prefix_shapes=model.prefix_shapes)
    params, constants = METHOD.init(jax.random.key(1), context)
    frozen = quantise_tree(frozen) if int8 else frozen
    frozen = place(frozen, frozen_shardings(mesh, frozen, T5.rules))
    state = place(init_state(params, OPTIMIZER), replicated(mesh))
    step = make_train_step(model, METHOD, OPTIMIZER, TrainSettings(batch_size=B, **settings), mesh)
    losses, gradient = [], None
    for _ in range(2):
        state, metrics = step(state, frozen, global_batch(host_batch(), mesh), constants)
        losses.append(float(metrics['loss']))
        gradient = gradient or [np.ravel(leaf)[::7].tolist()
                                for leaf in jax.tree.leaves(state.opt_state[0].trace)]
    return {'losses': losses, 'gradient': gradient}


if __name__ == '__main__':
    print(json.dumps({
        'one device': train('data:1,model:1'), 'mesh': train('data:4,model:2'),
        'microbatches': train('data:4,model:2', microbatches=2),
        'int8, one device': train('data:1,model:1', int8=True),
        'int8': train('data:2,model:4', int8=True)}))
