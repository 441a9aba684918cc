"""How the files of T5's family are read: T5, mT5, umT5, ByT5, UL2, FLAN.

A module as `models.architecture.Family` describes it, and what the formats that only T5s come in
(T5X, ONNX exports) need besides.
"""

import dataclasses
import logging
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
#: What Hugging Face's files may ask of generation beside start and ends.
_UNHEEDED = ('forced_bos_token_id', 'forced_eos_token_id', 'forced_decoder_ids', 'suppress_tokens',
             'begin_suppress_tokens', 'bad_words_ids', 'force_words_ids', 'sequence_bias',
             'stop_strings', 'min_length', 'min_new_tokens', 'no_repeat_ngram_size',
             'encoder_no_repeat_ngram_size', 'repetition_penalty', 'encoder_repetition_penalty',
             'exponential_decay_length_penalty', 'guidance_scale', 'do_sample', 'num_beams')
#: The types that fields of a config.json may have; each may be null, too.
_FIELD_KINDS = {
    'model_type': (str,), 'feed_forward_proj': (str,), 'tie_word_embeddings': (bool,),
    'scale_decoder_outputs': (bool,), 'is_gated_act': (bool,), 'dense_act_fn': (str,),
    'architectures': (list,), 'eos_token_id': (int, list), 'pad_token_id': (int,),
    'decoder_start_token_id': (int,), 'layer_norm_epsilon': (int, float),
    'dropout_rate': (int, float), **dict.fromkeys((
        *_NEEDED, 'num_decoder_layers', 'relative_attention_num_buckets',
        'relative_attention_max_distance'), (int,)),
}
_LONGEST_TEXT = 100
#: The ends of the names of transformers' classes that have a head.
_WITH_HEAD = ('ForConditionalGeneration', 'WithLMHeadModel')

_BIAS = 'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
_QUERY = 'encoder.block.0.layer.0.SelfAttention.q.weight'
_OUT = 'encoder.block.0.layer.1.DenseReluDense.wo.weight'

_log = logging.getLogger(__name__)


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
    _refuse_contradictions(said, where, activation, gated)
    _tell_unheeded(said, where)
    tied = said.get('tie_word_embeddings', model_type != 'mt5') is not False
    scaled = said.get('scale_decoder_outputs', tied and model_type != 'mt5')
    ends = _ends(said) or [1]
    optional = {field: said[field] for field in _OPTIONAL if said.get(field) is not None}
    return T5Config(
        vocab_size=said['vocab_size'], d_model=said['d_model'], d_kv=said['d_kv'],
        d_ff=said['d_ff'], num_heads=said['num_heads'], num_layers=said['num_layers'],
        num_decoder_layers=said.get('num_decoder_layers') or said['num_layers'],
        activation=activation, gated=gated, tied_head=tied, scale_decoder_outputs=scaled,
        per_layer_relative_bias=model_type == 'umt5',
        eos_token_id=ends[0], other_eos_token_ids=ends[1:], name=name, **optional)


def with_generation(config: T5Config, said: dict[str, Any], where: str) -> T5Config:
    """Heed a `generation_config.json`, as transformers does when it generates.

    The end token of config.json stays the one that targets are trained with; all others end what
    is generated. What else it asks for is told, not done.

    Args:
      config: by all other files.
      said: the parsed JSON.
      where: the file, for messages.

    Returns:
      The configuration.

    Raises:
      ValueError: for an id that is none.
    """
    _check_fields(said, where)
    _tell_unheeded(said, where)
    start = said.get('decoder_start_token_id')
    if start not in (None, config.decoder_start_token_id):
        _log.warning('%s has decoder_start_token_id=%d where the configuration has %d; the decoder '
                     'starts with %d', where, start, config.decoder_start_token_id, start)
    ends = dict.fromkeys([config.eos_token_id, *config.other_eos_token_ids, *_ends(said)])
    return dataclasses.replace(
        config, other_eos_token_ids=tuple(ends)[1:],
        decoder_start_token_id=config.decoder_start_token_id if start is None else start)


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
    (`models/*/configuration_*.py`). Without that key a umT5 of it is scaled, whatever its head is,
    by the releases before 5.24 as by those since. Before it, the class default of mT5 and umT5
    changed between releases.

    Args:
      config: by `said` alone.
      said: the parsed config.json.
      tensors: the names of the tensors that are there.
      equal: tells whether two of them hold the same numbers.

    Returns:
      The configuration with the head that the model has.

    Raises:
      ValueError: the files are of a model without a head.
    """
    saved_as = said.get('architectures') or []
    if HEAD not in tensors and saved_as and not str(saved_as[0]).endswith(_WITH_HEAD):
        raise ValueError(f'{config.name} was saved from {saved_as[0]!s:.60}, without a head to '
                         'write with; save it from T5ForConditionalGeneration, or name that in '
                         'architectures of its config.json if its head is the embedding table')
    model_type = said.get('model_type') or 't5'
    version = str(said.get('transformers_version', '0')).split('.')[0]
    by_5 = 'scale_decoder_outputs' in said or (version.isdigit() and int(version) >= 5)
    if not by_5 and ('tie_word_embeddings' in said or model_type == 't5'):
        return config
    tied = HEAD not in tensors or (EMBEDDING in tensors and equal(HEAD, EMBEDDING))
    scaled = config.scale_decoder_outputs if by_5 else tied
    if by_5 and scaled and not tied and 'scale_decoder_outputs' not in said:
        _log.warning('%s was saved by a transformers that scales the outputs of every umT5 by '
                     'd_model**-0.5, as do all that read the file, and so it is here; if the '
                     'weights are not meant so, set scale_decoder_outputs to false in its '
                     'config.json', config.name)
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


def _ends(said: dict[str, Any]) -> list[int]:
    """The end tokens that a file names, one or several."""
    ends = said.get('eos_token_id')
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def _tell_unheeded(said: dict[str, Any], where: str) -> None:
    """Log what a file asks of generation and does not get."""
    asked = [f'{field}={value!r:.40}' for field in _UNHEEDED
             if (value := said.get(field)) and (value is True or value != 1)]
    if asked:
        _log.warning('%s asks for %s, which is not heeded; decoding does what the command or '
                     'request says', where, ', '.join(asked))


def _refuse_contradictions(said: dict[str, Any], where: str, activation: str, gated: bool) -> None:
    """Raise ValueError where fields say different things, of which transformers heeds one."""
    is_gated, act = said.get('is_gated_act'), said.get('dense_act_fn')
    if is_gated not in (None, gated) or (act is not None and _ACTIVATIONS.get(act) != activation):
        raise ValueError(f'{where} has feed_forward_proj={said.get("feed_forward_proj")!r}, but '
                         f'is_gated_act={is_gated!r} and dense_act_fn={act!r}; set all three to '
                         'what the model was trained with, or leave the last two out')
    if said.get('model_type') == 'mt5' and said.get('scale_decoder_outputs'):
        raise ValueError(f'{where} has scale_decoder_outputs=true for an mT5, which transformers '
                         'never scales; remove it, or set model_type to the family it is of')


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
