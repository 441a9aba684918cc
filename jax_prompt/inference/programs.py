"""The compiled programs of an engine, and how rows become what they take."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_prompt.inference.decodings import Decoding
from jax_prompt.inference.encode import encode_inputs
from jax_prompt.inference.parts import Part, Work
from jax_prompt.inference.row_labels import make_row_label_scorer, stack_labels
from jax_prompt.inference.rows import OpenedModel, Row
from jax_prompt.inference.shapes import Shapes
from jax_prompt.types import Array, Params


class Programs:
    """Run rows; whatever they ask for, those of like sizes share a program."""

    def __init__(self, opened: OpenedModel, shapes: Shapes, decodings: Mapping[str, Decoding],
                 sharding: jax.sharding.Sharding | None = None):
        """Take a model into use; nothing is compiled yet.

        Args:
          opened: the frozen model with its vocabulary.
          shapes: at which batches run.
          decodings: ways to generate by name.
          sharding: of batches, where the model stands on several devices.
        """
        self._opened, self._shapes = opened, shapes
        self._decodings, self._sharding = decodings, sharding
        self._score = make_row_label_scorer(opened.model)
        self._encode = jax.jit(functools.partial(encode_inputs, opened.model))
        self._decoders: dict[tuple[str, int], Callable[..., Array]] = {}

    @property
    def compilations(self) -> int:
        """Return how many have been compiled so far."""
        programs = [self._score, self._encode, *list(self._decoders.values())]
        return sum(program._cache_size() for program in programs)

    def kind(self, row: Row) -> tuple:
        """Return what two rows share that need the same programs."""
        if row.labels is None:
            return row.group
        return 'rank', self._shapes.label_rung(*row.labels.shape)

    def keys(self, batch: Sequence[Row], part: Part, capacity: int) -> list[tuple]:
        """Return what tells the programs that a part of a batch needs from others.

        Args:
          batch: rows of one `group`.
          part: which of them, and at which sizes.
          capacity: R, rows of the prompt table.
        """
        kind = max(self.kind(batch[number]) for number in part.numbers)
        return [(kind, part.batch, part.length, capacity), *(
            ('encode', part.chunk_batch, length, capacity) for _, length in part.chunks)]

    def work(self, batch: Sequence[Row], part: Part, table_RD: Array) -> Work:
        """Prepare a part of a batch, filled up.

        Encoding has a program of its own: all ways to generate share it.

        Args:
          batch: rows of one `group`.
          part: which of them, and at which sizes.
          table_RD: float32[R, D], the rows of all prompts.

        Returns:
          (what calls the encoder, what is given its result and calls the rest): float32[B, C]
          scores or int32[B, L] tokens. Ranking is a single program, the second.
        """
        opened, rows = self._opened, [batch[number] for number in part.numbers]
        arrays = self._place(self._arrays(rows, part.batch))
        if rows[0].labels is not None:
            ids_BS = self._place(self._ids(rows, part.batch, part.length))
            return lambda: None, lambda _: self._score(opened.frozen, table_RD, ids_BS, *arrays)
        frozen, decode = opened.for_generation, self._decoder(*rows[0].group[1:])

        def encode() -> tuple[Array, Array]:
            if part.chunks:
                return self._encode_chunks(frozen, table_RD, rows, part)
            return self._encode(frozen, table_RD, self._place(
                self._ids(rows, part.batch, part.length)))

        return encode, lambda encoded: decode(frozen, *encoded, arrays)

    def _encode_chunks(self, frozen: Params, table_RD: Array, rows: Sequence[Row],
                       part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Encode chunk by chunk, and put the results together on the host: it is the device."""
        model = self._opened.model
        encoded_BSD = np.zeros((part.batch, part.length, model.config.d_model), model.dtype)
        mask_BS = np.zeros((part.batch, part.length), bool)
        first = 0
        for count, length in part.chunks:
            ids_CS = self._ids(rows[first:first + count], part.chunk_batch, length)
            encoded_CSD, mask_CS = self._encode(frozen, table_RD, ids_CS)
            encoded_BSD[first:first + count, :length] = np.asarray(encoded_CSD)[:count]
            mask_BS[first:first + count, :length] = np.asarray(mask_CS)[:count]
            first += count
        return encoded_BSD, mask_BS

    def _ids(self, rows: Sequence[Row], batch: int, length: int) -> np.ndarray:
        """Return the rows' ids int32[B, S], padded, with fillers."""
        ids_BS = np.full((batch, length), self._opened.model.config.pad_token_id, np.int32)
        for number, row in enumerate(rows):
            ids_BS[number, :len(row.ids)] = row.ids
        return ids_BS

    def _place(self, arrays: Any) -> Any:
        """Put a batch's arrays where the devices want them."""
        return arrays if self._sharding is None else jax.device_put(arrays, self._sharding)

    def _arrays(self, rows: Sequence[Row], batch: int) -> Any:
        """Return what a batch's program takes besides the ids: of labels, or of decoding."""
        if rows[0].labels is not None:
            sizes = self._shapes.label_shape(max(self.kind(row)[1] for row in rows))
            return stack_labels([row.labels for row in rows], batch, *sizes,
                                self._opened.model.config.pad_token_id)
        _, name, length = rows[0].group
        return self._decodings[name].arrays(rows, batch, length)

    def _decoder(self, name: str, length: int) -> Callable[..., Array]:
        """Return what generates so many tokens in one of the ways."""
        key = name, length
        if key not in self._decoders:
            self._decoders[key] = self._decodings[name].make(self._opened.model, length)
        return self._decoders[key]
