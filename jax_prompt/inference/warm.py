"""What an engine has compiled: at which sizes batches start without waiting for a program."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from jax_prompt.inference.parts import Part
from jax_prompt.inference.programs import Programs
from jax_prompt.inference.rows import Row, ServedPrompt


class Warm:
    """Remember the programs that have run, and one batch for each to run it again."""

    def __init__(self, programs: Programs, plain: ServedPrompt):
        """Begin with none.

        Args:
          programs: that run.
          plain: stands for the prompts of rows that are remembered, which must not be kept.
        """
        self._programs, self._plain = programs, plain
        self._ran: dict[tuple, tuple[tuple[Row, ...], tuple[Part, ...]]] = {}

    def has(self, rows: Sequence[Row], parts: Sequence[Part], capacity: int) -> bool:
        """Tell whether all programs that a batch needs have run.

        Args:
          rows: of one `group`.
          parts: of the batch.
          capacity: R, rows of the prompt table.
        """
        return all(key in self._ran for part in parts
                   for key in self._programs.keys(rows, part, capacity))

    def note(self, rows: Sequence[Row], parts: Sequence[Part], capacity: int) -> None:
        """Remember that a batch has run; see `has` for the arguments."""
        new = [key for part in parts for key in self._programs.keys(rows, part, capacity)
               if key not in self._ran]
        if new:
            like = tuple(dataclasses.replace(row, prompt=self._plain, options=None,
                                             ids=np.zeros(1, np.int32)) for row in rows)
            self._ran.update(dict.fromkeys(new, (like, tuple(parts))))

    def missing(self, capacity: int) -> Iterator[tuple[Sequence[Row], Sequence[Part]]]:
        """Yield batches that have run, with another table, and need programs that have not.

        Args:
          capacity: R, rows of the table that they are to run with.
        """
        batches = {id(batch): batch for batch in list(self._ran.values())}
        return ((rows, parts) for rows, parts in batches.values()
                if not self.has(rows, parts, capacity))
