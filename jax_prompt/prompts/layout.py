"""Layouts: where the virtual tokens stand among the tokens of an input.

A layout is applied once, on the host, when features are built.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_prompt.files import brief, listed, shown

PLACEMENTS = ('before', 'after', 'around', 'marker')
DEFAULT_MARKER = '<extra_id_99>'
#: The placements for which a field may be set.
_APPLIES = {'after_end': ('after', 'around'), 'rows_before': ('around', 'marker'),
            'marker': ('marker',)}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the rows of a prompt stand in an encoder input.

    Attributes:
        placement: 'before' the text, 'after' it, 'around' it (some rows before, the others after),
            or in the place of a 'marker' that the input holds exactly once, or twice with
            `rows_before`: some rows on each side of a template's words.
        after_end: rows that follow the text stand after the end token instead of before it.
        rows_before: for 'around', how many rows stand before the text; by default half, P // 2.
            For 'marker', how many stand in the place of the first marker, the others in that of a
            second one; None for a single marker.
        marker: for 'marker', the vocabulary entry that the rows replace. The default is the T5
            sentinel that stands last in use, so that it does not meet span corruption's.

    Example:
        >>> Layout('after').insert(np.array([7, 8]), 2, 100, 1, 512)[0].tolist()
        [7, 8, 100, 101, 1]
    """

    placement: str = 'before'
    after_end: bool = False
    rows_before: int | None = None
    marker: str = DEFAULT_MARKER

    def __post_init__(self):
        if self.placement not in PLACEMENTS:
            raise ValueError(
                f'unknown prompt placement {brief(self.placement)}; '
                f'choose one of {", ".join(PLACEMENTS)}'
            )
        if not isinstance(self.after_end, bool):
            raise ValueError(
                f'layout after_end is {brief(self.after_end)}; expected true or false')
        count = self.rows_before
        if count is not None and (type(count) is not int or count < 0):
            raise ValueError(
                f'layout rows_before is {brief(count)}; expected a whole number, 0 or more')
        if not isinstance(self.marker, str) or not 0 < len(self.marker) <= 100 or (
                shown(self.marker) != self.marker):
            raise ValueError(f'layout marker is {brief(self.marker)}; expected one vocabulary '
                             'entry')
        for name, placements in _APPLIES.items():
            value = getattr(self, name)
            if value != getattr(Layout, name) and self.placement not in placements:
                raise ValueError(
                    f'layout {name}={brief(value)} does not apply to placement {self.placement!r}; '
                    f'use placement {" or ".join(map(repr, placements))}, or leave {name} out')

    def num_rows_before(self, num_rows: int) -> int:
        """Count the rows that stand before the text, or at the first of two markers.

        Raises:
            ValueError: more than there are.
        """
        if self.placement != 'around' and self.num_markers < 2:
            return num_rows if self.placement == 'before' else 0
        before = num_rows // 2 if self.rows_before is None else self.rows_before
        if before > num_rows:
            raise ValueError(
                f'layout puts {brief(before)} rows '
                f'{"before the text" if self.num_markers < 2 else "at the first marker"} but the '
                f'prompt has {num_rows}; lower rows_before or train a prompt of as many'
            )
        return before

    def insert(
        self, tokens, num_rows: int, vocab_size: int, eos_id: int | None,
        max_length: int | None = None, marker_id: int | None = None,
    ) -> tuple[np.ndarray, bool]:
        """Trim a text, close it with the end token and insert the virtual tokens.

        Text is trimmed at its end. The end token is always kept, and neither virtual tokens nor
        the marker count towards `max_length`, so the prompt is never trimmed: a marker beyond the
        kept text moves to its end.

        Args:
            tokens: int32[T], the text's ids without an end token.
            num_rows: P; virtual ids are `vocab_size..vocab_size+P-1`, each inserted once, in order.
            vocab_size: V, rows of the frozen embedding table.
            eos_id: the end token; None for none.
            max_length: the most text tokens and end token together; None for no limit.
            marker_id: the id of `self.marker`, needed for placement 'marker'.

        Returns:
            int32[T'] with T' = min(T + 1, max_length) + P (T without the marker), and whether text
            was trimmed.

        Raises:
            ValueError: a token outside the vocabulary, a missing or repeated marker, or no room
                for the end token.
        """
        tokens = np.asarray(tokens, np.int32)
        wrong = tokens[(tokens < 0) | (tokens >= vocab_size)]
        if len(wrong):  # ids beyond the table would pass for virtual tokens
            raise ValueError(
                f"token id {wrong[0]} is outside the model's vocabulary of {vocab_size} rows; "
                'use the tokenizer that belongs to this model')
        places: list[int] = []
        if self.placement == 'marker':
            places = self._find_markers(tokens, marker_id)
            tokens = np.delete(tokens, places)
        keep = len(tokens)
        if max_length is not None:
            if max_length < 1:
                raise ValueError(
                    f'max_length is {max_length}; at least 1 is needed to hold the end token'
                )
            keep = min(keep, max_length - (eos_id is not None))
        text = tokens[:keep]
        end = np.array([] if eos_id is None else [eos_id], np.int32)
        rows = np.arange(vocab_size, vocab_size + num_rows, dtype=np.int32)
        if places:
            first, *others = np.split(text, [place - i for i, place in enumerate(places)])
            groups = np.split(rows, [self.num_rows_before(num_rows)][:len(places) - 1])
            parts = [first, *(part for pair in zip(groups, others, strict=True) for part in pair),
                     end]
        else:
            before = self.num_rows_before(num_rows)
            tail = [end, rows[before:]] if self.after_end else [rows[before:], end]
            parts = [rows[:before], text, *tail]
        return np.concatenate(parts), keep < len(tokens)

    @property
    def num_markers(self) -> int:
        """Return how often the marker stands in an input."""
        return (self.placement == 'marker') * (1 if self.rows_before is None else 2)

    def _find_markers(self, tokens, marker_id: int | None) -> list[int]:
        """Return the positions of the markers in a text, as many as there shall be."""
        if marker_id is None:
            raise ValueError(
                f'the vocabulary has no single entry for the marker {self.marker!r}; '
                'choose a marker that the tokenizer keeps whole'
            )
        places = np.flatnonzero(tokens == marker_id)
        if len(places) == 0:
            raise ValueError(
                f'marker {self.marker!r} (id {marker_id}) is missing in an input of {len(tokens)} '
                'tokens; put it once in the inputs template, where the prompt shall stand'
            )
        if len(places) > self.num_markers:
            raise ValueError(
                f'marker {self.marker!r} (id {marker_id}) stands {len(places)} times in an input, '
                f'at tokens {places[0]} and {places[1]}; keep exactly '
                + ('one' if self.num_markers == 1 else 'two')
            )
        if len(places) < self.num_markers:
            raise ValueError(
                f'marker {self.marker!r} (id {marker_id}) stands once in an input, but rows_before '
                'puts rows in two places; put it twice in the inputs template, or leave '
                'rows_before out'
            )
        return places.tolist()

    def describe(self, num_rows: int | None = None) -> str:
        """Say in words where the virtual tokens stand, for cards and logs."""
        count = 'virtual tokens' if num_rows is None else f'{num_rows} virtual tokens'
        end = 'after the end token' if self.after_end else 'before the end token'
        if self.placement == 'before':
            return f'{count} before the text'
        if self.placement == 'after':
            return f'{count} after the text, {end}'
        if self.placement == 'marker':
            parts = ('' if self.rows_before is None else
                     f', the first {self.rows_before} at its first place')
            return f'{count} in the place of {self.marker}{parts}'
        before = 'half' if self.rows_before is None else f'the first {self.rows_before}'
        return f'{count} around the text, {before} in front and the others behind it, {end}'

    def to_dict(self) -> dict[str, Any]:
        """Return the layout as a dictionary that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> 'Layout':
        """Read what `to_dict` wrote.

        Raises:
            ValueError: unknown keys, or values that no layout can have.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f'layout is {brief(values)}; expected a dictionary such as to_dict '
                             'gives')
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise ValueError(
                f'layout has unknown entries {listed(unknown)}; '
                f'expected some of {", ".join(names)}'
            )
        return cls(**values)
