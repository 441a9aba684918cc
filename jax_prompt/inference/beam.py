"""Beam search with a key and value cache: G counts a row's beams, C their 2 G best continuations.

(Where E tokens end a sequence, read (1 + E) G for 2 G.)

Beams are query positions: the G unfinished sequences of a row stand side by side where the decoder
expects positions, so that all share the row's cross keys and values, which are in memory once. The
self-attention cache is only ever appended to. When beams change places, what changes is a small
table that says in whose place of the cache each beam finds its past; nothing large is copied.

The search is transformers' (5.23, `GenerationMixin._beam_search`), token for token: of the 2 G best
continuations those among the first G that end are candidates for the answer, and the best G that
do not end go on. A length penalty alpha divides a finished sequence's log-probability:

    'power'  length ** alpha, as transformers has it

    't5'     ((5 + length) / 6) ** alpha, as Mesh TensorFlow and T5X have it (Wu et al. 2016,
             equation 14); T5 decoded with alpha 0.6. What stays transformers': a sequence cut off
             at the length limit competes with the finished ones, continuations G to 2 G may not
             end, and without early_stopping='never' the search ends earlier.

The length counts generated tokens, the end token included. All of this is a row's own: one compiled
program serves requests with any settings but the number of beams.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.inference.generate import (
    NOT_FINITE,
    Limits,
    check_limits,
    is_end,
    largest,
    stack_limits,
    without_end,
)
from jax_prompt.models.base import Model, Prefix
from jax_prompt.types import Array, Params

#: The score of what must not be chosen; far below any log-probability, and finite.
_NEVER = -1e9

_PENALTIES = {
    'power': lambda length, alpha: length**alpha,
    't5': lambda length, alpha: ((5.0 + length) / 6.0)**alpha,
}


@dataclasses.dataclass(frozen=True)
class BeamSettings:
    """What one request asks of the search; it can be put into a batch with any other.

    Attributes:
      length_penalty: alpha; above 0 favours long outputs, 0 compares plain log-probabilities.
      early_stopping: True to stop at G finished sequences; False to stop when the best unfinished
        one, at its present length, would not enter the finished ones; 'never' to stop only when it
        could not at any length (exact where alpha is 0 or more).
      penalty: 'power' or 't5', the form of the length penalty.
      min_tokens: the end token is not chosen before so many tokens stand.
      max_tokens: at most so many tokens, the end token included; None for what was compiled.

    Raises:
      ValueError: for a setting outside its range.
    """

    length_penalty: float = 1.0
    early_stopping: bool | str = False
    penalty: str = 'power'
    min_tokens: int = 0
    max_tokens: int | None = None

    def __post_init__(self):
        if not (math.isfinite(self.length_penalty) and abs(self.length_penalty) <= 10):
            raise ValueError(f'length_penalty={self.length_penalty}; expected -10 to 10')
        if self.early_stopping not in (True, False, 'never'):
            raise ValueError(f'early_stopping={self.early_stopping!r}; expected True, False or '
                             "'never'")
        if self.penalty not in _PENALTIES:
            raise ValueError(f'penalty={self.penalty!r} is no form of the length penalty; choose '
                             f'one of {", ".join(_PENALTIES)}')
        check_limits(self.min_tokens, self.max_tokens)


class BeamRows(NamedTuple):
    """The settings of a batch's rows, as arrays.

    Attributes:
      penalty_BL: float32[B, L], what divides the score of a sequence that ends at a position.
      bound_BL: float32[B, L], what divides the best score that unfinished sequences can hope for.
      stop_when_full_B: bool[B], early_stopping=True.
      limits: each row's number of tokens.
    """

    penalty_BL: Array
    bound_BL: Array
    stop_when_full_B: Array
    limits: Limits


class Beams(NamedTuple):
    """What a search found, the best first.

    Attributes:
      tokens_BGL: int32[B, G, L], up to and with the end token, then pads.
      scores_BG: float32[B, G], log-probability divided by the length penalty. A filler has pads
        and scores of -1e9, a row whose logits were not finite `generate.NOT_FINITE` throughout.
    """

    tokens_BGL: Array
    scores_BG: Array


class _Search(NamedTuple):
    """Where a search stands: what the loop carries from position to position."""

    position: Array  # int32[], the next to be written
    open_B: Array  # bool[B], whether a row's answer may still change
    finite_B: Array  # bool[B], False once its logits were not finite
    live: Beams  # unfinished sequences with the sums of their log-probabilities
    last_BG: Array  # int32[B, G], what the decoder reads next
    found: Beams  # the best finished sequences
    is_found_BG: Array  # bool[B, G], False where `found` is still empty
    places_BGL: Array  # int32[B, G, L], in whose place of the cache each position stands; or -1
    cache: Params


def stack_beam_settings(settings: Sequence[BeamSettings], max_length: int) -> BeamRows:
    """Put a batch's settings into arrays.

    Args:
      settings: one a row; `BeamSettings()` will do for a filler.
      max_length: of the search that they are for.

    Returns:
      numpy arrays to be given to a search.

    Raises:
      ValueError: where a request wants more than `max_length` tokens.
    """
    limits = stack_limits([(row.min_tokens, row.max_tokens) for row in settings], max_length)
    lengths_L = np.arange(1, max_length + 1, dtype=np.float64)
    penalties, bounds = [], []
    for row, longest in zip(settings, limits.max_tokens_B, strict=True):
        penalty_L = _PENALTIES[row.penalty](lengths_L, row.length_penalty)
        hopeful = row.early_stopping == 'never' and row.length_penalty > 0
        penalties.append(penalty_L)
        bounds.append(np.full_like(penalty_L, penalty_L[longest - 1]) if hopeful else penalty_L)
    return BeamRows(np.array(penalties, np.float32), np.array(bounds, np.float32),
                    np.array([row.early_stopping is True for row in settings]), limits)


def search_beams(model: Model, frozen: Params, encoded_BSD: Array, mask_BS: Array, num_beams: int,
                 rows: BeamRows, prefix: Prefix | None = None) -> Beams:
    """Search from encoded inputs until no row's answer can change.

    Args:
      model: the frozen model's shape.
      frozen: its weights.
      encoded_BSD: the encoder's outputs.
      mask_BS: bool[B, S], True where the encoder had a token.
      num_beams: G.
      rows: each row's settings; they hold the length L.
      prefix: that the decoder sees.

    Returns:
      The finished sequences, the best first.
    """
    batch, max_length = rows.penalty_BL.shape
    shape_BG = (batch, num_beams)
    nothing = Beams(jnp.full((*shape_BG, max_length), model.tokens.pad, jnp.int32),
                    jnp.full(shape_BG, _NEVER, jnp.float32))
    # All beams begin with the same token: only the first may be continued, or all would be equal.
    first = nothing._replace(scores_BG=nothing.scores_BG.at[:, 0].set(0.0))
    start = _Search(
        position=jnp.zeros((), jnp.int32),
        open_B=jnp.any(mask_BS, axis=1),
        finite_B=jnp.ones(batch, bool),
        live=first,
        last_BG=jnp.full(shape_BG, model.tokens.start, jnp.int32),
        found=nothing,
        is_found_BG=jnp.zeros(shape_BG, bool),
        places_BGL=jnp.full((*shape_BG, max_length), -1, jnp.int32),
        cache=model.init_cache(frozen, encoded_BSD, mask_BS, max_length * num_beams, prefix))

    def unfinished(now: _Search) -> Array:
        return (now.position < max_length) & jnp.any(now.open_B)

    def advance(now: _Search) -> _Search:
        return _advance(model, frozen, rows, now)

    end = jax.lax.while_loop(unfinished, advance, start)
    return end.found._replace(tokens_BGL=jnp.where(
        end.finite_B[:, None, None], end.found.tokens_BGL, NOT_FINITE))


def _advance(model: Model, frozen: Params, rows: BeamRows, now: _Search) -> _Search:
    """Write one position of every beam."""
    num_beams = now.last_BG.shape[1]
    places_BGL, logits_BGV, cache = _read(model, frozen, now)
    log_total_BG = jax.nn.logsumexp(logits_BGV, axis=-1)
    finite_B = now.finite_B & (jnp.isfinite(log_total_BG).all(axis=1) | ~now.open_B)
    parents_BC, tokens_BC, scores_BC = _best_continuations(
        logits_BGV, log_total_BG, now.live.scores_BG,
        now.position < rows.limits.min_tokens_B, model.tokens.ends)
    written_BCL = jax.lax.dynamic_update_slice_in_dim(
        _gather(now.live.tokens_BGL, parents_BC), tokens_BC[:, :, None], now.position, axis=2)
    continued = Beams(written_BCL, scores_BC)

    at_limit_B = now.position + 1 >= rows.limits.max_tokens_B
    ends_BC = is_end(tokens_BC, model.tokens.ends) | at_limit_B[:, None]
    found, is_found_BG = _add_found(now, continued, ends_BC, rows)
    scores_BG, chosen_BG = jax.lax.top_k(jnp.where(ends_BC, scores_BC + _NEVER, scores_BC),
                                         num_beams)
    full_B = is_found_BG.all(axis=1)
    bound_B = rows.bound_BL[:, now.position]
    hopeless_B = full_B & (scores_BG[:, 0] / bound_B <= found.scores_BG.min(axis=1))
    return _Search(
        position=now.position + 1,
        open_B=(now.open_B & finite_B & ~at_limit_B & ~hopeless_B
                & ~(full_B & rows.stop_when_full_B)),
        finite_B=finite_B,
        live=Beams(_gather(written_BCL, chosen_BG), scores_BG),
        last_BG=_gather(tokens_BC, chosen_BG),
        found=found,
        is_found_BG=is_found_BG,
        places_BGL=_gather(places_BGL, _gather(parents_BC, chosen_BG)),
        cache=cache)


def _read(model: Model, frozen: Params, now: _Search) -> tuple[Array, Array, Params]:
    """Read each beam's last token: (its places in the cache, float32[B, G, V] logits, cache)."""
    batch, num_beams, length = now.places_BGL.shape
    beams_G = jnp.arange(num_beams)
    own_BG1 = jnp.broadcast_to(beams_G[:, None], (batch, num_beams, 1))
    places_BGL = jax.lax.dynamic_update_slice_in_dim(now.places_BGL, own_BG1, now.position, axis=2)
    visible = places_BGL[..., None] == beams_G  # of every position, whose place is looked at
    hidden_BGD, cache = model.decode_step(
        frozen, model.embed(frozen, now.last_BG), now.cache,
        visible.reshape(batch, num_beams, length * num_beams))
    return places_BGL, model.logits(frozen, hidden_BGD), cache


