"""Write T5X checkpoints as T5X does (flax's msgpack, tensorstore's zarr), with a prompt in them."""

import pathlib

import numpy as np
from flax import serialization

NAME = 'target.encoder.prompt.prompt.prompt'


def write_native(folder: pathlib.Path, prompt: np.ndarray, inline: bool = False,
                 edit=None) -> pathlib.Path:
    """Write a native checkpoint: a small array of each kind around the prompt.

    Args:
        folder: to be made.
        prompt: the prompt.
        inline: keep it in the msgpack file rather than in a zarr folder.
        edit: called with the state before it is written.
    """
    folder.mkdir(parents=True)
    scale = np.ones(3, np.float32)
    state = {'version': 3, 'optimizer': {
        'state': {'step': np.int32(7), 'param_states': {'encoder': {'prompt': {'prompt': {
            'prompt': {'m': np.zeros(1, np.float32), 'v': scale}}}}}},
        'target': {'decoder': {'decoder_norm': {'scale': scale}},
                   'encoder': {'encoder_norm': {'scale': scale},
                               'prompt': {'prompt': {'prompt': prompt}}}}}}
    if not inline:
        state['optimizer']['target']['encoder']['prompt']['prompt']['prompt'] = write_zarr(
            folder, NAME, prompt)
    if edit is not None:
        edit(state)
    (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(state))
    return folder


def write_orbax(folder: pathlib.Path, prompt: np.ndarray) -> pathlib.Path:
    """Write what T5X's first Orbax checkpoints look like: references by text."""
    folder.mkdir(parents=True)
    write_zarr(folder, NAME, prompt)
    (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize({
        'step': 7, 'target': {'encoder': {'prompt': {'prompt': {
            'prompt': f'PLACEHOLDER://{NAME}'}}}}}))
    return folder


def write_zarr(folder: pathlib.Path, name: str, array: np.ndarray, chunks=None,
               compressor='gzip', **metadata) -> dict:
    """Write an array by tensorstore; return the reference that T5X keeps in its msgpack file."""
    import tensorstore

    spec = {'driver': 'zarr', 'dtype': array.dtype.name,
            'kvstore': {'driver': 'file', 'path': str(folder / name)},
            'metadata': {'shape': list(array.shape), 'chunks': list(chunks or array.shape),
                         'compressor': {'id': compressor, 'level': 1} if compressor else None,
                         **metadata}}
    tensorstore.open(spec, create=True).result().write(array).result()
    return spec | {'kvstore': {'driver': 'gfile', 'path': f'{name}/'}}
