"""What the model answers."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model answers to one text.

    Attributes:
      text: the generated text, or the chosen label.
      scores: rank classification: label -> log-probability.
      probabilities: rank classification: label -> probability among the labels.
    """

    text: str
    scores: dict[str, float] | None = None
    probabilities: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what is there, ready for JSON: 'prediction', and 'scores', 'probabilities'."""
        extras = {'scores': self.scores, 'probabilities': self.probabilities}
        return {'prediction': self.text} | {k: v for k, v in extras.items() if v is not None}
