"""A model that is no T5: it mixes by means instead of attention, and meets the Protocol alone."""

import dataclasses

import jax
import jax.numpy as jnp

from jax_prompt.models.base import Tokens


def mean(hidden_BTD, visible_BQT):
    """Return for each place the mean of what it sees: [B, Q, D]."""
    weights = visible_BQT / jnp.maximum(visible_BQT.sum(-1, keepdims=True), 1)
    return jnp.einsum('BQT,BTD->BQD', weights, hidden_BTD)


@dataclasses.dataclass(frozen=True)
class Toy:
    vocab_size: int
    d_model: int = 16
    name: str = 'toy'
    tokens: Tokens = Tokens(0, 1, 0)
    dtype: jnp.dtype = jnp.float32
    dropout_rate: float = 0.0
    rules = ()
    numerics = {'dtype': 'float32'}
    prefix_shapes = {}

    def init(self, seed):
        keys, size = jax.random.split(jax.random.key(seed), 3), (self.d_model, self.d_model)
        return {'table': jax.random.normal(keys[0], (self.vocab_size, self.d_model)),
                'mix': jax.random.normal(keys[1], size), 'cross': jax.random.normal(keys[2], size)}

    def embedding_table(self, frozen):
        return frozen['table']

    def embed(self, frozen, ids):
        return frozen['table'][ids]

    def encode(self, frozen, hidden, mask, segment_ids=None, dropout_rng=None, prefix=None):
        visible = jnp.broadcast_to(mask[:, None], (*mask.shape, mask.shape[1]))
        if segment_ids is not None:
            visible &= segment_ids[:, None] == segment_ids[..., None]
        return jnp.tanh(hidden @ frozen['mix'] + mean(hidden, visible))

    def decode(self, frozen, hidden, encoded, mask, segment_ids=None, dropout_rng=None,
               prefix=None):
        places = jnp.arange(hidden.shape[1])
        past = jnp.broadcast_to(places[:, None] >= places, (len(hidden), len(places), len(places)))
        source = jnp.broadcast_to(mask[:, None], (*hidden.shape[:2], mask.shape[1]))
        if segment_ids is not None:
            source &= segment_ids[0][:, None] == segment_ids[1][..., None]
            past &= segment_ids[1][:, None] == segment_ids[1][..., None]
        return jnp.tanh(mean(hidden, past) + mean(encoded, source) @ frozen['cross'])

    def logits(self, frozen, hidden):
        return hidden @ frozen['table'].T

    def init_cache(self, frozen, encoded, mask, max_length, prefix=None):
        return {'past': jnp.zeros((len(encoded), max_length, self.d_model)),
                'context': mean(encoded, mask[:, None]) @ frozen['cross'], 'index': jnp.int32(0)}

    def decode_step(self, frozen, hidden, cache, visible=None):
        ways, index = hidden.shape[1], cache['index']
        past = jax.lax.dynamic_update_slice_in_dim(cache['past'], hidden, index * ways, 1)
        if visible is None:
            visible = jnp.broadcast_to(jnp.arange(past.shape[1]) <= index,
                                       (len(past), 1, past.shape[1]))
        hidden = jnp.tanh(mean(past, visible) + cache['context'])
        return hidden, cache | {'past': past, 'index': index + 1}

    def step_logits(self, frozen, hidden, cache):
        return self.logits(frozen, hidden).T

    def for_scoring(self, frozen):
        return frozen

    def for_generation(self, frozen):
        return frozen

    def attention_weights(self, frozen, hidden, mask, inputs, prefix=None):
        return {}

    def with_dropout(self, rate):
        return dataclasses.replace(self, dropout_rate=rate)
