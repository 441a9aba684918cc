"""Build global arrays in two processes, and print what this one saw. Run by test_placement.py."""

import json
import sys

import jax
import numpy as np

port, processes, index = sys.argv[1:]
jax.distributed.initialize(f'127.0.0.1:{port}', int(processes), int(index))

from jax_prompt.models.t5.config import T5Config  # noqa: E402
from jax_prompt.models.t5.model import T5  # noqa: E402
from jax_prompt.parallel.mesh import make_mesh  # noqa: E402  (after the processes have met)
from jax_prompt.parallel.placement import global_batch, host_rows, place  # noqa: E402
from jax_prompt.parallel.rules import frozen_shardings, replicated  # noqa: E402
from tests.models.t5.random_weights import param_shapes  # noqa: E402

ROWS = 16


def as_expected(array: jax.Array, whole: np.ndarray) -> bool:
    """Tell whether an array is `whole`, by the parts that stand on this process's devices."""
    return array.shape == whole.shape and all(
        np.array_equal(part.data, whole[part.index]) for part in array.addressable_shards)


def see(sizes: str) -> dict:
    mesh = make_mesh(sizes)
    whole = np.arange(ROWS * 3).reshape(ROWS, 3).astype(np.float32)
    rows = host_rows(mesh, ROWS)
    batch = global_batch({'x': whole[rows]}, mesh)
    config = T5Config(vocab_size=16, d_model=8, d_kv=2, d_ff=16, num_heads=8, num_layers=1,
                      num_decoder_layers=1)
    random = np.random.default_rng(0)
    frozen = jax.tree.map(lambda leaf: random.standard_normal(leaf.shape, np.float32),
                          param_shapes(T5(config)))
    placed = place(frozen, frozen_shardings(mesh, frozen, T5.rules, shard_weights_over_data=True))
    copy = place({'step': np.int32(7)}, replicated(mesh))
    right = jax.tree.map(as_expected, placed, frozen)
    total = jax.jit(lambda x: (x**2).sum(), out_shardings=replicated(mesh))(batch['x'])
    return {'rows': rows.tolist(), 'batch': as_expected(batch['x'], whole),
            'frozen': all(jax.tree.leaves(right)), 'copy': int(copy['step']),
            'total': float(total) == float((whole**2).sum())}


seen = {sizes: see(sizes) for sizes in
        ('data:8,model:1', 'data:4,model:2', 'data:2,model:4', 'data:1,model:8')}
print(json.dumps(seen))
