"""Load every kind of checkpoint onto several devices; print what stands where.

Run by test_placing.py: MODELS is a folder of checkpoints; for several processes the arguments are a
port, their number and this one's index.
"""

import json
import os
import pathlib
import sys

import jax
import numpy as np

folder = pathlib.Path(os.environ['MODELS'])
if len(sys.argv) > 1:
    port, processes, index = sys.argv[1:]
    jax.distributed.initialize(f'127.0.0.1:{port}', int(processes), int(index))

from jax_prompt.models.t5.model import T5  # noqa: E402
from jax_prompt.parallel.mesh import make_mesh  # noqa: E402
from jax_prompt.parallel.rules import frozen_shardings  # noqa: E402
from jax_prompt.weights import assemble, tensors  # noqa: E402  (the processes have met)
from jax_prompt.weights.load import load_weights  # noqa: E402

# Small blocks, so that a tensor is cut into several of them.
assemble._BLOCK_BYTES = 200


def see(source: pathlib.Path, mesh: jax.sharding.Mesh, **options) -> dict:
    """Load on a mesh and as numpy, and compare each device's part with the whole."""
    def shardings(shapes, rules=T5.rules):
        return frozen_shardings(mesh, shapes, rules, shard_weights_over_data=True)

    read = []
    whole_file = tensors.RawFile.read
    tensors.RawFile.read = lambda file, at, size: read.append(size) or whole_file(file, at, size)
    placed = load_weights(source, shardings=shardings, **options)
    on_devices, read = sum(read), []
    whole = load_weights(source, **options)
    tensors.RawFile.read = whole_file

    def right(array, expected):
        same = [np.array_equal(part.data, expected[part.index])
                for part in array.addressable_shards]
        wanted = len(jax.local_devices()) if array.sharding.mesh.size > 1 else 1
        return (array.dtype == expected.dtype and array.shape == expected.shape
                and len(same) == wanted and all(same))

    wanted = shardings(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype),
                                    whole.frozen))
    moved = jax.tree.map(lambda leaf, sharding: not leaf.sharding.is_equivalent_to(
        sharding, leaf.ndim), placed.frozen, wanted)
    return {'right': all(jax.tree.leaves(jax.tree.map(right, placed.frozen, whole.frozen))),
            'same tree': jax.tree.structure(placed.frozen) == jax.tree.structure(whole.frozen),
            'moved': any(jax.tree.leaves(moved)), 'read': on_devices, 'read whole': sum(read),
            'same model': placed.fingerprint == whole.fingerprint,
            'held': sum(part.data.nbytes for leaf in jax.tree.leaves(placed.frozen)
                        for part in leaf.addressable_shards),
            'bytes': sum(leaf.nbytes for leaf in jax.tree.leaves(whole.frozen))}


def main() -> None:
    report = {}
    sizes = 'data:2,model:4' if jax.process_count() == 1 else 'data:1,model:4'
    mesh = make_mesh(sizes)
    for kind in sorted(child.name for child in folder.iterdir()):
        report[kind] = see(folder / kind, mesh)
    report['bfloat16'] = see(folder / 'safetensors', mesh, dtype='bfloat16')
    report['int8'] = see(folder / 'safetensors', mesh, weights='int8')
    if jax.process_count() == 1:
        report['one device'] = see(folder / 'safetensors',
                                   make_mesh('data:1', jax.devices()[:1]))
    print(json.dumps(report))


if __name__ == '__main__':
    main()
