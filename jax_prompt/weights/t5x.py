"""Read T5 weights from T5X checkpoints, the format of Google's releases.

T5X names its parameters by module and keeps projections as one multiplies by them:

    encoder/layers_3/attention/query/kernel   [D, H*K]         or [D, H, K]
    encoder/encoder/attention/query/kernel    [D, N, H*K]      where its layers are scanned
    encoder/relpos_bias/rel_embedding         [H, buckets]

Its queries and keys are not scaled either, and a tied head is preceded by the same scale as here.

Source: t5x/examples/t5 and t5x/examples/scalable_t5 (`layers.py`, `network.py`).
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from jax_prompt.models.architecture import ModelConfig
from jax_prompt.models.families import family_of
from jax_prompt.models.t5 import family as t5
from jax_prompt.models.t5.config import EMBEDDING, HEAD
from jax_prompt.weights.array_folder import Array, Folder
from jax_prompt.weights.huggingface import parse_object
from jax_prompt.weights.t5x_arrays import find_model
from jax_prompt.weights.tensors import Checkpoint, Stored

_BIAS = 'SelfAttention.relative_attention_bias'
_ENCODER = {'pre_attention_layer_norm': '0.layer_norm', 'attention': '0.SelfAttention',
            'pre_mlp_layer_norm': '1.layer_norm', 'mlp': '1.DenseReluDense', 'relpos_bias': '0'}
_DECODER = {'pre_self_attention_layer_norm': '0.layer_norm', 'self_attention': '0.SelfAttention',
            'pre_cross_attention_layer_norm': '1.layer_norm',
            'encoder_decoder_attention': '1.EncDecAttention',
            'pre_mlp_layer_norm': '2.layer_norm', 'mlp': '2.DenseReluDense', 'relpos_bias': '0'}
_LEAVES = {'query/kernel': '.q', 'key/kernel': '.k', 'value/kernel': '.v', 'out/kernel': '.o',
           'wi/kernel': '.wi', 'wi_0/kernel': '.wi_0', 'wi_1/kernel': '.wi_1', 'wo/kernel': '.wo',
           'scale': '', 'rel_embedding': f'.{_BIAS}'}
_WHOLE = {'token_embedder/embedding': EMBEDDING, 'decoder/logits_dense/kernel': HEAD,
          'encoder/encoder_norm/scale': 'encoder.final_layer_norm.weight',
          'decoder/decoder_norm/scale': 'decoder.final_layer_norm.weight',
          'encoder/relpos_bias/rel_embedding': f'encoder.block.0.layer.0.{_BIAS}.weight',
          'decoder/relpos_bias/rel_embedding': f'decoder.block.0.layer.0.{_BIAS}.weight'}
_LAYER = re.compile(r'(encoder|decoder)/(?:layers_(\d+)|\1)/(\w+)/(.+)')
#: What is larger is read by rows.
_WHOLE_BYTES = 2**28
_MOST_LAYERS = 1024


def is_t5x(folder: pathlib.Path) -> bool:
    """Tell whether a local folder looks like a T5X checkpoint."""
    return any((folder / inner / name).is_file() for inner in ('', 'state')
               for name in ('checkpoint', '_METADATA'))


def open_t5x(path: str, name: str) -> Checkpoint:
    """Open one T5X checkpoint, native or Orbax's.

    A T5X checkpoint says nothing of its configuration. A `config.json` in Hugging Face's form may
    lie in the folder and tells it then. Without one the shapes do, but for what they cannot tell: a
    gated feed-forward layer is taken for T5 1.1's (GELU) and any other for T5 1.0's (ReLU), so that
    UL2 (gated SiLU) needs the file; the largest distance of the relative bias, the special ids and
    the dropout rate take T5's usual values. The head is tied where there is no `logits_dense`.

    The fingerprint is that of the same numbers in Hugging Face's format, in the same dtype.

    Args:
      path: one checkpoint, such as '.../checkpoint_1100000'; may be a gs:// address.
      name: what to call the model.

    Returns:
      The checkpoint.

    Raises:
      FileNotFoundError: when there is no checkpoint.
      ValueError: for a damaged checkpoint, or an unexpected array, naming it.
    """
    arrays = find_model(path).open()
    tensors = {}
    for parameter, array in arrays.items():
        for tensor, stored in _tensors(parameter, array, path):
            if tensor in tensors:
                raise ValueError(f'{path} has {tensor!r} twice, once as {parameter!r}; '
                                 'expected scanned layers or single ones, not both')
            tensors[tensor] = stored
    shared_bias = 'encoder/relpos_bias/rel_embedding' in arrays
    return Checkpoint(_config(path, name, tensors, shared_bias), tensors)


def _tensors(parameter: str, array: Array, path: str) -> Iterator[tuple[str, Stored]]:
    """The tensors by Hugging Face's names that one parameter of T5X holds."""
    if parameter in _WHOLE:
        yield _WHOLE[parameter], _stored(parameter, array, path)
        return
    found = _LAYER.fullmatch(parameter)
    modules = _ENCODER if found and found[1] == 'encoder' else _DECODER
    if not found or found[3] not in modules or found[4] not in _LEAVES:
        prompt = ('; a prompt is imported by itself, and the model from the checkpoint it was '
                  'trained on' if 'prompt' in parameter else '')
        raise ValueError(f'{path} has an unexpected parameter {parameter!r:.200} '
                         f'{list(array.shape)}; a T5 has no such parameter{prompt}')
    stack, layer, module, leaf = found.groups()
    tensor = f'layer.{modules[module]}{_LEAVES[leaf]}.weight'
    if layer is not None:
        yield f'{stack}.block.{int(layer)}.{tensor}', _stored(parameter, array, path)
        return
    if len(array.shape) < 2 or array.shape[1] > _MOST_LAYERS:
        raise ValueError(f'{path} has the scanned parameter {parameter!r} with shape '
                         f'{list(array.shape)}; expected the layers on axis 1')
    for number in range(array.shape[1]):
        yield (f'{stack}.block.{number}.{tensor}',
               _stored(parameter, _one_layer(array, number), path))


