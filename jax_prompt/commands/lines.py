"""How `jax-prompt predict` reads lines."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class LineSettings:
    """How lines are read.

    Attributes:
      format: 'lines' or 'jsonl'; None to tell it by the name of the inputs.
      prompt_column: the key of the JSON objects that names each line's prompt.
      window: lines that are in memory at one time.
      batch_size: most rows of a batch.
    """

    format: str | None = None
    prompt_column: str | None = None
    window: int = 1024
    batch_size: int = 32
