"""What a row of a prompt is worth: how the loss answers to taking it out."""

import functools
from typing import Any

import numpy as np

from jax_prompt.data.examples import Examples
from jax_prompt.evaluation.evaluator import Evaluator
from jax_prompt.evaluation.metrics import LOSS
from jax_prompt.prompts.prompt import Prompt


def ablate(evaluator: Evaluator, prompt: Prompt, examples: Examples) -> dict[str, Any]:
    """Measure a prompt with each of its rows taken out, with none taken out and with all.

    A row is taken out by leaving its virtual token out of the inputs, which are then one shorter,
    as if the prompt had been trained with a row less there; what a prompt adds to the text (DePT)
    and its prefix stay. All inputs stand in the same batches.

    Args:
      evaluator: of the task, with the prompt's layout.
      prompt: with at least one row.
      examples: of a split.

    Returns:
      'examples', their number; 'whole' and 'no_rows', the metrics with all rows and without any;
      and 'rows', for each the 'metrics' without it, by how much the loss is then higher
      ('loss_rise') and the standard error of that difference over the examples.
    """
    first = evaluator.opened.model.vocab_size
    drops = [(), *((row,) for row in range(prompt.num_virtual)), range(prompt.num_virtual)]
    edits = [functools.partial(_without, ids=first + np.asarray(rows, np.int32)) for rows in drops]
    whole, *each, none = evaluator.measure_edited(prompt, examples, edits)
    nats_N, tokens_N = evaluator.target_scores(whole[1], examples)
    rows = []
    for metrics, predictions in each:
        rises_N = nats_N - evaluator.target_scores(predictions, examples)[0]
        error = np.std(rises_N, dtype=np.float64) * np.sqrt(len(examples)) / np.sum(tokens_N)
        rows.append({'metrics': metrics, 'loss_rise': metrics[LOSS] - whole[0][LOSS],
                     'standard_error': float(error)})
    return {'examples': len(examples), 'whole': whole[0], 'no_rows': none[0], 'rows': rows}


def _without(inputs: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return an input's ids without some; an id that adds a row to a token is another number."""
    return inputs[~np.isin(inputs, ids)]