def _one_layer(array: Array, number: int) -> Array:
    """One layer of a scanned parameter, whose layers are on axis 1."""
    def read(index: tuple[slice, ...]) -> np.ndarray:
        return array.read((*index[:1], number, *index[1:]))

    return Array((array.shape[0], *array.shape[2:]), array.dtype, read)


def _stored(parameter: str, array: Array, path: str) -> Stored:
    """A parameter as Hugging Face keeps it: a projection or table of biases is transposed."""
    where, shape = f'{path} ({parameter})', array.shape
    is_kernel, whole = parameter.endswith('kernel'), (slice(None),) * len(shape)
    large = len(shape) == 2 and math.prod(shape) * array.dtype.itemsize > _WHOLE_BYTES
    if not is_kernel and not parameter.endswith('rel_embedding'):
        return Stored(where, array.dtype, shape, lambda start, stop: array.read(
            (slice(start, stop), *whole[1:])), sliced=large)
    split = 2 if parameter.endswith('out/kernel') and len(shape) == 3 else 1
    matrix = math.prod(shape[:split]), math.prod(shape[split:])

    def read(start: int, stop: int) -> np.ndarray:
        if large:
            return array.read((slice(None), slice(start, stop))).T
        return array.read(whole).reshape(matrix).T[start:stop]

    return Stored(where, array.dtype, matrix[::-1], read, sliced=large)


def _config(path: str, name: str, tensors: dict[str, Stored], shared_bias: bool) -> ModelConfig:
    """The configuration from config.json or else from the shapes; the head as found."""
    found = dict(tied_head=HEAD not in tensors, scale_decoder_outputs=HEAD not in tensors,
                 per_layer_relative_bias=not shared_bias)
    content = Folder(path).file('config.json')
    if content is None:
        activation = 'gelu' if t5.is_gated(tensors) else 'relu'
        return t5.from_shapes(tensors, path, activation=activation, name=name, **found)
    where = f'{path}/config.json'
    said = parse_object(content, where)
    return dataclasses.replace(
        family_of(said, where).from_hugging_face(said, where, name), **found)
