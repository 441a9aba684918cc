"""What is compiled of a model: once, whoever runs it, and as long as the model is open."""

import functools
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax

from jax_prompt.inference.decodings import Decoding
from jax_prompt.inference.rank import make_row_label_scorer
from jax_prompt.models.base import Model
from jax_prompt.models.forward import encode
from jax_prompt.models.open import OpenedModel
from jax_prompt.types import Array


class Programs:
    """The jitted functions of one opened model; those of like sizes share a compiled program.

    Encoding has a program of its own: all ways to generate share it.

    Attributes:
      score: see `rank.make_row_label_scorer`.
      encode: see `models.forward.encode`.
      launch: held while a batch is started on several devices: two programs that they begin in
        different orders could wait for each other for ever.
    """

    def __init__(self, model: Model):
        self._model = model
        self.score = make_row_label_scorer(model)
        self.encode = jax.jit(functools.partial(encode, model))
        self.launch = threading.Lock()
        self._decoders: dict[tuple[Decoding, int], Callable[..., Array]] = {}
        self._ran: dict[Hashable, dict[tuple, Any]] = {}

    def decoder(self, decoding: Decoding, length: int) -> Callable[..., Array]:
        """Return what generates so many tokens in one of the ways."""
        key = decoding, length
        if key not in self._decoders:
            self._decoders[key] = decoding.make(self._model, length)
        return self._decoders[key]

    def ran(self, how: Hashable) -> dict[tuple, Any]:
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
