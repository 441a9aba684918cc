"""Read T5 weights from ONNX exports, float or quantised.

An exporter keeps the names of the PyTorch modules in the names of the graph's *nodes*
(`/encoder/block.0/layer.0/SelfAttention/q/MatMul`), while the matrices themselves are called
`onnx::MatMul_1022` or the like. So weights are found by the node that uses them. Quantised weights
become `(q - zero_point) * scale`, which is what the graph computes with, whether it multiplies by
integers (`MatMulInteger`) or dequantises first (`DequantizeLinear`).
"""

import contextlib
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
from jax_prompt.weights.huggingface import read_json
from jax_prompt.weights.onnx_graph import Graph, Weight, read_graph
from jax_prompt.weights.tensors import Checkpoint, Stored

#: Names of the encoder's and the decoder's file, by exporter, in order of preference.
FILE_PAIRS = (('encoder.onnx', 'decoder.onnx'), ('encoder_model.onnx', 'decoder_model.onnx'),
              ('encoder_model_quantized.onnx', 'decoder_model_quantized.onnx'))

_BLOCK = re.compile(r'(?:^|/)block\.(\d+)/layer\.(\d+)/(.+)$')
_EMBEDDING_SCOPES = ('embed_tokens', 'shared')


def find_onnx(folder: str | pathlib.Path) -> tuple[pathlib.Path, pathlib.Path] | None:
    """Return the encoder's and the decoder's file in a folder, or None if there is no such pair."""
    for pair in FILE_PAIRS:
        encoder, decoder = (pathlib.Path(folder) / name for name in pair)
        if encoder.is_file() and decoder.is_file():
            return encoder, decoder
    return None


def open_onnx(folder: pathlib.Path, name: str) -> Checkpoint:
    """Open a folder that holds a T5's encoder and its decoder as ONNX files.

    Where a `config.json` lies beside them it gives the configuration. Where none does, the shapes
    do, but for what they cannot tell: the largest distance of the relative bias, the special ids
    and the dropout rate take T5's usual values (128; 0, 1, 0; 0.1). Either way the graph decides
    whether the head is tied (its matrix equals the embedding exactly) and whether it is scaled.

    Both files hold the embedding table; as one table serves both stacks, they must be equal. ONNX
    files are read whole (their format allows no more than 2 GiB); the tree is filled leaf by leaf.

    Args:
      folder: one in which `find_onnx` finds the files.
      name: what to call the model.

    Returns:
      The checkpoint.

    Raises:
      ValueError: for a corrupt file, or what is no T5.
    """
    encoder, decoder = (read_graph(path) for path in find_onnx(folder))
    with _blamed_on(folder):
        found = _name_weights(encoder, 'encoder') | _name_weights(decoder, 'decoder')
        tables = [found.pop(f'{stack} {EMBEDDING}', None) for stack in ('encoder', 'decoder')]
        found[EMBEDDING] = _one_embedding(tables, encoder, decoder)
        tied = _head_is_tied(found, decoder)
        if tied:
            found.pop(HEAD)
        config = _config(folder, name, found, encoder, tied, decoder.scalar_before('lm_head'))
    return Checkpoint(config, {tensor: _stored(folder, weight)
                               for tensor, weight in found.items()})


@contextlib.contextmanager
def _blamed_on(folder: pathlib.Path) -> Iterator[None]:
    """Make one line of what a damaged graph leads to; found by fuzzing.

    Too few inputs, kinds of numbers that there are none of, scales that do not fit.
    """
    try:
        yield
    except (TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f'the ONNX files in {folder} are corrupt ({error!s:.200}); '
                         'copy or export them again') from error


def _stored(folder: pathlib.Path, weight: Weight) -> Stored:
    """A weight as a tensor to assemble; it is dequantised when it is read."""
    def read(start: int, stop: int) -> np.ndarray:
        with _blamed_on(folder):
            return weight.values(start, stop)

    return Stored(str(weight.path), np.dtype(np.float32), weight.shape, read, weight.is_matrix,
                  ends=weight.stored)


def _name_weights(graph: Graph, stack: str) -> dict[str, Weight]:
    """Hugging Face name -> weight for one file; its embedding table as '<stack> shared.weight'."""
    named: dict[str, Weight] = {}
    for weight in graph.weights():
        name = _hugging_face_name(weight.scope, stack)
        if name is None:
            raise ValueError(
                f'{graph.path} uses the weight {weight.initializer!r} in node {weight.node!r}, '
                'which names no T5 module; expected names such as '
                '/encoder/block.0/layer.0/SelfAttention/q/MatMul: export again with torch 1.13 or '
                'newer, from T5ForConditionalGeneration')
        if name in named and named[name].initializer != weight.initializer:
            raise ValueError(f'{graph.path} has two weights for {name!r}: '
                             f'{named[name].initializer!r} and {weight.initializer!r}')
        named[name] = weight
    left_over = graph.unused_weights()
    if left_over:
        raise ValueError(f'{graph.path} has an unexpected tensor {left_over[0]!r} that no T5 '
                         f'module uses ({len(left_over)} in all); expected a plain T5 export')
    return named


