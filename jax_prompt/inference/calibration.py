"""Label probabilities that mean what they say, from the scores of rank classification.

A model's scores favour some labels whatever the input, and are too sure or not sure enough. Two
corrections, alone or together:

    contextual calibration   takes away what the scores are without an input (Zhao et al. 2021);
                             needs no data
    temperature scaling      divides by one number, fitted on validation scores (Guo et al. 2017);
                             changes no answer, only how sure it is

    p(label) = softmax((scores - log p(label | no content)) / temperature)

The numbers are float64 in numpy, made of float32[B, C] scores, which `rank.py` gives.
"""

import dataclasses
import weakref
from collections.abc import Sequence

import numpy as np

from jax_prompt.inference.engine import Engine
from jax_prompt.inference.rank import LabelSet
from jax_prompt.inference.rows import Prediction, Row, ServedPrompt

#: Inputs without content, to stand where a task has its text: those of Zhao et al. 2021, section 5.
CONTENT_FREE = ('N/A', '', '[MASK]')

#: Measured once for a prompt and its labels, and kept as long as both are.
_measured: weakref.WeakKeyDictionary[ServedPrompt, weakref.WeakKeyDictionary[
    LabelSet, np.ndarray]] = weakref.WeakKeyDictionary()

#: Between these the temperature is looked for. Scores that are right without exception would have
#: none above zero that is best.
_TEMPERATURES = (0.01, 100.0)
#: Ranges of confidence in which it is compared with accuracy.
_BINS = 15


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """How the scores of a row's labels become probabilities.

    Attributes:
      content_free_C: from `content_free_log_probabilities`; None for no contextual calibration.
      temperature: from `fit_temperature`; 1 leaves the scores as they are.

    Raises:
      ValueError: for a temperature that is not above 0.
    """

    content_free_C: np.ndarray | None = None
    temperature: float = 1.0

    def __post_init__(self):
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f'temperature={self.temperature} of labels; expected a number above 0')

    def probabilities(self, scores_C: np.ndarray) -> np.ndarray:
        """Turn the scores of one row, float32[C], into probabilities float32[C]."""
        return calibrated_probabilities(np.asarray(scores_C)[None], self.content_free_C,
                                        self.temperature)[0]


def contextual_calibration(engine: Engine, prompt: ServedPrompt, labels: LabelSet,
                           temperature: float = 1.0) -> Calibration:
    """Return what makes scores of labels into calibrated probabilities.

    `CONTENT_FREE` stands in every column of the task's template; the model is asked
    once and the result remembered as long as the prompt and the labels are.

    Args:
      engine: in which the prompt is in use.
      prompt: of the rows to calibrate.
      labels: that they choose among.
      temperature: from `fit_temperature`, or 1.

    Returns:
      The calibration, to be given to `Engine.rows_of` as `options`.

    Raises:
      ValueError: the temperature is not above 0; or the prompt's place is marked within the input,
        so that there is none without an input.

    Source: Zhao et al. 2021 (arXiv:2102.09690), section 5.
    """
    known = _measured.setdefault(prompt, weakref.WeakKeyDictionary())
    content_free_C = known.get(labels)
    if content_free_C is None:
        content_free_C = known[labels] = content_free_scores(
            engine.run(content_free_rows(engine, prompt, labels)))
    return Calibration(content_free_C, temperature)


def content_free_rows(engine: Engine, prompt: ServedPrompt, labels: LabelSet) -> list[Row]:
    """Return rows that ask for labels without an input; for the arguments see above.

    Raises:
      ValueError: the prompt's place is marked within the input.
    """
    inputs = [dict.fromkeys(prompt.task.columns, text) for text in CONTENT_FREE]
    return engine.rows_of(prompt, inputs, rank=True, labels=labels,
                          where=lambda number: 'the input without content')


def content_free_scores(answers: Sequence[Prediction]) -> np.ndarray:
    """Return float64[C], a `Calibration`'s `content_free_C`, of the answers to these rows."""
    return content_free_log_probabilities(
        np.array([list(answer.scores.values()) for answer in answers]))


def content_free_log_probabilities(scores_MC: np.ndarray) -> np.ndarray:
    """Return what the labels' probabilities are without an input.

    Args:
      scores_MC: float32[M, C], the scores of inputs without content, such as `CONTENT_FREE`.

    Returns:
      float64[C], the logarithm of the mean over the M inputs of each label's probability.

    Raises:
      ValueError: for no inputs, fewer than two labels, or scores that are not finite.

    Source: Zhao et al. 2021 (arXiv:2102.09690), section 5.
    """
    log_probabilities_MC = _log_softmax(_checked(scores_MC))
    largest_C = log_probabilities_MC.max(axis=0)
    return largest_C + np.log(np.exp(log_probabilities_MC - largest_C).mean(axis=0))


