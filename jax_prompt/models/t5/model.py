"""T5 as functions of a plain parameter tree: embed, encode, decode, logits, and cached decoding.

The tree is nested dicts; the weights of a stack's layers are stacked on a leading axis N, so that
one compiled layer serves every depth:

    token_embedder/embedding                        [V, D]
    encoder/relative_bias/embedding                 [buckets, H]   (shared by the layers)
    encoder/layers/self_attention/norm/scale        [N, D]
    encoder/layers/self_attention/query/kernel      [N, D, H, K]   (key, value alike)
    encoder/layers/self_attention/out/kernel        [N, H, K, D]
    encoder/layers/feed_forward/wi_0/kernel         [N, D, F]      (wi_1 alike; `wi` if not gated)
    encoder/layers/feed_forward/wo/kernel           [N, F, D]
    encoder/final_norm/scale                        [D]
    decoder/...                                     the same, with cross_attention in its layers
    lm_head/kernel                                  [D, V]         (absent where the head is tied)

Kernels of layers may stand there as `Int8` (see `int8.py`) instead of arrays, with the same shape.
For generation on a CPU there is a copy in another form besides (see `kernel_first.py`).

The model knows nothing of prompts: it encodes embeddings, wherever they came from.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jax_prompt.models.base import Prefix, Tokens
from jax_prompt.models.t5.activations import copies_for_heads
from jax_prompt.models.t5.attention import check_attention, fit_to_kernel, fused_bias
from jax_prompt.models.t5.attention_weights import attention_weights
from jax_prompt.models.t5.cache import init_cache
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.kernel_first import (
    for_step,
    of_few_rows,
    with_layers_apart,
    with_steps,
)
from jax_prompt.models.t5.layers import DecoderLayer, EncoderLayer, few_queries
from jax_prompt.models.t5.positions import (
    MASKED,
    Biases,
    bias_from_table,
    mask_bias,
    relative_buckets,
)
from jax_prompt.models.t5.prefix import extended, stack_prefix
from jax_prompt.models.t5.products import Precision, rounded_rows
from jax_prompt.models.t5.rules import RULES
from jax_prompt.models.t5.stack import REMAT_POLICIES, final_norm, run_stack
from jax_prompt.models.t5.text_keys_values import text_keys_values
from jax_prompt.types import Array, Params


@dataclasses.dataclass(frozen=True)
class T5:
    """A T5 model without its weights: hashable, so it can be closed over by a jitted function.

    Attributes:
      config: the shape.
      dtype: of activations; norms, softmax and logits are float32 whatever it is.
      scan_layers: one compiled layer in a loop (short compile), or all layers in a row (faster
        on CPU).
      remat: 'none', 'dots' or 'full'; a key of `REMAT_POLICIES`.
      dropout_rate: used only by calls that are given a `dropout_rng`.
      attention: how the encoder attends: 'xla', or 'cudnn', a fused kernel of NVIDIA GPUs; see
        `attention.py`. It treats the position bias as frozen.
      activation_sharding: where hidden states [B, S, D] live, `batch_sharding(mesh)`. Without it,
        weights that are split over `data` make the compiler split D and sum activations there.
      factors: dtype that products round their factors to, bfloat16 beside float32 activations on
        CPUs with units for it, see `products.py`; None for `dtype`.
    """

    config: T5Config
    dtype: jnp.dtype = jnp.float32
    scan_layers: bool = True
    remat: str = 'none'
    dropout_rate: float = 0.0
    attention: str = 'xla'
    activation_sharding: jax.sharding.NamedSharding | None = None
    factors: jnp.dtype | None = None

    def __post_init__(self):
        if self.remat not in REMAT_POLICIES:
            raise ValueError(f'remat={self.remat!r} is no rematerialisation policy; '
                             f'choose one of {", ".join(REMAT_POLICIES)}')
        check_attention(self.attention, self.config, self.dtype, self.dropout_rate)

    rules = RULES

    @property
    def name(self) -> str:
        """What messages and prompt files call the model."""
        return self.config.name

    @property
    def tokens(self) -> Tokens:
        """The special ids."""
        cfg = self.config
        return Tokens(cfg.pad_token_id, cfg.eos_token_id, cfg.decoder_start_token_id,
                      cfg.other_eos_token_ids)

    @property
    def d_model(self) -> int:
        """D, the width of embeddings and hidden states."""
        return self.config.d_model

    @property
    def vocab_size(self) -> int:
        """V, rows of the embedding table."""
        return self.config.vocab_size

    @property
    def numerics(self) -> dict[str, Any]:
        """All that changes how results are rounded, ready for JSON."""
        told = {'dtype': str(jnp.dtype(self.dtype)), 'scan_layers': self.scan_layers,
                'remat': self.remat, 'attention': self.attention}
        return told | ({'factors': str(jnp.dtype(self.factors))} if self.factors else {})

    @property
    def prefix_shapes(self) -> dict[str, tuple[int, int, int]]:
        """Layers, heads and width of a head of each kind of attention."""
        cfg = self.config
        depths = {'encoder': cfg.num_layers, 'decoder': cfg.num_decoder_layers,
                  'cross': cfg.num_decoder_layers}
        return {name: (depth, cfg.num_heads, cfg.d_kv) for name, depth in depths.items()}

    @property
    def precision(self) -> Precision:
        """In what the layers compute."""
        return Precision(self.dtype, self.factors)

    def with_dropout(self, rate: float) -> 'T5':
        """Return the model with another dropout rate."""
        return dataclasses.replace(self, dropout_rate=rate)

    def for_scoring(self, frozen: Params) -> Params:
        """Return the weights as ranking reads them: on CPU with layers apart."""
        apart = jax.default_backend() == 'cpu' and not self.scan_layers
        return with_layers_apart(frozen) if apart else frozen

    def for_generation(self, frozen: Params) -> Params:
        """Return the weights as generation reads them: on CPU with copies, see `with_steps`."""
        copied = jax.default_backend() == 'cpu' and not self.scan_layers
        return with_steps(frozen) if copied else frozen

    def activations(self, frozen: Params, ids_M: Array) -> dict[str, tuple[Array, Array]]:
        """Compute the keys and values of a text, see `text_keys_values`."""
        return text_keys_values(self, frozen, ids_M)

    def attention_weights(self, frozen: Params, hidden_BSD: Array, mask_BS: Array,
                          inputs_BLD: Array, prefix: Prefix | None = None) -> dict[str, Array]:
        """Run all layers and return what each position attends to, see `attention_weights`."""
        return attention_weights(self, frozen, hidden_BSD, mask_BS, inputs_BLD, prefix)

    def embedding_table(self, frozen: Params) -> Array:
        """Return the embedding table, float[V, D]."""
        return frozen['token_embedder']['embedding']

    def embed(self, frozen: Params, ids: Array) -> Array:
        """Look vocabulary rows up: int32[...] -> dtype[..., D]."""
        table = self.embedding_table(frozen)
        rounded = self.factors is not None and table.dtype == jnp.bfloat16
        rows = rounded_rows(table, ids) if rounded else jnp.take(table, ids, axis=0)
        return rows.astype(self.dtype)

    def encode(self, frozen: Params, hidden_BSD: Array, mask_BS: Array,
               segment_ids_BS: Array | None = None, dropout_rng: Array | None = None,
               prefix: Prefix | None = None) -> Array:
        """Run the encoder over embeddings.

        Args:
          frozen: the parameter tree.
          hidden_BSD: embeddings, virtual tokens included.
          mask_BS: bool[B, S], True where there is a token.
          segment_ids_BS: int32[B, S]; where given, a position attends to its own segment alone.
          dropout_rng: a PRNG key switches dropout on.
          prefix: whose part for the encoder every position sees, whatever its segment.

        Returns:
          dtype[B, S, D].

        Raises:
          ValueError: a prefix for the fused kernel, which has no place for one.
        """
        length, stack = hidden_BSD.shape[1], frozen['encoder']
        fused, own = self.attention == 'cudnn', stack_prefix(prefix, 'encoder')
        if fused and own is not None:
            raise ValueError("attention='cudnn' has no place for the prefix of an encoder; choose "
                             "attention='xla', or a prefix of the decoder alone")
        if fused:
            hidden_BSD, mask_BS, segment_ids_BS = fit_to_kernel(
                hidden_BSD, mask_BS, segment_ids_BS)
        positions = jnp.arange(hidden_BSD.shape[1])
        buckets = self._buckets(positions, positions, bidirectional=True)
        biases = self._position_bias(stack, buckets)
        if fused:
            biases = fused_bias(biases, mask_BS, segment_ids_BS, self.dtype)
        else:
            biases = extended(own and own.bias,
                              (*biases, mask_bias(mask_BS, segment_ids_BS, segment_ids_BS)))
        return run_stack(self, self._layer(EncoderLayer), stack, hidden_BSD, (biases, buckets),
                         dropout_rng, (own,))[:, :length]

    def decode(self, frozen: Params, hidden_BLD: Array, encoded_BSD: Array, encoder_mask_BS: Array,
               segment_ids: tuple[Array, Array] | None = None,
               dropout_rng: Array | None = None, prefix: Prefix | None = None) -> Array:
        """Run the decoder over all target positions at once (teacher forcing).

        Pads at the end of a row need no mask: attention is causal.

        Args:
          frozen: the parameter tree.
          hidden_BLD: embeddings of the decoder's input tokens.
          encoded_BSD: the encoder's outputs.
          encoder_mask_BS: bool[B, S], True where the encoder had a token.
          segment_ids: (int32[B, S], int32[B, L]) of encoder and decoder positions, for packed rows.
          dropout_rng: a PRNG key switches dropout on.
          prefix: whose parts for the decoder and for its attention to the encoder are seen.

        Returns:
          dtype[B, L, D], to be given to `logits`.
        """
        length = hidden_BLD.shape[1]
        stack = frozen['decoder']
        encoder_segments, decoder_segments = segment_ids or (None, None)
        positions = jnp.arange(length)
        buckets = self._buckets(positions, positions, bidirectional=False)
        causal = jnp.where(positions[:, None] >= positions[None], 0.0, MASKED)
        biases = (*self._position_bias(stack, buckets), causal)
        if decoder_segments is not None:
            biases += (mask_bias(decoder_segments > 0, decoder_segments, decoder_segments),)
        cross_biases = (mask_bias(encoder_mask_BS, decoder_segments, encoder_segments),)
        own, cross = stack_prefix(prefix, 'decoder'), stack_prefix(prefix, 'cross')
        if few_queries(length, self.config):
            encoded_BSD = copies_for_heads(encoded_BSD, self.config, self.activation_sharding)
        return run_stack(self, self._layer(DecoderLayer), stack, hidden_BLD,
                         (encoded_BSD, extended(own and own.bias, biases), buckets,
                          extended(cross and cross.bias, cross_biases)), dropout_rng, (own, cross))

    def logits(self, frozen: Params, hidden_BLD: Array) -> Array:
        """Score the vocabulary: dtype[B, L, D] -> float32[B, L, V]."""
        if self.config.tied_head:
            equation, kernel = 'BLD,VD->BLV', frozen['token_embedder']['embedding']
        else:
            equation, kernel = 'BLD,DV->BLV', frozen['lm_head']['kernel']
        return self.precision.multiply(equation, self._scaled(hidden_BLD), kernel, jnp.float32)

    def step_logits(self, frozen: Params, hidden_BD: Array, cache: Params) -> Array:
        """Score the vocabulary for one position a row: dtype[B, D] -> float32[V, B].

        The vocabulary comes first, as in a product whose left operand is the head: on CPU, moving
        it would cost more than the choice that is made of it.
        """
        if self.scan_layers:
            return self.logits(frozen, hidden_BD[:, None])[:, 0].T
        kernel = cache['steps'].get('head', frozen['token_embedder']['embedding'])
        if self.factors is not None and hidden_BD.shape[0] == 1:
            return of_few_rows('BD,VD->BV', self._scaled(hidden_BD), kernel, 1, self.precision).T
        return self.precision.multiply('VD,BD->VB', kernel, self._scaled(hidden_BD), jnp.float32)

    def init_cache(self, frozen: Params, encoded_BSD: Array, encoder_mask_BS: Array,
                   max_length: int, prefix: Prefix | None = None) -> Params:
        """Prepare cached decoding of so many positions, see `cache.init_cache`."""
        return init_cache(self, self._layer(DecoderLayer), frozen, encoded_BSD, encoder_mask_BS,
                          max_length, prefix)

    def decode_step(self, frozen: Params, hidden_BGD: Array, cache: Params,
                    visible: Array | None = None) -> tuple[Array, Params]:
        """Decode one position for every row, from the cache of those before it.

        A row may be continued in G ways side by side (the beams of a search), which stand where
        positions stand and share the row's cross keys and values.

        Args:
          frozen: the parameter tree.
          hidden_BGD: embeddings of the tokens at the cache's position; G = 1 but for beams.
          cache: from `init_cache`, with room for G times the positions, or the step before. Its
            room must not be exceeded. Position t of way g is put at t * G + g.
          visible: bool[B, G, T], where in the cache each way may look; None if G = 1.

        Returns:
          (dtype[B, G, D] to be given to `logits`, the cache for the next position).
        """
        layer, stack, index = self._layer(DecoderLayer), frozen['decoder'], cache['index']
        ways, prefix_bias = hidden_BGD.shape[1], cache['prefix_bias']
        first = 0 if prefix_bias is None else prefix_bias.shape[-1]
        keys = jnp.arange(jax.tree.leaves(cache['self'])[0].shape[-2] - first) // ways
        buckets = self._buckets(index[None], keys, bidirectional=False)
        allowed = keys <= index if visible is None else visible[:, None]
        biases = (*self._position_bias(stack, buckets), jnp.where(allowed, 0.0, MASKED))
        context = (extended(prefix_bias, biases), buckets, (cache['cross_bias'],))

        def body(hidden_BGD, layer_inputs):
            params, *layer_cache = layer_inputs
            return layer.apply({'params': params}, hidden_BGD, context, layer_cache,
                               first + index * ways, method='step')

        if self.scan_layers:
            hidden_BGD, self_cache = jax.lax.scan(
                body, hidden_BGD, (stack['layers'], cache['self'], cache['cross']))
        else:
            self_cache = []
            each = map(for_step, cache['steps']['layers'])
            for inputs in zip(each, cache['self'], cache['cross'], strict=True):
                hidden_BGD, layer_cache = body(hidden_BGD, inputs)
                self_cache.append(layer_cache)
        hidden_BGD = final_norm(self, stack, hidden_BGD)
        return hidden_BGD, cache | {'self': self_cache, 'index': index + 1}

    def _scaled(self, hidden: Array) -> Array:
        """Scale the decoder's outputs, where the head is not trained for that."""
        if not self.config.scale_decoder_outputs:
            return hidden
        return hidden * jnp.asarray(self.config.d_model**-0.5, self.dtype)

    def _layer(self, kind: Callable) -> Any:
        return kind(self.config, self.precision, self.dropout_rate, self.activation_sharding)

    def _buckets(self, queries: Array, keys: Array, bidirectional: bool) -> Array:
        """Return int32[Q, T] buckets of key positions as seen from query positions."""
        return relative_buckets(keys[None, :] - queries[:, None], bidirectional, self.config)

    def _position_bias(self, stack: Params, buckets: Array) -> Biases:
        """Return the stack's shared bias float32[1, H, Q, T]; none where layers own theirs."""
        if self.config.per_layer_relative_bias:
            return ()
        return (bias_from_table(stack['relative_bias']['embedding'], buckets),)
