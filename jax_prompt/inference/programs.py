"""The compiled programs of a model: shared by all that run it, kept as long as it is, bounded."""

import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import jax

from jax_prompt.inference.batching import How
from jax_prompt.inference.decodings import Decoding
from jax_prompt.inference.rank import make_row_label_scorer, score_row_labels, score_targets
from jax_prompt.models.base import Model
from jax_prompt.models.forward import encode
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.prompt import in_place_of
from jax_prompt.types import Array, Params

#: Programs that are kept for a model; beyond them, those go that were not used for longest.
MOST_PROGRAMS = 512


class Programs:
    """The jitted functions of one opened model; those of like sizes share a compiled program.

    Encoding has a program of its own: all ways to generate share it. Each set of sizes has a jitted
    function of its own, since of a function's programs none can be let go alone.

    Attributes:
      score: see `rank.make_row_label_scorer`.
      encode: see `models.forward.encode`.
      score_encoded: see `rank.score_row_labels`.
      score_targets: see `rank.score_targets`.
      launch: held while a batch is started on several devices: two programs that they begin in
        different orders could wait for each other for ever.
    """

    def __init__(self, model: Model):
        self._model = model
        self.score = self.by_sizes('score', lambda: make_row_label_scorer(model))
        self.encode = self.by_sizes('encode', lambda: jax.jit(functools.partial(encode, model)))
        self.score_encoded = self.by_sizes('encoded', lambda: jax.jit(
            functools.partial(score_row_labels, model)))
        self.score_targets = self.by_sizes('targets', lambda: jax.jit(
            functools.partial(score_targets, model)))
        self.launch, self._changing = threading.Lock(), threading.Lock()
        self._kept: dict[tuple, Callable[..., Any]] = {}  # those used last in the end
        self._ran: dict[How, dict[tuple, Any]] = {}

    def decoder(self, decoding: Decoding, length: int) -> Callable[..., Array]:
        """Return what generates so many tokens in one of the ways."""
        return self.by_sizes((decoding, length), lambda: decoding.make(self._model, length))

    def by_sizes(self, name: Any, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """Return a function of (frozen, ...) whose programs are among those that are bounded.

        Args:
          name: tells it from others.
          make: returns the function, jitted, with no program yet.
        """
        def call(frozen: Params, *arrays: Any, **more: Any) -> Any:
            key = name, *(leaf.shape for leaf in jax.tree.leaves((arrays, more)))
            with self._changing:
                self._kept[key] = program = self._kept.pop(key, None) or make()
                if len(self._kept) > MOST_PROGRAMS:
                    del self._kept[next(iter(self._kept))]
                    for ran in self._ran.values():  # what has run is found out anew
                        ran.clear()
            return program(frozen, *arrays, **more)

        return call

    def ran(self, how: How) -> dict[tuple, Any]:
        """Return what tells the programs that have run, each with a batch to run it again."""
        return self._ran.setdefault(how, {})


#: Kept as long as the models are; programs know no weights and so keep none.
_of_models: weakref.WeakKeyDictionary[OpenedModel, Programs] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def programs_of(opened: OpenedModel) -> Programs:
    """Return the programs of a model, the same ones each time."""
    with _lock:
        if opened not in _of_models:
            _of_models[opened] = Programs(opened.model)
        return _of_models[opened]


def with_weights(opened: OpenedModel, weights: Params) -> OpenedModel:
    """Return a model with tuned weights in place of frozen ones, which shares its programs.

    Args:
      opened: the model.
      weights: as `in_place_of` takes them; {} gives the model itself.
    """
    if not weights:
        return opened
    replaced = _parts_of(opened.frozen, weights)
    merge = jax.jit(in_place_of, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, replaced))
    tuned = dataclasses.replace(
        opened, frozen=in_place_of(opened.frozen, merge(replaced, weights)))
    programs = programs_of(opened)
    with _lock:
        _of_models[tuned] = programs
    return tuned


def _parts_of(frozen: Params, weights: Params) -> Params:
    """Return the leaves of a frozen tree that weights stand in for."""
    return {name: _parts_of(frozen[name], leaf) if isinstance(leaf, dict) else frozen[name]
            for name, leaf in weights.items()}
