"""The one table between Hugging Face's T5 tensor names and the frozen tree.

Hugging Face stores a tensor a layer, and a projection as `[outputs, inputs]`, as PyTorch does. The
frozen tree stacks the layers on a leading axis and keeps inputs first, heads apart:

    encoder.block.3.layer.0.SelfAttention.q.weight  [H*K, D]
    -> encoder/layers/self_attention/query/kernel   [N, D, H, K] at index 3

ONNX exports go through the same table: their graphs name the modules that the tensors belong to.
"""

import dataclasses
import math

import numpy as np

from jax_prompt.models.t5.config import T5Config
from jax_prompt.types import Params

EMBEDDING = 'shared.weight'
HEAD = 'lm_head.weight'

#: Copies of `shared.weight` that many files carry; each must equal it.
EMBEDDING_COPIES = ('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight')

#: Tensors of the first T5 conversions that no implementation ever read.
NEVER_READ = ('decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight',)

_PROJECTIONS = {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'out'}
_RELATIVE_BIAS = 'block.0.layer.0.SelfAttention.relative_attention_bias.weight'


@dataclasses.dataclass(frozen=True)
class Slot:
    """Say where one Hugging Face tensor stands in the frozen tree.

    Attributes:
      path: keys from the root of the tree to the leaf.
      layer: index on the leaf's leading axis, or None where the leaf is not stacked.
      depth: length of that axis, or None.
      shape: of this tensor in the tree, without the leading axis.
      inputs: how many leading axes of `shape` are a projection's inputs; 0 for tables and vectors,
        which are stored as they are.
    """

    path: tuple[str, ...]
    layer: int | None
    depth: int | None
    shape: tuple[int, ...]
    inputs: int

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """The shape with the inputs joined and the outputs joined: what a MatMul multiplies by."""
        if not self.inputs:
            return self.shape
        return math.prod(self.shape[:self.inputs]), math.prod(self.shape[self.inputs:])

    @property
    def hugging_face_shape(self) -> tuple[int, ...]:
        """The shape of the tensor in a Hugging Face file."""
        return self.matrix_shape[::-1] if self.inputs else self.shape

    @property
    def leaf_shape(self) -> tuple[int, ...]:
        """The shape of the whole leaf, its leading axis included."""
        return self.shape if self.depth is None else (self.depth, *self.shape)


def slots(config: T5Config) -> dict[str, Slot]:
    """List the tensors of a Hugging Face T5 and their places in the frozen tree.

    Args:
      config: the model's shape.

    Returns:
      Hugging Face tensor name -> place, each tensor of the model once.
    """
    vocabulary = (config.vocab_size, config.d_model)
    table = {EMBEDDING: Slot(('token_embedder', 'embedding'), None, None, vocabulary, 0)}
    for stack, depth in (('encoder', config.num_layers), ('decoder', config.num_decoder_layers)):
        for layer in range(depth):
            table |= _block(config, stack, layer, depth)
        table[f'{stack}.final_layer_norm.weight'] = Slot(
            (stack, 'final_norm', 'scale'), None, None, (config.d_model,), 0)
        if not config.per_layer_relative_bias:
            table[f'{stack}.{_RELATIVE_BIAS}'] = Slot(
                (stack, 'relative_bias', 'embedding'), None, None, _bias_shape(config), 0)
    if not config.tied_head:
        table[HEAD] = Slot(('lm_head', 'kernel'), None, None, vocabulary[::-1], 1)
    return table


def leaf_shapes(config: T5Config) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Return path -> shape for each leaf of the frozen tree."""
    return {slot.path: slot.leaf_shape for slot in slots(config).values()}


def to_hugging_face(frozen: Params, config: T5Config) -> dict[str, np.ndarray]:
    """Lay a frozen tree out as a Hugging Face state dict.

    Args:
      frozen: the tree, on host or device.
      config: the shape it has.

    Returns:
      Tensor name -> numpy array in the leaf's own dtype, each tensor once (the copies of the
      embedding table, which PyTorch modules tie, are left out).
    """
    tensors = {}
    for name, slot in slots(config).items():
        leaf = frozen
        for key in slot.path:
            leaf = leaf[key]
        array = np.asarray(leaf if slot.layer is None else leaf[slot.layer])
        if slot.inputs:
            array = array.reshape(slot.matrix_shape).T
        tensors[name] = np.ascontiguousarray(array)
    return tensors


def _bias_shape(config: T5Config) -> tuple[int, int]:
    return config.relative_attention_num_buckets, config.num_heads


def _block(config: T5Config, stack: str, layer: int, depth: int) -> dict[str, Slot]:
    """The tensors of one block: self-attention, cross-attention in the decoder, feed-forward."""
    table = {}

    def add(name, path, shape, inputs=0):
        table[f'{stack}.block.{layer}.layer.{name}.weight'] = Slot(
            (stack, 'layers', *path), layer, depth, shape, inputs)

    width, heads, head_width = config.d_model, config.num_heads, config.d_kv
    attentions = [('SelfAttention', 'self_attention')]
    if stack == 'decoder':
        attentions.append(('EncDecAttention', 'cross_attention'))
    for index, (module, part) in enumerate(attentions):
        add(f'{index}.layer_norm', (part, 'norm', 'scale'), (width,))
        for letter, projection in _PROJECTIONS.items():
            shape, inputs = (width, heads, head_width), 1
            if letter == 'o':
                shape, inputs = (heads, head_width, width), 2
            add(f'{index}.{module}.{letter}', (part, projection, 'kernel'), shape, inputs)
    if config.per_layer_relative_bias:
        add('0.SelfAttention.relative_attention_bias',
            ('self_attention', 'relative_bias', 'embedding'), _bias_shape(config))
    last = len(attentions)
    add(f'{last}.layer_norm', ('feed_forward', 'norm', 'scale'), (width,))
    for kernel in ('wi_0', 'wi_1') if config.gated else ('wi',):
        add(f'{last}.DenseReluDense.{kernel}', ('feed_forward', kernel, 'kernel'),
            (width, config.d_ff), 1)
    add(f'{last}.DenseReluDense.wo', ('feed_forward', 'wo', 'kernel'), (config.d_ff, width), 1)
    return table
