"""Measure what a prompt's labels score without an input, for calibrated probabilities."""

import weakref
from collections.abc import Sequence

import numpy as np

from jax_prompt.inference.calibration import (
    CONTENT_FREE,
    Calibration,
    content_free_log_probabilities,
)
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.prediction import Prediction
from jax_prompt.inference.row_labels import LabelSet
from jax_prompt.inference.rows import Row, ServedPrompt

#: Measured once for a prompt and its labels, and kept as long as both are.
_measured: weakref.WeakKeyDictionary[ServedPrompt, weakref.WeakKeyDictionary[
    LabelSet, np.ndarray]] = weakref.WeakKeyDictionary()


def choose_calibration(engine: Engine, prompt: ServedPrompt, labels: LabelSet,
                       contextual: bool, temperature: float) -> Calibration | None:
    """Return how scores become probabilities; None for the plain softmax.

    Args:
      engine, prompt, labels, temperature: see `contextual_calibration`.
      contextual: whether to take away what the labels score without an input.

    Raises:
      ValueError: see `contextual_calibration`.
    """
    if contextual:
        return contextual_calibration(engine, prompt, labels, temperature)
    return None if temperature == 1 else Calibration(None, temperature)


def contextual_calibration(engine: Engine, prompt: ServedPrompt, labels: LabelSet,
                           temperature: float = 1.0) -> Calibration:
    """Return what makes scores of labels into calibrated probabilities.

    `calibration.CONTENT_FREE` stands in every column of the task's template; the model is asked
    once and the result remembered as long as the prompt and the labels are.

    Args:
      engine: in which the prompt is in use.
      prompt: of the rows to calibrate.
      labels: that they choose among.
      temperature: from `calibration.fit_temperature`, or 1.

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
