"""The shape of a T5 model, and the tensors that it is made of."""

import dataclasses
from typing import Any, ClassVar

from jax_prompt.models.architecture import Slot
from jax_prompt.models.t5.rules import RULES
from jax_prompt.parallel.rules import Rule

ACTIVATIONS = ('relu', 'gelu', 'silu')
EMBEDDING = 'shared.weight'
HEAD = 'lm_head.weight'

_PROJECTIONS = {'q': 'query', 'k': 'key', 'v': 'value', 'o': 'out'}
_RELATIVE_BIAS = 'block.0.layer.0.SelfAttention.relative_attention_bias.weight'
#: Fields that change neither the function that the frozen model computes nor who it is.
_NOT_IDENTITY = ('name', 'dropout_rate', 'other_eos_token_ids')
#: A table of the tensors of a billion layers, which a damaged file claims, would never be done.
_MOST_LAYERS = 1024

# T5 1.1 (also its LM-adapted and FLAN versions): layers, d_model, d_ff, heads; d_kv is 64.
T5_1_1_SHAPES = {
    'small': (8, 512, 1024, 6),
    'base': (12, 768, 2048, 12),
    'large': (24, 1024, 2816, 16),
    'xl': (24, 2048, 5120, 32),
    'xxl': (24, 4096, 10240, 64),
}


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Fix the shape of one T5 model.

    One class covers T5 1.0 (ReLU, tied head), T5 1.1 and its descendants (gated GELU, head of its
    own), UL2 (gated SiLU), ByT5 (a deeper encoder than decoder) and umT5 (a relative-bias table in
    every layer).

    Attributes:
      vocab_size: rows of the embedding table, padding rows included (32128 for T5).
      d_model, d_kv, d_ff: widths of the model, of one head, of the feed-forward layer.
      num_heads, num_layers, num_decoder_layers: heads of every layer; depth of each stack.
      activation: 'relu', 'gelu' (tanh approximation) or 'silu'.
      gated: whether the feed-forward layer multiplies two projections (T5 1.1).
      tied_head: whether the logits reuse the embedding table.
      scale_decoder_outputs: whether decoder outputs are scaled by d_model**-0.5 before the head.
      per_layer_relative_bias: whether each layer has a bias table of its own (umT5).
      relative_attention_num_buckets, relative_attention_max_distance: of the position bias.
      layer_norm_epsilon: of RMSNorm.
      pad_token_id, eos_token_id, decoder_start_token_id: special ids.
      other_eos_token_ids: tokens that end what is generated as well.
      dropout_rate: the rate the model was pretrained with; used only where training asks for it.
      name: what the model is called in messages and prompt files.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_layers: int
    num_decoder_layers: int
    activation: str = 'gelu'
    gated: bool = True
    tied_head: bool = False
    scale_decoder_outputs: bool = False
    per_layer_relative_bias: bool = False
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0
    other_eos_token_ids: tuple[int, ...] = ()
    dropout_rate: float = 0.1
    name: str = 't5'

    family: ClassVar[str] = 't5'
    rules: ClassVar[tuple[Rule, ...]] = RULES

    def __post_init__(self):
        sizes = ('vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_heads', 'num_layers',
                 'num_decoder_layers', 'relative_attention_num_buckets',
                 'relative_attention_max_distance')
        for field in sizes:
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(
                    f'T5 config {self.name!r} has {field}={value!r}; expected a positive integer')
        if max(self.num_layers, self.num_decoder_layers) > _MOST_LAYERS:
            raise ValueError(f'T5 config {self.name!r} has {self.num_layers}+'
                             f'{self.num_decoder_layers} layers; expected at most {_MOST_LAYERS} '
                             'a stack')
        object.__setattr__(self, 'other_eos_token_ids', tuple(self.other_eos_token_ids))
        ids = (self.pad_token_id, self.eos_token_id, self.decoder_start_token_id,
               *self.other_eos_token_ids)
        if max(ids) >= self.vocab_size:
            raise ValueError(f'T5 config {self.name!r} has the special id {max(ids)} (padding, end '
                             f'or start); expected ids below vocab_size={self.vocab_size}')
        if self.activation not in ACTIVATIONS:
            raise ValueError(f'T5 config {self.name!r} has activation={self.activation!r}; '
                             f'expected one of {", ".join(ACTIVATIONS)}')

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dict; `T5Config(**d)` is the way back."""
        return dataclasses.asdict(self)

    def identity(self) -> dict[str, Any]:
        """Return the fields that tell the model from any other; see `ModelConfig`."""
        return {field: value for field, value in self.to_dict().items()
                if field not in _NOT_IDENTITY}

    def describe(self) -> str:
        """Say the shape in a few words."""
        head = 'tied' if self.tied_head else 'untied'
        return (f'a T5 of {self.num_layers}+{self.num_decoder_layers} layers, d_model '
                f'{self.d_model}, vocabulary {self.vocab_size}, {head} head')

    def slots(self) -> dict[str, Slot]:
        """List the tensors of a Hugging Face T5 and their places in the frozen tree.

        Returns:
          Hugging Face tensor name -> place, each tensor of the model once.
        """
        vocabulary = (self.vocab_size, self.d_model)
        table = {EMBEDDING: Slot(('token_embedder', 'embedding'), None, None, vocabulary, 0)}
        for stack, depth in (('encoder', self.num_layers), ('decoder', self.num_decoder_layers)):
            for layer in range(depth):
                table |= _block(self, stack, layer, depth)
            table[f'{stack}.final_layer_norm.weight'] = Slot(
                (stack, 'final_norm', 'scale'), None, None, (self.d_model,), 0)
            if not self.per_layer_relative_bias:
                table[f'{stack}.{_RELATIVE_BIAS}'] = Slot(
                    (stack, 'relative_bias', 'embedding'), None, None, _bias_shape(self), 0)
        if not self.tied_head:
            table[HEAD] = Slot(('lm_head', 'kernel'), None, None, vocabulary[::-1], 1)
        return table

    def copies(self) -> dict[str, tuple[str, str]]:
        """Return the copies of the embedding table that many files carry."""
        why = 'T5 has one embedding table for both stacks'
        table = {f'{stack}.embed_tokens.weight': (EMBEDDING, why)
                 for stack in ('encoder', 'decoder')}
        if self.tied_head:
            table[HEAD] = (EMBEDDING, 'config.json ties the head; set tie_word_embeddings to false '
                                      'there if the head is its own')
        return table

    def unread(self) -> tuple[str, ...]:
        """Return a tensor of the first T5 conversions that no implementation ever read."""
        return ('decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight',)


def t5_1_1(size: str, **overrides) -> T5Config:
    """Return the configuration of a T5 1.1 model (LM-adapted and FLAN-T5 have the same shapes).

    Args:
      size: 'small', 'base', 'large', 'xl' or 'xxl'.
      **overrides: fields of `T5Config` to set otherwise.

    Raises:
      ValueError: for a size that was never released.

    Source: the released checkpoints' configurations (Raffel et al. 2020, T5 1.1 release notes).
    """
    if size not in T5_1_1_SHAPES:
        raise ValueError(f'T5 1.1 has no size {size!r}; choose one of {", ".join(T5_1_1_SHAPES)}')
    layers, d_model, d_ff, heads = T5_1_1_SHAPES[size]
    fields = dict(vocab_size=32128, d_model=d_model, d_kv=64, d_ff=d_ff, num_heads=heads,
                  num_layers=layers, num_decoder_layers=layers, name=f't5-1.1-{size}')
    return T5Config(**(fields | overrides))


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
