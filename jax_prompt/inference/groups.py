"""Which rows may share a batch: those that one program answers, at about the same price."""

from collections.abc import Mapping
from typing import Any

from jax_prompt.inference.decodings import Decoding
from jax_prompt.inference.row_labels import LabelSet
from jax_prompt.inference.shapes import Shapes


class Groups:
    """Sort rows by what they ask for."""

    def __init__(self, shapes: Shapes, decodings: Mapping[str, Decoding]):
        """Take what an engine was given.

        Args:
          shapes: at which batches run.
          decodings: ways to generate by name.
        """
        self._shapes, self._decodings = shapes, decodings

    def rank(self, labels: LabelSet) -> tuple:
        """Return the group of a row that chooses among labels; small sets of them share one."""
        shared = self._shapes.shared_labels - 1
        return 'rank', max(shared, self._shapes.label_rung(*labels.shape))

    def generate(self, max_tokens: int, decoding: str, options: Any = None) -> tuple:
        """Return the group of a row that generates.

        Args:
          max_tokens: to generate at most.
          decoding: its name.
          options: for that decoding; None for its own.

        Raises:
          ValueError: an unknown decoding, options of another one, or no token to generate.
        """
        if decoding not in self._decodings:
            raise ValueError(f'no decoding {decoding!r}; choose one of '
                             f'{", ".join(self._decodings)}')
        expected = type(self._decodings[decoding].settings)
        if options is not None and not isinstance(options, expected):
            raise ValueError(f'options of decoding {decoding!r} are {options!r}; expected '
                             f'{expected.__name__}')
        if max_tokens < 1:
            raise ValueError(f'max_tokens is {max_tokens}; expected at least 1')
        return 'generate', decoding, self._shapes.target_length(max_tokens)