def _hugging_face_name(scope: str, stack: str) -> str | None:
    """'/enc/block.0/layer.1/layer_norm' -> 'encoder.block.0.layer.1.layer_norm.weight'."""
    block = _BLOCK.search(scope)
    if block:
        layer, part, module = block.groups()
        return f'{stack}.block.{layer}.layer.{part}.{module.replace("/", ".")}.weight'
    last = scope.rsplit('/', 1)[-1]
    if last == 'final_layer_norm':
        return f'{stack}.final_layer_norm.weight'
    if last in _EMBEDDING_SCOPES:
        return f'{stack} {EMBEDDING}'
    return HEAD if last == 'lm_head' and stack == 'decoder' else None


def _one_embedding(tables: list[Weight | None], encoder: Graph, decoder: Graph) -> Weight:
    """The table that both files hold."""
    for table, graph in zip(tables, (encoder, decoder), strict=True):
        if table is None:
            raise ValueError(f'{graph.path} has no tensor {EMBEDDING!r}: no Gather of an embedding '
                             'table in a module embed_tokens or shared; expected a T5 export')
    if tables[0].is_stored_like(tables[1]):  # many megabytes need not be dequantised
        return tables[0]
    ours, theirs = (table.values() for table in tables)
    if ours.shape != theirs.shape or not np.array_equal(ours, theirs):
        apart = ('their shapes differ' if ours.shape != theirs.shape
                 else f'they differ by up to {np.abs(ours - theirs).max():.3g}')
        raise ValueError(f'the embedding tables of {encoder.path.name} and {decoder.path.name} in '
                         f'{encoder.path.parent} are not the same ({apart}); expected two files '
                         'exported and quantised together')
    return tables[0]


def _head_is_tied(weights: dict[str, Weight], decoder: Graph) -> bool:
    """Whether the logits come from the embedding table itself."""
    if HEAD not in weights:
        raise ValueError(f'{decoder.path} has no tensor {HEAD!r}: no MatMul in a module lm_head; '
                         'expected the decoder of a T5ForConditionalGeneration with its head')
    table, head = weights[EMBEDDING], weights[HEAD]
    corner = slice(64)  # tells most heads of their own without dequantising them
    return (table.shape == head.shape[::-1]
            and np.array_equal(table.values(0, 64)[:, corner], head.values(0, 64)[:, corner].T)
            and np.array_equal(table.values(), head.values().T))


def _config(folder: pathlib.Path, name: str, weights: dict[str, Weight], encoder: Graph,
            tied: bool, scale: float | None) -> ModelConfig:
    """The configuration from config.json or else from the shapes; head and scale as found."""
    path = folder / 'config.json'
    found = dict(tied_head=tied, scale_decoder_outputs=scale is not None)
    if path.is_file():
        said = read_json(path, 'it tells the shape')
        config = dataclasses.replace(family_of(said, str(path)).from_hugging_face(
            said, str(path), name), **found)
    else:
        epsilon = encoder.scalar_added_in('final_layer_norm')
        found |= {} if epsilon is None else dict(layer_norm_epsilon=epsilon)
        config = t5.from_shapes(weights, str(encoder.path), activation=_activation(encoder),
                                name=name, **found)
    expected = config.d_model ** -0.5
    if scale is not None and not math.isclose(scale, expected, rel_tol=1e-3):
        raise ValueError(f'{folder} scales decoder outputs by {scale:.6g} before the head; '
                         f'expected d_model**-0.5 = {expected:.6g} or no scale')
    return config


def _activation(encoder: Graph) -> str:
    """The activation by the operators of the feed-forward modules."""
    operators = encoder.operators_in('DenseReluDense')
    if 'Erf' in operators:
        raise ValueError(f'{encoder.path} uses the exact (erf) GELU; expected T5\'s relu, '
                         'tanh-approximated GELU or SiLU')
    for operator, activation in (('Tanh', 'gelu'), ('Relu', 'relu'), ('Sigmoid', 'silu')):
        if operator in operators:
            return activation
    raise ValueError(f'{encoder.path} has no known activation in its feed-forward modules; '
                     'expected Relu, Tanh (GELU) or Sigmoid (SiLU), got '
                     f'{", ".join(sorted(operators)) or "none"}')
