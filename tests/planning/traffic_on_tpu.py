"""Compile the tiny T5's step for TPUs that are not here, and print what it would send.

Run by test_traffic_on_tpu.py.
"""

import json

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from jax_prompt.parallel.mesh import make_mesh
from jax_prompt.parallel.rules import batch_sharding, frozen_shardings, state_shardings
from jax_prompt.planning.collectives import collective_bytes
from jax_prompt.training.step import init_state, make_train_step
from tests.parallel.steps_on_meshes import METHOD, OPTIMIZER, D, P, host_batch, tiny


def living(tree, shardings):
    """Return a tree's shapes with where they live."""
    return jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=sharding), tree, shardings)


def traffic(mesh: jax.sharding.Mesh, depth: int) -> dict:
    model = tiny(depth)
    frozen = model.param_shapes(jnp.bfloat16)
    state = jax.eval_shape(lambda: init_state({'prompt': jnp.zeros((P, D))}, OPTIMIZER))
    step = make_train_step(model, METHOD, OPTIMIZER)
    batch = host_batch()
    compiled = step.lower(living(state, state_shardings(mesh, state)),
                          living(frozen, frozen_shardings(mesh, frozen)),
                          living(batch, dict.fromkeys(batch, batch_sharding(mesh)))).compile()
    return collective_bytes(compiled, mesh)


topology = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x4')
mesh = make_mesh('data:4,model:2', topology.devices)
print(json.dumps([traffic(mesh, depth) for depth in (2, 6)]))
