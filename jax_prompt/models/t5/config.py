"""The shape of a T5 model, and where it comes from."""

import dataclasses
from typing import Any

ACTIVATIONS = ('relu', 'gelu', 'silu')

#: Activation names in Hugging Face configurations -> ours. T5's GELU is the tanh approximation:
#: transformers itself reads "gated-gelu" as "gelu_new".
_HUGGING_FACE_ACTIVATIONS = {
    'relu': 'relu',
    'gelu_new': 'gelu',
    'silu': 'silu',
    'swish': 'silu',
}

_OPTIONAL = ('relative_attention_num_buckets', 'relative_attention_max_distance',
             'layer_norm_epsilon', 'pad_token_id', 'decoder_start_token_id', 'dropout_rate')

# T5 1.1 (also its LM-adapted and FLAN versions): layers, d_model, d_ff, heads; d_kv is 64.
_T5_1_1_SHAPES = {
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
    dropout_rate: float = 0.1
    name: str = 't5'

    def __post_init__(self):
        sizes = ('vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_heads', 'num_layers',
                 'num_decoder_layers', 'relative_attention_num_buckets',
                 'relative_attention_max_distance')
        for field in sizes:
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(
                    f'T5 config {self.name!r} has {field}={value!r}; expected a positive integer')
        if self.activation not in ACTIVATIONS:
            raise ValueError(f'T5 config {self.name!r} has activation={self.activation!r}; '
                             f'expected one of {", ".join(ACTIVATIONS)}')

    @classmethod
    def from_hugging_face(cls, config: dict[str, Any], name: str = 't5') -> 'T5Config':
        """Read a Hugging Face `config.json` of the T5 family (T5, mT5, umT5, ByT5, UL2, FLAN).

        Whether the head is tied is what the file *says*; files written by transformers 5 always say
        tied, so the weights' loader decides by the tensors that are there.

        Args:
          config: the parsed JSON.
          name: what to call the model.

        Returns:
          The configuration.

        Raises:
          ValueError: naming a missing field, another model type, or an unknown activation.
        """
        model_type = config.get('model_type', 't5')
        if model_type not in ('t5', 'mt5', 'umt5'):
            raise ValueError(f'config.json of {name} has model_type={model_type!r}; '
                             'expected t5, mt5 or umt5: only T5-shaped models can be loaded')
        for field in ('vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_layers', 'num_heads'):
            if field not in config:
                raise ValueError(f'config.json of {name} has no {field!r}; '
                                 'is it the configuration of a T5 model?')
        default = 'relu' if model_type == 't5' else 'gated-gelu'
        activation, gated = _activation(config.get('feed_forward_proj') or default, name)
        tied = config.get('tie_word_embeddings', model_type != 'mt5') is not False
        scaled = config.get('scale_decoder_outputs', tied and model_type != 'mt5')
        eos = config.get('eos_token_id', 1)
        optional = {field: config[field] for field in _OPTIONAL if config.get(field) is not None}
        return cls(
            vocab_size=config['vocab_size'], d_model=config['d_model'], d_kv=config['d_kv'],
            d_ff=config['d_ff'], num_heads=config['num_heads'], num_layers=config['num_layers'],
            num_decoder_layers=config.get('num_decoder_layers') or config['num_layers'],
            activation=activation, gated=gated, tied_head=tied, scale_decoder_outputs=scaled,
            per_layer_relative_bias=model_type == 'umt5',
            eos_token_id=eos[0] if isinstance(eos, list) else (1 if eos is None else eos),
            name=name, **optional)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dict; `T5Config(**d)` is the way back."""
        return dataclasses.asdict(self)


def t5_1_1(size: str, **overrides) -> T5Config:
    """Return the configuration of a T5 1.1 model (LM-adapted and FLAN-T5 have the same shapes).

    Args:
      size: 'small', 'base', 'large', 'xl' or 'xxl'.
      **overrides: fields of `T5Config` to set otherwise.

    Raises:
      ValueError: for a size that was never released.

    Source: the released checkpoints' configurations (Raffel et al. 2020, T5 1.1 release notes).
    """
    if size not in _T5_1_1_SHAPES:
        raise ValueError(f'T5 1.1 has no size {size!r}; choose one of {", ".join(_T5_1_1_SHAPES)}')
    layers, d_model, d_ff, heads = _T5_1_1_SHAPES[size]
    fields = dict(vocab_size=32128, d_model=d_model, d_kv=64, d_ff=d_ff, num_heads=heads,
                  num_layers=layers, num_decoder_layers=layers, name=f't5-1.1-{size}')
    return T5Config(**(fields | overrides))


def _activation(feed_forward_proj: str, name: str) -> tuple[str, bool]:
    """Split 'gated-gelu' into our activation name and whether the layer is gated."""
    *gate, act = feed_forward_proj.split('-')
    if feed_forward_proj == 'gated-gelu':
        act = 'gelu_new'
    if gate not in ([], ['gated']) or act not in _HUGGING_FACE_ACTIVATIONS:
        raise ValueError(
            f'config.json of {name} has feed_forward_proj={feed_forward_proj!r}; expected relu, '
            'gated-gelu, gated-silu or another of relu, gelu_new, silu with or without "gated-"')
    return _HUGGING_FACE_ACTIVATIONS[act], bool(gate)
