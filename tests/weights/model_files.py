"""Write a frozen tree as each kind of checkpoint, and as a PyTorch module."""

import json
import pathlib

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from tests.models.t5.random_weights import to_hugging_face
from tests.weights import t5x_files

_T5X_NORMS = {'self_attention': 'pre_self_attention_layer_norm',
              'cross_attention': 'pre_cross_attention_layer_norm',
              'feed_forward': 'pre_mlp_layer_norm'}
_T5X_PARTS = {'self_attention': 'self_attention', 'cross_attention': 'encoder_decoder_attention',
              'feed_forward': 'mlp'}


def assert_same_tree(got, expected):
    """Two trees have the same structure, dtypes and bits."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def torch_module(config, frozen, said):
    """transformers' own module with the weights of a tree; `said` is its config.json as a dict."""
    import torch
    import transformers
    kind = 'UMT5' if config.per_layer_relative_bias else 'T5'
    module = getattr(transformers, f'{kind}ForConditionalGeneration')(
        getattr(transformers, f'{kind}Config')(**said))
    tensors = {name: torch.from_numpy(array)
               for name, array in to_hugging_face(frozen, config).items()}
    if not config.tied_head:
        module.lm_head.weight = torch.nn.Parameter(torch.empty_like(tensors['lm_head.weight']))
    module.load_state_dict(tensors, strict=False)
    return module.eval()


def split_in_two(folder):
    """Split a folder's safetensors into two shards with an index."""
    tensors = load_file(folder / 'model.safetensors')
    (folder / 'model.safetensors').unlink()
    names = sorted(tensors)
    weight_map = {}
    for part, chosen in enumerate((names[::2], names[1::2]), 1):
        file = f'model-0000{part}-of-00002.safetensors'
        save_file({name: tensors[name] for name in chosen}, folder / file)
        weight_map |= dict.fromkeys(chosen, file)
    (folder / 'model.safetensors.index.json').write_text(
        json.dumps({'metadata': {}, 'weight_map': weight_map}))
    return folder


def t5x_tree(frozen, scanned=False, fused=True) -> dict:
    """Name and lay out a frozen tree as T5X does.

    Args:
      frozen: the tree, in numpy.
      scanned: the layers of a parameter together on axis 1 (scalable_t5), or each by itself.
      fused: heads and head width in one axis (t5), or in two (scalable_t5).
    """
    tree = {'token_embedder': dict(frozen['token_embedder'])}
    for stack in ('encoder', 'decoder'):
        ours, theirs = frozen[stack], {}
        theirs[f'{stack}_norm'] = dict(ours['final_norm'])
        if 'relative_bias' in ours:
            theirs['relpos_bias'] = {'rel_embedding': ours['relative_bias']['embedding'].T}
        layers = [_t5x_layer(jax.tree.map(lambda leaf, n=n: leaf[n], ours['layers']), stack, fused)
                  for n in range(len(ours['layers']['feed_forward']['norm']['scale']))]
        if scanned:
            theirs[stack] = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *layers)
        else:
            theirs |= {f'layers_{n}': layer for n, layer in enumerate(layers)}
        tree[stack] = theirs
    if 'lm_head' in frozen:
        tree['decoder']['logits_dense'] = dict(frozen['lm_head'])
    return tree


def _t5x_layer(layer, stack, fused) -> dict:
    """One layer under T5X's names."""
    theirs = {}
    for part, modules in layer.items():
        norm, module = _T5X_NORMS[part], _T5X_PARTS[part]
        if stack == 'encoder' and part == 'self_attention':
            norm, module = 'pre_attention_layer_norm', 'attention'
        theirs[norm] = dict(modules['norm'])
        theirs[module] = {}
        for name, leaves in modules.items():
            if name == 'relative_bias':
                theirs['relpos_bias'] = {'rel_embedding': leaves['embedding'].T}
            elif name != 'norm':
                kernel = leaves['kernel']
                if fused and kernel.ndim == 3:
                    joined = (kernel.shape[0] * kernel.shape[1], kernel.shape[2])
                    kernel = kernel.reshape(joined if name == 'out' else (kernel.shape[0], -1))
                theirs[module][name] = {'kernel': kernel}
    return theirs


def write_t5x(folder: pathlib.Path, tree: dict, orbax: bool = False, smallest: int = 20) -> None:
    """Write a tree as a native T5X checkpoint, or one of T5X's first Orbax checkpoints.

    Args:
      folder: to be made.
      tree: from `t5x_tree`.
      orbax: refer to the arrays by text, and keep all of them beside.
      smallest: arrays of fewer numbers stand in the msgpack file of a native checkpoint.
    """
    from flax import serialization
    folder.mkdir(parents=True)

    def write(path, array):
        name = '.'.join(['target', *(key.key for key in path)])
        if array.size < smallest and not orbax:
            return array
        chunks = [max(1, -(-size // 2)) for size in array.shape]
        spec = t5x_files.write_zarr(folder, name, np.ascontiguousarray(array), chunks)
        return f'PLACEHOLDER://{name}' if orbax else spec

    target = jax.tree_util.tree_map_with_path(write, tree)
    state = {'step': np.int32(7), 'param_states': {'v': np.ones(3, np.float32)}}
    whole = {'target': target, 'state': state}
    (folder / 'checkpoint').write_bytes(serialization.msgpack_serialize(
        whole if orbax else {'version': 3, 'optimizer': whole}))


def write_later_orbax(folder: pathlib.Path, tree: dict, **options) -> None:
    """Write a tree as today's Orbax does, with T5X's folder `state`."""
    import orbax.checkpoint as ocp
    state = {'target': tree, 'state': {'step': np.int32(7)}}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(folder.resolve() / 'state', args=ocp.args.PyTreeSave(state))
