"""Peak memory and time of loading a large random T5 onto several devices, against its weights.

    python -m benchmarks.loading [--size=xl] [--devices=8] [--kind=safetensors] [--weights=bfloat16]

A random checkpoint of T5 1.1's shape is written into a temporary folder, shard by shard, and loaded
in a process of its own onto forced CPU devices, the weights split over all of them. What counts is
the most memory the process ever had resident (VmHWM of /proc/self/status: its own memory and every
file page mapped into it, the interpreter and JAX included), as a multiple of the weights' bytes.
"""

import argparse
import functools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np

_SHARD_BYTES = 10**9
_KINDS = ('safetensors', 'converted')


def write_checkpoint(folder: pathlib.Path, size: str) -> int:
    """Write random bfloat16 weights in Hugging Face's format; return their bytes."""
    from jax_prompt.models.t5.config import t5_1_1
    config = t5_1_1(size)
    (folder / 'config.json').write_text(json.dumps(dict(
        model_type='t5', feed_forward_proj='gated-gelu', tie_word_embeddings=False,
        **{name: getattr(config, name) for name in (
            'vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_heads', 'num_layers')})))
    shards, filled = [{}], 0
    for name, slot in config.slots().items():
        nbytes = 2 * int(np.prod(slot.hugging_face_shape))
        if filled and filled + nbytes > _SHARD_BYTES:
            shards, filled = [*shards, {}], 0
        shards[-1][name] = dict(dtype='BF16', shape=list(slot.hugging_face_shape),
                                data_offsets=[filled, filled + nbytes])
        filled += nbytes
    rng, weight_map, total = np.random.default_rng(0), {}, 0
    for number, header in enumerate(shards, 1):
        file = f'model-{number:05}-of-{len(shards):05}.safetensors'
        weight_map |= dict.fromkeys(header, file)
        total += _write_shard(folder / file, header, rng)
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': weight_map}))
    return total


def _write_shard(path: pathlib.Path, header: dict, rng: np.random.Generator) -> int:
    """Write one file, a tensor at a time."""
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    written = 0
    with path.open('wb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for entry in header.values():
            count = (entry['data_offsets'][1] - entry['data_offsets'][0]) // 2
            # The upper halves of float32 numbers are bfloat16 numbers.
            numbers = rng.random(count, np.float32) - np.float32(0.5)
            file.write(numbers.view(np.uint16)[1::2].tobytes())
            written += 2 * count
        file.flush()
        os.fsync(file.fileno())
        # The page cache is nobody's resident memory, but the machine's: give it back.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return written


def load(folder: str, devices: int, weights: str) -> None:
    """Load in this process and print what it took, as JSON."""
    import jax

    from jax_prompt.parallel.mesh import make_mesh
    from jax_prompt.parallel.rules import frozen_shardings
    from jax_prompt.weights.load import load_weights
    mesh = make_mesh(f'model:{devices}')
    before = _resident()
    start = time.perf_counter()
    model = load_weights(folder, 'bfloat16', functools.partial(frozen_shardings, mesh), weights)
    jax.block_until_ready(model.frozen)
    seconds = time.perf_counter() - start
    leaves = jax.tree.leaves(model.frozen)
    print(json.dumps(dict(
        seconds=seconds, before=before, after=_resident(), peak=_resident('VmHWM'),
        held=sum(part.data.nbytes for leaf in leaves for part in leaf.addressable_shards),
        parameters=sum(leaf.size for leaf in leaves), devices=len(jax.devices()))))


def _resident(field: str = 'VmRSS') -> int:
    status = pathlib.Path('/proc/self/status').read_text()
    return int(re.search(rf'{field}:\s+(\d+) kB', status)[1]) * 1024


def _measure(folder: pathlib.Path, args: argparse.Namespace) -> dict:
    """Load in a new process."""
    flags = f'--xla_force_host_platform_device_count={args.devices}'
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags}
    command = [sys.executable, '-m', 'benchmarks.loading', f'--load={folder}',
               f'--devices={args.devices}', f'--weights={args.weights}']
    out = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(out.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--size', default='xl')
    parser.add_argument('--devices', type=int, default=8)
    parser.add_argument('--kind', choices=_KINDS, default='safetensors')
    parser.add_argument('--weights', choices=('bfloat16', 'int8'), default='bfloat16')
    parser.add_argument('--load', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        return load(args.load, args.devices, args.weights)
    with tempfile.TemporaryDirectory(prefix='t5-') as temporary:
        folder = pathlib.Path(temporary, 'model')
        folder.mkdir()
        write_checkpoint(folder, args.size)
        if args.kind == 'converted':
            from jax_prompt.weights.convert import convert_model
            convert_model(folder, pathlib.Path(temporary, 'converted'), args.weights)
            folder = pathlib.Path(temporary, 'converted')
        result = _measure(folder, args)
    gib = 2**30
    print(f'T5 1.1 {args.size}, {result["parameters"]:,} numbers, {args.kind}, {args.weights}, '
          f'on {result["devices"]} CPU devices: loaded in {result["seconds"]:.1f} s')
    print(f'resident before {result["before"] / gib:.2f} GiB, after {result["after"] / gib:.2f}, '
          f'peak {result["peak"] / gib:.2f}; weights {result["held"] / gib:.2f}')
    print(f'peak / weights {result["peak"] / result["held"]:.3f}')


if __name__ == '__main__':
    main()
