"""The words nearest to a prompt's rows, remembered, since to look through them all takes long."""

import threading

import numpy as np

from jax_prompt.inference.engine import Engine
from jax_prompt.prompts.nearest import nearest_words
from jax_prompt.serving.prompt_folder import Version

_MOST_REMEMBERED = 256


class NearestWords:
    """Find nearest words, from any thread."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._found: dict[tuple[str, int], list[list[tuple[str, float]]]] = {}
        self._lock = threading.Lock()

    def of(self, version: Version, count: int) -> list[list[tuple[str, float]]]:
        """Return for each row of a prompt its nearest words, with their cosines.

        Args:
          version: of the prompt.
          count: how many words.

        Returns:
          A list of (word, cosine) for each row, the nearest first.
        """
        key = version.prompt.digest, count
        with self._lock:
            if key in self._found:
                return self._found[key]
        opened = self._engine.opened
        table = opened.frozen['token_embedder']['embedding']
        ids, cosines = nearest_words(version.prompt.file.prompt_PD, table, count,
                                     num_special_ids=0, num_words=opened.vocabulary.vocab_size)
        found = [[(self._word(token), float(cosine)) for token, cosine in zip(*row, strict=True)]
                 for row in zip(ids, cosines, strict=True)]
        with self._lock:
            while len(self._found) >= _MOST_REMEMBERED:
                del self._found[next(iter(self._found))]
            self._found[key] = found
        return found

    def _word(self, token: int) -> str:
        """Return a vocabulary entry as one can read it."""
        return self._engine.opened.vocabulary.decode([int(np.int32(token))]) or f'[{token}]'
