"""What is asked of a report on a prompt, as plain values with their defaults."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ReadingSettings:
    """How a prompt is read for its report.

    Attributes:
      against: prompts to compare it with: a file, a folder of them, or a pattern such as
        'runs/seed*/prompt.safetensors'; None for none.
      start: the prompt file that it started from; None for the one that its run has kept.
      split: of the task, that losses are measured on.
      examples: of that split at most, spread evenly over it.
      texts: a file of lines whose attention is shown; None for examples of the split.
      most_texts: of those at most.
      duplicates: the cosine from which on two rows count as one another's duplicates.
      target: words; how much of them stands in the nearest words is told as the F1 of Khashabi et
        al.; None for the words that the prompt started from.
      map_words: of the vocabulary's most frequent words so many stand on the map.
      batch_size: examples a batch.
      umap: also draw the map by UMAP, where umap-learn is installed; it takes some seconds.
      seed: of that map.
      overwrite: replace a report that is there.
      allow_other_model: accept a prompt that was trained for other weights of the same width.
      allow_other_task: measure it on inputs or labels that it was not trained on.

    Raises:
      ValueError: for a number that counts or limits nothing.
    """

    against: str | None = None
    start: str | None = None
    split: str = 'validation'
    examples: int = 64
    texts: str | None = None
    most_texts: int = 4
    duplicates: float = 0.95
    target: str | None = None
    map_words: int = 2000
    batch_size: int = 64
    umap: bool = True
    seed: int = 0
    overwrite: bool = False
    allow_other_model: bool = False
    allow_other_task: bool = False

    def __post_init__(self):
        for name in ('examples', 'most_texts', 'map_words', 'batch_size'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name}={getattr(self, name)} of a reading; expected at least 1')
        if not -1 < self.duplicates <= 1:
            raise ValueError(f'duplicates={self.duplicates} of a reading; expected a cosine above '
                             '-1 and at most 1')
