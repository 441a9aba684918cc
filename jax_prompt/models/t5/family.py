"""How the files of T5's family are read: T5, mT5, umT5, ByT5, UL2, FLAN.

A module as `models.architecture.Family` describes it, and what the formats that only T5s come in
(T5X, ONNX exports) need besides.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Container, Mapping
from typing import Any

from jax_prompt.models.t5.config import EMBEDDING, HEAD, T5Config
from jax_prompt.models.t5.model import T5

#: Activation names in Hugging Face configurations -> ours. T5's GELU is the tanh approximation:
#: transformers itself reads "gated-gelu" as "gelu_new".
_ACTIVATIONS = {'relu': 'relu', 'gelu_new': 'gelu', 'silu': 'silu', 'swish': 'silu'}

_NEEDED = ('vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_layers', 'num_heads')
_OPTIONAL = ('relative_attention_num_buckets', 'relative_attention_max_distance',
             'layer_norm_epsilon', 'pad_token_id', 'decoder_start_token_id', 'dropout_rate')
#: The types that fields of a config.json may have; each may be null, too.
_FIELD_KINDS = {
    'model_type': (str,), 'feed_forward_proj': (str,), 'tie_word_embeddings': (bool,),
    'scale_decoder_outputs': (bool,), 'eos_token_id': (int, list), 'pad_token_id': (int,),
    'decoder_start_token_id': (int,), 'layer_norm_epsilon': (int, float),
    'dropout_rate': (int, float), **dict.fromkeys((
        *_NEEDED, 'num_decoder_layers', 'relative_attention_num_buckets',
        'relative_attention_max_distance'), (int,)),
}
_LONGEST_TEXT = 100

_BIAS = 'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
_QUERY = 'encoder.block.0.layer.0.SelfAttention.q.weight'
_OUT = 'encoder.block.0.layer.1.DenseReluDense.wo.weight'


def from_hugging_face(said: dict[str, Any], where: str, name: str) -> T5Config:
    """Read a Hugging Face `config.json`.

    Whether the head is tied is what the file *says*; files written by transformers 5 always say
    tied, so `settle` decides by the tensors that are there.

    Args:
      said: the parsed JSON.
      where: the file, for messages.
      name: what to call the model.

    Returns:
      The configuration.

    Raises:
      ValueError: for a field that is missing, or of another type, or of a value unheard of.
    """
    _check_fields(said, where)
    for field in _NEEDED:
        if field not in said:
            raise ValueError(f'{where} has no {field!r}; is it the configuration of a T5 model?')
    model_type = said.get('model_type') or 't5'
    default = 'relu' if model_type == 't5' else 'gated-gelu'
    activation, gated = _activation(said.get('feed_forward_proj') or default, where)
    tied = said.get('tie_word_embeddings', model_type != 'mt5') is not False
    scaled = said.get('scale_decoder_outputs', tied and model_type != 'mt5')
    eos = said.get('eos_token_id', 1)
    optional = {field: said[field] for field in _OPTIONAL if said.get(field) is not None}
    return T5Config(
        vocab_size=said['vocab_size'], d_model=said['d_model'], d_kv=said['d_kv'],
        d_ff=said['d_ff'], num_heads=said['num_heads'], num_layers=said['num_layers'],
        num_decoder_layers=said.get('num_decoder_layers') or said['num_layers'],
        activation=activation, gated=gated, tied_head=tied, scale_decoder_outputs=scaled,
        per_layer_relative_bias=model_type == 'umt5',
        eos_token_id=eos[0] if isinstance(eos, list) else (1 if eos is None else eos),
        name=name, **optional)


def from_dict(fields: dict[str, Any]) -> T5Config:
    """Read what `T5Config.to_dict` gave."""
    return T5Config(**fields)


def model(config: T5Config, **how) -> T5:
    """Make the model; see `T5` for how it may compute."""
    return T5(config, **how)


def settle(config: T5Config, said: dict[str, Any], tensors: Container[str],
           equal: Callable[[str, str], bool]) -> T5Config:
    """Decide by the tensors what a file's config.json leaves open about the head.

    transformers 5 writes `tie_word_embeddings: true` for every T5, mT5 and umT5, and for T5, since
    release 5.24 for umT5 too, `scale_decoder_outputs`; mT5 it never scales
    (`models/*/configuration_*.py`). Before it, the class default of mT5 and umT5 changed between
    releases.

    Args:
      config: by `said` alone.
      said: the parsed config.json.
      tensors: the names of the tensors that are there.
      equal: tells whether two of them hold the same numbers.

    Returns:
      The configuration with the head that the model has.
    """
    model_type = said.get('model_type') or 't5'
    version = str(said.get('transformers_version', '0')).split('.')[0]
    by_5 = 'scale_decoder_outputs' in said or (version.isdigit() and int(version) >= 5)
    if not by_5 and ('tie_word_embeddings' in said or model_type == 't5'):
        return config
    tied = HEAD not in tensors or (EMBEDDING in tensors and equal(HEAD, EMBEDDING))
    scaled = config.scale_decoder_outputs
    if 'scale_decoder_outputs' not in said and model_type != 't5':
        scaled = tied and not (by_5 and model_type == 'mt5')
    return dataclasses.replace(config, tied_head=tied, scale_decoder_outputs=scaled)


def from_shapes(tensors: Mapping[str, Any], where: str, **known) -> T5Config:
    """Make the configuration of the shapes of tensors, where no file tells it.

    What shapes cannot tell is left to `T5Config`'s defaults: the activation, the largest distance
    of the relative bias, the special ids.

    Args:
      tensors: Hugging Face name -> anything with a `shape`, projections either way round.
      where: the source, for messages.
      **known: fields of the configuration that the caller knows.

    Raises:
      ValueError: a tensor that tells them is missing, or shapes contradict each other.
    """
    for name in (EMBEDDING, _BIAS, _QUERY, _OUT):
        if name not in tensors:
            raise ValueError(f'{where} has no tensor {name!r}, and there is no config.json beside '
                             'it to tell the shape; expected a whole T5')
        if len(tensors[name].shape) != 2:
            raise ValueError(f'{where} has {name!r} with shape {list(tensors[name].shape)}; '
                             'expected a matrix')
    buckets, num_heads = tensors[_BIAS].shape
    vocab_size, d_model = tensors[EMBEDDING].shape
    width, d_ff = (math.prod(tensors[name].shape) // max(d_model, 1) for name in (_QUERY, _OUT))
    if not num_heads or width % num_heads:
        raise ValueError(f'{where} has {num_heads} heads by its relative bias, but queries of '
                         f'width {width}; expected a multiple')
    fields = dict(
        vocab_size=vocab_size, d_model=d_model, d_kv=width // num_heads, d_ff=d_ff,
        num_heads=num_heads, num_layers=_depth(tensors, 'encoder'),
        num_decoder_layers=_depth(tensors, 'decoder'), gated=is_gated(tensors),
        per_layer_relative_bias=_BIAS.replace('.0.', '.1.', 1) in tensors,
        tied_head=HEAD not in tensors, relative_attention_num_buckets=buckets)
    return T5Config(**(fields | known))


def is_gated(tensors: Container[str]) -> bool:
    """Tell by the names of tensors whether the feed-forward layers multiply two projections."""
    return 'encoder.block.0.layer.1.DenseReluDense.wi_0.weight' in tensors


def _depth(tensors: Mapping[str, Any], stack: str) -> int:
    found = (re.match(rf'{stack}\.block\.(\d+)\.', name) for name in tensors)
    return 1 + max((int(match[1]) for match in found if match), default=0)


def _check_fields(said: dict[str, Any], where: str) -> None:
    """Raise ValueError for what no config.json of a T5 says."""
    for field, kinds in _FIELD_KINDS.items():
        value = said.get(field)
        too_long = isinstance(value, str) and len(value) > _LONGEST_TEXT
        too_large = isinstance(value, int) and abs(value) >= 2**31
        if value is not None and (type(value) not in kinds or too_long or too_large):
            wanted = ' or '.join(kind.__name__ for kind in kinds)
            raise ValueError(f'{where} has {field}={value!r:.60}; expected {wanted} of an '
                             'ordinary size: copy or download it again')
    epsilon, rate = said.get('layer_norm_epsilon'), said.get('dropout_rate')
    if (epsilon is not None and not 0 < epsilon < 1) or (rate is not None and not 0 <= rate < 1):
        raise ValueError(f'{where} has layer_norm_epsilon={epsilon!r} and '
                         f'dropout_rate={rate!r}; expected numbers between 0 and 1')
    for field in ('eos_token_id', 'pad_token_id', 'decoder_start_token_id'):
        value = said.get(field)
        ids = value if isinstance(value, list) else [0 if value is None else value]
        if not ids or any(type(one) is not int or not 0 <= one < 2**31 for one in ids):
            raise ValueError(f'{where} has {field}={value!r:.60}; expected an id of a token')


def _activation(feed_forward_proj: str, where: str) -> tuple[str, bool]:
    """Split 'gated-gelu' into our activation name and whether the layer is gated."""
    *gate, act = feed_forward_proj.split('-')
    if feed_forward_proj == 'gated-gelu':
        act = 'gelu_new'
    if gate not in ([], ['gated']) or act not in _ACTIVATIONS:
        raise ValueError(
            f'{where} has feed_forward_proj={feed_forward_proj!r}; expected relu, gated-gelu, '
            'gated-silu or another of relu, gelu_new, silu with or without "gated-"')
    return _ACTIVATIONS[act], bool(gate)
