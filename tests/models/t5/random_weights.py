"""Random weights at T5's initial scales, their shapes, and how Hugging Face lays them out."""

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.models.t5.layers import DecoderLayer, EncoderLayer


def param_shapes(model, dtype=jnp.float32):
    """Return the tree's shapes as `jax.ShapeDtypeStruct`; nothing is allocated."""
    return jax.eval_shape(lambda: init(model, jax.random.key(0), dtype))


def init(model, rng, dtype=jnp.float32):
    """Return a randomly initialised tree of a `T5`, every weight of this dtype."""
    cfg = model.config
    keys = jax.random.split(rng, 6)
    tree = {
        'token_embedder': {'embedding': jax.random.normal(keys[0], (cfg.vocab_size,
                                                                    cfg.d_model))},
        'encoder': _init_stack(keys[1], EncoderLayer(cfg, model.precision), cfg.num_layers),
        'decoder': _init_stack(keys[2], DecoderLayer(cfg, model.precision), cfg.num_decoder_layers),
    }
    if not cfg.tied_head:
        kernel = jax.random.normal(keys[3], (cfg.d_model, cfg.vocab_size))
        tree['lm_head'] = {'kernel': kernel * cfg.d_model**-0.5}
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def _init_stack(rng, layer, depth):
    """Initialise the layers of one stack, stacked, with its bias table and final norm."""
    cfg = layer.config
    hidden = jnp.zeros((1, 1, cfg.d_model), layer.precision.activations)
    args = (hidden, (), jnp.zeros((1, 1), jnp.int32))
    if isinstance(layer, DecoderLayer):
        args = (hidden, *args, ())
    layer_rng, bias_rng = jax.random.split(rng)
    keys = jax.random.split(layer_rng, depth)
    stack = {
        'layers': jax.vmap(lambda key: layer.init(key, *args)['params'])(keys),
        'final_norm': {'scale': jnp.ones(cfg.d_model)},
    }
    if not cfg.per_layer_relative_bias:
        shape = (cfg.relative_attention_num_buckets, cfg.num_heads)
        table = jax.random.normal(bias_rng, shape) * cfg.d_model**-0.5
        stack['relative_bias'] = {'embedding': table}
    return stack


def to_hugging_face(frozen, config):
    """Lay a tree out as a Hugging Face state dict of numpy arrays, each tensor once."""
    tensors = {}
    for name, slot in config.slots().items():
        leaf = frozen
        for key in slot.path:
            leaf = leaf[key]
        array = np.asarray(leaf if slot.layer is None else leaf[slot.layer])
        if slot.inputs:
            array = array.reshape(slot.matrix_shape).T
        tensors[name] = np.ascontiguousarray(array)
    return tensors
