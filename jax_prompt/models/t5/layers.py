"""The layers of T5 as Flax Linen modules.

Every module here is one layer: the stacks, their scan and their rematerialisation are in
`model.py`. Each block normalises first and returns what is *added* to the residual stream.
Kernels are stored with heads as a dimension of their own, so that tensor parallelism splits heads.
"""


import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from jax_prompt.models.t5.activations import keep_rows_apart
from jax_prompt.models.t5.attention import FusedBias, fused_attention
from jax_prompt.models.t5.config import T5Config
from jax_prompt.models.t5.int8 import Int8
from jax_prompt.models.t5.kernel_first import KernelFirst
from jax_prompt.models.t5.positions import Biases, behind_prefix, bias_from_table
from jax_prompt.models.t5.prefix import LayerPrefix, in_front
from jax_prompt.models.t5.products import Precision, attend_rounded
from jax_prompt.types import Array

_ACTIVATIONS = {
    'relu': jax.nn.relu,
    'gelu': lambda x: jax.nn.gelu(x, approximate=True),
    'silu': jax.nn.silu,
}


class RMSNorm(nn.Module):
    """Scale by the root mean square, in float32, without mean or bias (T5's layer norm)."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        scale_D = self.param('scale', nn.initializers.ones, (hidden.shape[-1],))
        wide = hidden.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.epsilon)
        return (wide * scale_D.astype(jnp.float32)).astype(self.dtype)


def few_queries(length: int, config: T5Config) -> bool:
    """Say whether so many decoder positions are better brought to the encoder's width."""
    return 2 * length <= config.d_kv


class Projection(nn.Module):
    """Hold one kernel and multiply by it, as an einsum without bias.

    The kernel is an array or, in a quantised tree, `Int8`, or for decoding steps `KernelFirst`.
    """

    equation: str
    shape: tuple[int, ...]
    stddev: float
    precision: Precision

    def setup(self):
        self.kernel = self.param('kernel', nn.initializers.normal(self.stddev), self.shape)

    def __call__(self, inputs: Array) -> Array:
        return self.multiply(self.equation, inputs)

    def multiply(self, equation: str, inputs: Array) -> Array:
        """Multiply by the kernel in another way than the usual."""
        if isinstance(self.kernel, Int8 | KernelFirst):
            return self.kernel.product(equation, inputs, self.precision)
        return self.precision.multiply(equation, inputs, self.kernel)


class RelativeBias(nn.Module):
    """Hold one relative-bias table, [buckets, H]."""

    config: T5Config

    @nn.compact
    def __call__(self, buckets_QT: Array) -> Array:
        shape = (self.config.relative_attention_num_buckets, self.config.num_heads)
        table = self.param('embedding', nn.initializers.normal(self.config.d_model**-0.5), shape)
        return bias_from_table(table, buckets_QT)