def calibrated_probabilities(scores_BC: np.ndarray, content_free_C: np.ndarray | None = None,
                             temperature: float = 1.0) -> np.ndarray:
    """Turn scores into calibrated probabilities among the labels.

    The paper multiplies probabilities by the inverse of those without content and applies another
    softmax to the result; here they are divided and normalised to sum to one, which ranks labels
    alike, and leaves probabilities as they are where labels are equally likely without content.

    Args:
      scores_BC: float32[B, C], log-probabilities of the labels, or of their tokens.
      content_free_C: from `content_free_log_probabilities`; None for no contextual calibration.
      temperature: from `fit_temperature`.

    Returns:
      float32[B, C], rows that sum to 1.

    Raises:
      ValueError: for scores that are not finite.
    """
    shifted_BC = _checked(scores_BC) - (0 if content_free_C is None else content_free_C)
    return np.exp(_log_softmax(shifted_BC / temperature)).astype(np.float32)


def fit_temperature(scores_BC: np.ndarray, labels_B: np.ndarray) -> float:
    """Find the temperature that makes known labels likeliest (minimises their mean NLL).

    The loss is convex in 1 / temperature: where its slope, the mean over examples of the expected
    score minus the label's, changes sign is found by bisection.

    Args:
      scores_BC: float32[B, C], of examples that were not trained on.
      labels_B: int[B], their right labels.

    Returns:
      From 0.01 to 100; an end of this range where no temperature inside is best (all answers right
      or, at the other end, no better than chance).

    Raises:
      ValueError: for no examples, or scores that are not finite.

    Source: Guo et al. 2017 (arXiv:1706.04599), section 4.2.
    """
    scores_BC = _checked(scores_BC)
    right_B = _of_labels(scores_BC, labels_B)

    def slope(temperature: float) -> float:
        probabilities_BC = np.exp(_log_softmax(scores_BC / temperature))
        return float(np.mean((probabilities_BC * scores_BC).sum(axis=1) - right_B))

    low, high = np.log(_TEMPERATURES)
    # The slope in 1 / temperature falls as the temperature rises.
    if slope(np.exp(low)) <= 0:
        return _TEMPERATURES[0]
    if slope(np.exp(high)) >= 0:
        return _TEMPERATURES[1]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(np.exp(middle)) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def negative_log_likelihood(probabilities_BC: np.ndarray, labels_B: np.ndarray) -> float:
    """Return the mean of -log p(right label), in nats; float[B, C] and int[B]."""
    right_B = _of_labels(_checked(probabilities_BC), labels_B)
    # An impossible right label costs what the smallest number would, not infinity.
    return float(-np.mean(np.log(np.maximum(right_B, np.finfo(np.float32).tiny))))


def expected_calibration_error(probabilities_BC: np.ndarray, labels_B: np.ndarray) -> float:
    """Return how far confidence is from accuracy, from 0 to 1.

    Examples are sorted into equal ranges of the chosen label's probability; the gaps between each
    range's mean probability and its accuracy are averaged, weighted by their examples.

    Args:
      probabilities_BC: float32[B, C].
      labels_B: int[B].

    Returns:
      The error.

    Source: Naeini et al. 2015; Guo et al. 2017, section 2, with its 15 bins.
    """
    probabilities_BC = _checked(probabilities_BC)
    confidence_B = probabilities_BC.max(axis=1)
    gaps_B = (probabilities_BC.argmax(axis=1) == labels_B) - confidence_B
    bin_B = np.clip(np.ceil(confidence_B * _BINS).astype(int) - 1, 0, _BINS - 1)
    return float(np.abs(np.bincount(bin_B, weights=gaps_B)).sum() / len(gaps_B))


def _log_softmax(scores_BC: np.ndarray) -> np.ndarray:
    centred_BC = scores_BC - scores_BC.max(axis=1, keepdims=True)
    return centred_BC - np.log(np.exp(centred_BC).sum(axis=1, keepdims=True))


def _checked(scores_BC: np.ndarray) -> np.ndarray:
    scores_BC = np.asarray(scores_BC, np.float64)
    if scores_BC.ndim != 2 or scores_BC.shape[0] < 1 or scores_BC.shape[1] < 2:
        raise ValueError(f'scores have shape {list(scores_BC.shape)}; expected [examples, labels], '
                         'at least one example and two labels')
    if not np.isfinite(scores_BC).all():
        row = int(np.argmin(np.isfinite(scores_BC).all(axis=1)))
        raise ValueError(f'row {row} of the scores is not finite; expected log-probabilities')
    return scores_BC


def _of_labels(scores_BC: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    """Return float64[B], of each row what belongs to its label."""
    return np.take_along_axis(scores_BC, np.asarray(labels_B)[:, None], axis=1)[:, 0]