def _best_continuations(logits_BGV: Array, log_total_BG: Array, scores_BG: Array,
                        too_early_B: Array, ends: Sequence[int]) -> tuple[Array, Array, Array]:
    """Return a row's C best next tokens, the best first: (beam, token, score), all [B, C].

    C is so large that G of them are no end token. The best of each beam are found first: those of
    all are among them.
    """
    num_beams, too_early_B11 = logits_BGV.shape[1], too_early_B[:, None, None]
    count = (1 + len(ends)) * num_beams
    values, tokens = largest(without_end(logits_BGV, too_early_B11, ends, 2), count)
    scores = values - log_total_BG[..., None] + scores_BG[..., None]
    flat = (len(scores_BG), num_beams * count)
    scores_BC, where_BC = jax.lax.top_k(scores.reshape(flat), count)
    return where_BC // count, _gather(tokens.reshape(flat), where_BC), scores_BC


def _add_found(now: _Search, continued: Beams, ends_BC: Array,
               rows: BeamRows) -> tuple[Beams, Array]:
    """Merge the sequences that have just ended with those found before; keep the best G."""
    num_beams = now.last_BG.shape[1]
    among_first_C = jnp.arange(ends_BC.shape[1]) < num_beams  # the others are there to go on
    eligible_BC = ends_BC & among_first_C & now.open_B[:, None]
    penalty_B = rows.penalty_BL[:, now.position]
    scores_BC = jnp.where(eligible_BC, continued.scores_BG / penalty_B[:, None], _NEVER)
    scores_BG, best_BG = jax.lax.top_k(
        jnp.concatenate([now.found.scores_BG, scores_BC], axis=1), num_beams)
    tokens = jnp.concatenate([now.found.tokens_BGL, continued.tokens_BGL], axis=1)
    is_found = jnp.concatenate([now.is_found_BG, eligible_BC], axis=1)
    return Beams(_gather(tokens, best_BG), scores_BG), _gather(is_found, best_BG)


def _gather(values: Array, indices_BC: Array) -> Array:
    """Pick along the second dimension, for each row its own: [B, T, ...] -> [B, C, ...]."""
    indices = indices_BC.reshape(*indices_BC.shape, *[1] * (values.ndim - 2))
    return jnp.take_along_axis(values, indices, axis=1)
