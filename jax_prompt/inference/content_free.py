"""Measure what a prompt's labels score without an input, for calibrated probabilities."""

import weakref

import numpy as np

from jax_prompt.inference.calibration import (
    CONTENT_FREE,
    Calibration,
    content_free_log_probabilities,
)
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.row_labels import LabelSet
from jax_prompt.inference.rows import ServedPrompt

#: Measured once for each prompt and its labels; a server's users may bring labels of their own.
_MOST_REMEMBERED = 1024
_measured: weakref.WeakKeyDictionary[Engine, dict[tuple, np.ndarray]] = weakref.WeakKeyDictionary()


def choose_calibration(engine: Engine, prompt: ServedPrompt, labels: LabelSet | None,
                       contextual: bool, temperature: float) -> Calibration | None:
    """Return how scores become probabilities; None for the plain softmax.

    Raises:
      ValueError: see `contextual_calibration`.
    """
    if contextual and labels is not None:
        return contextual_calibration(engine, prompt, labels, temperature)
    return None if temperature == 1 else Calibration(None, temperature)


def contextual_calibration(engine: Engine, prompt: ServedPrompt, labels: LabelSet,
                           temperature: float = 1.0) -> Calibration:
    """Return what makes scores of labels into calibrated probabilities.

    `calibration.CONTENT_FREE` stands in every column of the task's template; the model is asked
    once and the result remembered.

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
    known = _measured.setdefault(engine, {})
    key = prompt.digest, tuple(labels.words)
    if key not in known:
        inputs = [dict.fromkeys(prompt.task.columns, text) for text in CONTENT_FREE]
        rows = engine.rows_of(prompt, inputs, rank=True, labels=labels,
                              where=lambda number: 'the input without content')
        scores_MC = np.array([list(answer.scores.values()) for answer in engine.run(rows)])
        while len(known) >= _MOST_REMEMBERED:
            known.pop(next(iter(known)), None)
        known[key] = content_free_log_probabilities(scores_MC)
    return Calibration(known[key], temperature)
