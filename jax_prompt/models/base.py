"""What a frozen model must offer; T5 is one. Whatever else meets a model knows no more of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp

from jax_prompt.parallel.rules import Rule
from jax_prompt.types import Array, Params


class Tokens(NamedTuple):
    """The special ids of a model.

    Attributes:
      pad: fills what has no token.
      eos: ends an input and a target.
      start: what the decoder reads first.
      other_ends: end what is generated as `eos` does, and nothing else.
    """

    pad: int
    eos: int
    start: int
    other_ends: tuple[int, ...] = ()

    @property
    def ends(self) -> tuple[int, ...]:
        """All tokens that end what is generated."""
        return self.eos, *self.other_ends


class Prefix(NamedTuple):
    """Keys and values that attention finds in front of those it computes, in each layer.

    Attributes:
      keys_values: 'encoder', 'decoder' (their self-attention) or 'cross' -> (keys, values), each
        float32[T, N, H, M, K]: T prompts of M positions. Where a stack is absent, its attention is
        the plain one.
      prompt_ids: int32[B], which of the T prompts a row uses. None: the batch falls into T equal
        parts, the first of which uses the first prompt; with T = 1 all rows use it.
      lengths: of each stack int32[B], how many of the M positions a row sees; None for all.
    """

    keys_values: Mapping[str, tuple[Array, Array]]
    prompt_ids: Array | None = None
    lengths: Mapping[str, Array] | None = None


class Model(Protocol):
    """An encoder-decoder without its weights: hashable, so that jitted functions close over it.

    The weights are a plain tree, an argument of every method. A model knows nothing of prompts: it
    encodes embeddings, wherever they came from, and attends to a prefix where it is given one.

    Attributes:
      name: what messages and prompt files call it.
      tokens: its special ids.
      d_model: D, the width of embeddings and hidden states.
      vocab_size: V, rows of the embedding table; ids from V on are virtual tokens.
      dtype: of activations.
      dropout_rate: used only by calls that are given a `dropout_rng`.
      rules: where its weights live on a mesh, see `parallel.rules`.
      numerics: name -> value of all that changes how its results are rounded, ready for JSON.
      prefix_shapes: 'encoder', 'decoder' and 'cross' -> (N, H, K), layers, heads and width of a
        head of a `Prefix`; {} for a model that takes none.
    """

    name: str
    tokens: Tokens
    d_model: int
    vocab_size: int
    dtype: jnp.dtype
    dropout_rate: float
    rules: Sequence[Rule]
    numerics: Mapping[str, Any]
    prefix_shapes: Mapping[str, tuple[int, int, int]]

    def embedding_table(self, frozen: Params) -> Array:
        """Return the embedding table, float[V, D], from which prompts are started and read."""

    def embed(self, frozen: Params, ids: Array) -> Array:
        """Look vocabulary rows up: int32[...] -> dtype[..., D]."""

    def encode(self, frozen: Params, hidden_BSD: Array, mask_BS: Array,
               segment_ids_BS: Array | None = None, dropout_rng: Array | None = None,
               prefix: Prefix | None = None) -> Array:
        """Run the encoder over embeddings: dtype[B, S, D]."""

    def decode(self, frozen: Params, hidden_BLD: Array, encoded_BSD: Array, encoder_mask_BS: Array,
               segment_ids: tuple[Array, Array] | None = None,
               dropout_rng: Array | None = None, prefix: Prefix | None = None) -> Array:
        """Run the decoder over all target positions at once: dtype[B, L, D]."""

    def logits(self, frozen: Params, hidden_BLD: Array) -> Array:
        """Score the vocabulary: dtype[B, L, D] -> float32[B, L, V]."""

    def init_cache(self, frozen: Params, encoded_BSD: Array, encoder_mask_BS: Array,
                   max_length: int, prefix: Prefix | None = None) -> Params:
        """Prepare cached decoding of so many positions, behind a prefix."""

    def decode_step(self, frozen: Params, hidden_BGD: Array, cache: Params,
                    visible: Array | None = None) -> tuple[Array, Params]:
        """Decode one position of every row from the cache of those before it.

        A row may be continued in G ways side by side, the beams of a search: position t of way g is
        put at t * G + g, and `visible`, bool[B, G, T], says where each way may look.
        """

    def step_logits(self, frozen: Params, hidden_BD: Array, cache: Params) -> Array:
        """Score the vocabulary for one position a row: dtype[B, D] -> float32[V, B]."""

    def for_scoring(self, frozen: Params) -> Params:
        """Return the weights as scoring given texts reads them; the tree itself will do."""

    def for_generation(self, frozen: Params) -> Params:
        """Return the weights as generation reads them; the tree itself will do."""

    def activations(self, frozen: Params, ids_M: Array) -> Mapping[str, tuple[Array, Array]]:
        """Compute the keys and values of a text as a `Prefix` of one prompt has them."""

    def attention_weights(self, frozen: Params, hidden_BSD: Array, mask_BS: Array,
                          inputs_BLD: Array, prefix: Prefix | None = None) -> Mapping[str, Array]:
        """Run encoder and decoder, and return how much each position attends to each other.

        For those who read a prompt; nothing else asks for it. 'encoder' -> float32[B, N, H, S, T],
        'decoder' -> [B, N, H, L, T] and 'cross' -> [B, N, H, L, T], where T are the prefix's
        positions and then those of the sequence. {} for a model that does not attend.
        """

    def with_dropout(self, rate: float) -> 'Model':
        """Return the model with another dropout rate."""