class Attention(nn.Module):
    """Normalise, attend, project: the increment of one attention block.

    T5 does not divide the logits by sqrt(K); its initialisation makes up for it. Heads stand before
    positions ([B, H, S, K]): the batched products are then plain ones on every backend, which
    doubles their speed on CPU.
    """

    config: T5Config
    precision: Precision
    dropout_rate: float
    own_bias: bool = False
    activation_sharding: NamedSharding | None = None

    def setup(self):
        cfg = self.config
        heads = (cfg.d_model, cfg.num_heads, cfg.d_kv)
        into = 'BSD,DHK->BSHK'
        self.norm = RMSNorm(cfg.layer_norm_epsilon, self.precision.activations)
        self.query = Projection(into, heads, (cfg.d_model * cfg.d_kv)**-0.5, self.precision)
        self.key = Projection(into, heads, cfg.d_model**-0.5, self.precision)
        self.value = Projection(into, heads, cfg.d_model**-0.5, self.precision)
        self.out = Projection('BHSK,HKD->BSD', (cfg.num_heads, cfg.d_kv, cfg.d_model),
                              (cfg.num_heads * cfg.d_kv)**-0.5, self.precision)
        self.drop = nn.Dropout(self.dropout_rate)
        if self.own_bias:
            self.relative_bias = RelativeBias(cfg)

    def keys_values(self, hidden_BTD: Array) -> tuple[Array, Array]:
        """Project to keys and values, both [B, H, T, K]; the input is already normalised."""
        return self._heads(self.key, hidden_BTD), self._heads(self.value, hidden_BTD)

    def _heads(self, projection: Projection, hidden_BSD: Array) -> Array:
        """Project to [B, H, S, K]."""
        # Asked for heads before positions, einsum takes the operands in the other order, and XLA on
        # CPU transposes both: a tenth of an encoder's time, half of a decoding step's.
        return projection(hidden_BSD).swapaxes(1, 2)

    def weights(self, logits_BHST: Array, biases: Biases) -> Array:
        """Turn logits into attention weights, in float32; dropout is applied to them."""
        for bias in biases:
            logits_BHST += bias
        weights_BHST = jax.nn.softmax(logits_BHST, axis=-1).astype(self.precision.activations)
        return self.drop(weights_BHST, deterministic=not self.has_rng('dropout'))

    def project_out(self, mixed_BHSK: Array) -> Array:
        """Project the heads' results back to D."""
        return self.drop(self.out(mixed_BHSK), deterministic=not self.has_rng('dropout'))

    def mix(self, query_BHSK: Array, keys_values: tuple[Array, Array], biases: Biases) -> Array:
        """Mix the values for every query, [B, H, S, K]."""
        keys_BHTK, values_BHTK = keys_values
        logits_BHST = self.precision.multiply('BHSK,BHTK->BHST', query_BHSK, keys_BHTK,
                                              jnp.float32)
        return self.precision.multiply('BHST,BHTK->BHSK', self.weights(logits_BHST, biases),
                                       values_BHTK)

    def attend(self, normed_BSD: Array, keys_values: tuple[Array, Array],
               biases: Biases) -> Array:
        """Attend from normalised inputs to given keys and values and project back to D."""
        query_BHSK = self._heads(self.query, normed_BSD)
        return self.project_out(self.mix(query_BHSK, keys_values, biases))

    def self_attend(self, hidden_BSD: Array, biases: Biases | FusedBias, buckets: Array,
                    prefix: LayerPrefix = None) -> Array:
        """Attend among the positions of one sequence, in the way that the biases are made for."""
        normed_BSD = self.norm(hidden_BSD)
        own = (self.relative_bias(buckets),) if self.own_bias else ()
        if isinstance(biases, FusedBias):
            return self._fused_self_attend(normed_BSD, biases, own)
        rounded = self.precision.factors is not None and not self.has_rng('dropout')
        if rounded and prefix is None:
            return self._rounded_self_attend(normed_BSD, (*biases, *own))
        keys_values = in_front(prefix, self.keys_values(normed_BSD))
        own = behind_prefix(own, keys_values[0].shape[2])
        return self.attend(normed_BSD, keys_values, (*biases, *own))

    def _fused_self_attend(self, normed_BSD: Array, fused: FusedBias, own: Biases) -> Array:
        """Attend among the positions of one sequence with the fused kernel."""
        if own:
            fused = fused.with_positions(*own, self.precision.activations)
        heads = [projection(normed_BSD) for projection in (self.query, self.key, self.value)]
        mixed_BSHK = fused_attention(*heads, fused, self.activation_sharding)
        return self.out.multiply('BSHK,HKD->BSD', mixed_BSHK)

    def _rounded_self_attend(self, normed_BSD: Array, biases: Biases) -> Array:
        """Attend among the positions of one sequence on a CPU's units for bfloat16."""
        heads = [projection(normed_BSD) for projection in (self.query, self.key, self.value)]
        mixed_BSHK = attend_rounded(self.precision.factors, *heads, biases)
        return self.out.multiply('BSHK,HKD->BSD', mixed_BSHK)

    def cached_self_attend(self, hidden_BGD: Array, biases: Biases, buckets: Array,
                           cache: tuple[Array, Array], index: Array):
        """Attend from one new position to the cache, in which its own key and value are put."""
        normed_BGD = self.norm(hidden_BGD)
        if self.own_bias:
            own = self.relative_bias(buckets)
            biases = (*biases, *behind_prefix((own,), cache[0].shape[2]))
        new = self.keys_values(normed_BGD)
        cache = tuple(jax.lax.dynamic_update_slice_in_dim(old, value.astype(old.dtype), index, 2)
                      for old, value in zip(cache, new, strict=True))
        return self.attend(normed_BGD, cache, biases), cache

    def cached_cross_attend(self, hidden_BLD: Array, keys_values: tuple[Array, Array],
                            biases: Biases) -> Array:
        """Attend from decoder positions to the encoder's precomputed keys and values."""
        return self.attend(self.norm(hidden_BLD), keys_values, biases)

    def cross_attend(self, hidden_BLD: Array, encoded_BTD: Array, biases: Biases,
                     prefix: LayerPrefix = None) -> Array:
        """Attend from decoder positions to the encoder's outputs.

        (q W_q)(x W_k)' = ((q W_q) W_k') x': with fewer decoder positions than a head is wide it is
        cheaper to bring the few queries to the encoder's width than all encoder positions to
        keys and values. Prompt tuning's targets are short, so this saves a sixth of its products.
        The encoder's outputs may then come as `copies_for_heads` of them.
        """
        normed_BLD = self.norm(hidden_BLD)
        if not few_queries(normed_BLD.shape[1], self.config):
            return self.attend(normed_BLD, in_front(prefix, self.keys_values(encoded_BTD)), biases)
        query_BHLK, multiply = self._heads(self.query, normed_BLD), self.precision.multiply
        query_BHLD = self.key.multiply('BHLK,DHK->BHLD', query_BHLK)
        # These are larger than the kernel: where its D is split, it is the kernel that should move.
        query_BHLD = keep_rows_apart(query_BHLD, self.activation_sharding)
        logits = self._by_encoded('BHLD,BTD->BHLT', query_BHLD, encoded_BTD, jnp.float32)
        if prefix is not None:  # these have no place in the encoder's width
            first_BHLM = multiply('BHLK,BHMK->BHLM', query_BHLK, prefix[0], jnp.float32)
            logits = jnp.concatenate([first_BHLM, logits], axis=-1)
        weights = self.weights(logits, biases)
        places = weights.shape[-1] - encoded_BTD.shape[-2]
        mixed_BHLD = self._by_encoded('BHLT,BTD->BHLD', weights[..., places:], encoded_BTD)
        mixed_BHLD = keep_rows_apart(mixed_BHLD, self.activation_sharding)
        mixed_BHLK = self.value.multiply('BHLD,DHK->BHLK', mixed_BHLD)
        if prefix is not None:
            mixed_BHLK += multiply('BHLM,BHMK->BHLK', weights[..., :places], prefix[1])
        return self.project_out(mixed_BHLK)

    def _by_encoded(self, equation: str, heads: Array, encoded: Array,
                    result: jnp.dtype | None = None) -> Array:
        """Multiply [B, H, ...] by the encoder's outputs, or each group of heads by its copy."""
        if encoded.ndim == 3:
            return self.precision.multiply(equation, heads, encoded, result)
        batch, count, *rest = heads.shape
        grouped = heads.reshape(batch, len(encoded), count // len(encoded), *rest)
        product = self.precision.multiply(
            equation.replace('BH', 'BGH').replace('BTD', 'GBTD'), grouped, encoded, result)
        return product.reshape(batch, count, *product.shape[3:])


class FeedForward(nn.Module):
    """Normalise, widen, (gate,) activate, narrow: the increment of one feed-forward block."""

    config: T5Config
    precision: Precision
    dropout_rate: float

    @nn.compact
    def __call__(self, hidden_BSD: Array) -> Array:
        cfg = self.config
        drop = nn.Dropout(self.dropout_rate, deterministic=not self.has_rng('dropout'))
        activation = _ACTIVATIONS[cfg.activation]
        normed_BSD = RMSNorm(cfg.layer_norm_epsilon, self.precision.activations,
                             name='norm')(hidden_BSD)

        def widen(name: str) -> Array:
            return Projection('BSD,DF->BSF', (cfg.d_model, cfg.d_ff), cfg.d_model**-0.5,
                              self.precision, name=name)(normed_BSD)

        wide_BSF = activation(widen('wi_0')) * widen('wi_1') if cfg.gated else activation(
            widen('wi'))
        narrow_BSD = Projection('BSF,FD->BSD', (cfg.d_ff, cfg.d_model), cfg.d_ff**-0.5,
                                self.precision, name='wo')(drop(wide_BSF))
        return drop(narrow_BSD)


class EncoderLayer(nn.Module):
    """One layer of the encoder: self-attention, then feed-forward."""

    config: T5Config
    precision: Precision
    dropout_rate: float = 0.0
    activation_sharding: NamedSharding | None = None

    def setup(self):
        args = (self.config, self.precision, self.dropout_rate)
        self.self_attention = Attention(*args, own_bias=self.config.per_layer_relative_bias,
                                        activation_sharding=self.activation_sharding)
        self.feed_forward = FeedForward(*args)

    def self_keys_values(self, hidden_BSD: Array) -> tuple[Array, Array]:
        """Project a layer's inputs for its own self-attention."""
        return self.self_attention.keys_values(self.self_attention.norm(hidden_BSD))

    def __call__(self, hidden_BSD: Array, biases: Biases | FusedBias, buckets: Array,
                 prefix: LayerPrefix = None) -> Array:
        hidden_BSD += self.self_attention.self_attend(hidden_BSD, biases, buckets, prefix)
        return hidden_BSD + self.feed_forward(hidden_BSD)


class DecoderLayer(nn.Module):
    """One layer of the decoder: self-attention, attention to the encoder, feed-forward."""

    config: T5Config
    precision: Precision
    dropout_rate: float = 0.0
    activation_sharding: NamedSharding | None = None

    def setup(self):
        args = (self.config, self.precision, self.dropout_rate)
        self.self_attention = Attention(*args, own_bias=self.config.per_layer_relative_bias)
        self.cross_attention = Attention(*args, activation_sharding=self.activation_sharding)
        self.feed_forward = FeedForward(*args)

    def self_keys_values(self, hidden_BSD: Array) -> tuple[Array, Array]:
        """Project a layer's inputs for its own self-attention."""
        return self.self_attention.keys_values(self.self_attention.norm(hidden_BSD))

    def cross_keys_values(self, encoded_BSD: Array) -> tuple[Array, Array]:
        """Project the encoder's outputs for this layer's cross-attention."""
        return self.cross_attention.keys_values(encoded_BSD)

    def __call__(self, hidden_BLD: Array, encoded_BSD: Array, biases: Biases, buckets: Array,
                 cross_biases: Biases, prefix: LayerPrefix = None,
                 cross_prefix: LayerPrefix = None) -> Array:
        hidden_BLD += self.self_attention.self_attend(hidden_BLD, biases, buckets, prefix)
        hidden_BLD += self.cross_attention.cross_attend(hidden_BLD, encoded_BSD, cross_biases,
                                                        cross_prefix)
        return hidden_BLD + self.feed_forward(hidden_BLD)

    def step(self, hidden_BGD: Array, context: tuple[Biases, Array, Biases], layer_cache,
             index: Array):
        """Decode one position.

        `context` is (self biases, buckets, cross biases), `layer_cache` (self keys and values,
        cross keys and values).
        """
        biases, buckets, cross_biases = context
        self_cache, cross_cache = layer_cache
        increment, self_cache = self.self_attention.cached_self_attend(
            hidden_BGD, biases, buckets, self_cache, index)
        hidden_BGD += increment
        hidden_BGD += self.cross_attention.cached_cross_attend(hidden_BGD, cross_cache,
                                                               cross_biases)
        return hidden_BGD + self.feed_forward(hidden_BGD), self_cache
