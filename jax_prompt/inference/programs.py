"""The compiled programs of an engine, and how rows become what they take."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_prompt.inference.chunks import CHUNK_ROWS, Chunk
from jax_prompt.inference.decodings import Decoding
from jax_prompt.inference.parts import Part, Work
from jax_prompt.inference.row_labels import make_row_label_scorer, stack_labels
from jax_prompt.inference.rows import Row
from jax_prompt.inference.shapes import Shapes
from jax_prompt.models.forward import encode
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.prompt import Prompt
from jax_prompt.types import Array, Params

#: dtype[..., S, D], the encoder's outputs, and bool[..., S], where there is a token.
_Encoded = tuple[np.ndarray, np.ndarray]


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
        self._encode = jax.jit(functools.partial(encode, opened.model))
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
        sizes = part.batch, part.length, capacity
        if part.chunks is None:
            return [('whole', kind, *sizes)]
        return [(kind, *sizes), *(('encode', chunk.length, capacity) for chunk in part.chunks)]

    def works(self, batch: Sequence[Row], parts: Sequence[Part], prompt: Prompt) -> list[Work]:
        """Prepare the parts of a batch, filled up.

        Encoding has a program of its own: all ways to generate share it.

        Args:
          batch: rows of one `group`.
          parts: which of them, and at which sizes.
          prompt: the rows of all prompts.

        Returns:
          For each part (what calls the encoder, what is given its result and calls the rest):
          float32[B, C] scores or int32[B, L] tokens. All parts encode before any goes on. Ranking
          is a single program, the second.
        """
        encoded: dict[int, _Encoded] = {}  # by the number of the row, from chunks
        return [self._work(batch, part, prompt, encoded) for part in parts]

    def _work(self, batch: Sequence[Row], part: Part, prompt: Prompt,
              encoded: dict[int, _Encoded]) -> Work:
        """Prepare one part."""
        opened, rows = self._opened, [batch[number] for number in part.numbers]
        arrays = self._place(self._arrays(rows, part.batch))
        if rows[0].labels is not None:
            ids_BS = self._place(self._ids(rows, part.batch, part.length))
            return lambda: None, lambda _: self._score(opened.frozen, prompt, ids_BS, *arrays)
        frozen, decode = opened.for_generation, self._decoder(*rows[0].group[1:])

        if part.chunks is None:
            ids_BS = self._place(self._ids(rows, part.batch, part.length))
            return (lambda: self._encode(frozen, prompt, ids_BS),
                    lambda inputs: decode(frozen, *inputs, arrays))

        def encode() -> None:
            for chunk in part.chunks:
                encoded.update(self._encode_chunk(frozen, prompt, batch, chunk))

        return encode, lambda _: decode(frozen, *self._taken(part, encoded), arrays)

    def _encode_chunk(self, frozen: Params, prompt: Prompt, batch: Sequence[Row],
                      chunk: Chunk) -> dict[int, _Encoded]:
        """Encode a chunk and take it apart, on the host: it is the device.

        What is not finite spreads over a packed row, masked or not; then each of its inputs is
        encoded in a row of its own.
        """
        ids_CS, segment_ids_CS = self._packed(batch, chunk)
        outputs = self._encode(frozen, prompt, ids_CS, segment_ids_BS=segment_ids_CS)
        encoded, alone = {}, []
        for numbers, row_SD, mask_S in zip(chunk.rows, *map(np.asarray, outputs), strict=False):
            if len(numbers) > 1 and not np.isfinite(row_SD).all():
                alone += numbers
            first = 0
            for number in numbers:
                last = first + len(batch[number].ids)
                encoded[number] = row_SD[first:last], mask_S[first:last]
                first = last
        for some in range(0, len(alone), CHUNK_ROWS):
            rows = tuple((number,) for number in alone[some:some + CHUNK_ROWS])
            encoded |= self._encode_chunk(frozen, prompt, batch, Chunk(rows, chunk.length))
        return encoded

    def _packed(self, batch: Sequence[Row], chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        """Return ids int32[C, S] of packed rows, and which segment each position belongs to."""
        shape = CHUNK_ROWS, chunk.length
        ids_CS = np.full(shape, self._opened.model.tokens.pad, np.int32)
        segment_ids_CS = np.zeros(shape, np.int32)
        for row, numbers in enumerate(chunk.rows):
            first = 0
            for segment, number in enumerate(numbers, 1):
                last = first + len(batch[number].ids)
                ids_CS[row, first:last], segment_ids_CS[row, first:last] = (
                    batch[number].ids, segment)
                first = last
        return ids_CS, segment_ids_CS

    def _taken(self, part: Part, encoded: Mapping[int, _Encoded]) -> _Encoded:
        """Return what a part decodes from, dtype[B, S, D] and bool[B, S]."""
        model = self._opened.model
        encoded_BSD = np.zeros((part.batch, part.length, model.d_model), model.dtype)
        mask_BS = np.zeros((part.batch, part.length), bool)
        for row, number in enumerate(part.numbers):
            row_SD, mask_S = encoded[number]
            encoded_BSD[row, :len(mask_S)], mask_BS[row, :len(mask_S)] = row_SD, mask_S
        return encoded_BSD, mask_BS

    def _ids(self, rows: Sequence[Row], batch: int, length: int) -> np.ndarray:
        """Return the rows' ids int32[B, S], padded, with fillers."""
        ids_BS = np.full((batch, length), self._opened.model.tokens.pad, np.int32)
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
                                self._opened.model.tokens.pad)
        _, name, length = rows[0].group
        return self._decodings[name].arrays(rows, batch, length)

    def _decoder(self, name: str, length: int) -> Callable[..., Array]:
        """Return what generates so many tokens in one of the ways."""
        key = name, length
        if key not in self._decoders:
            self._decoders[key] = self._decodings[name].make(self._opened.model, length)
        return self._decoders[key]
