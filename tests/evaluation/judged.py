"""What tests of metrics need: a task that knows what is right, and predictions of texts."""

import dataclasses

from jax_prompt.data.tasks.rows import Row
from jax_prompt.inference.rows import Prediction


@dataclasses.dataclass
class Judge:
    """The least that metrics ask of a task; the right answers stand in the column 'golds'."""

    label_words: tuple[str, ...] | None = None
    metrics: tuple = None
    name: str = 'toy'

    def right_answers(self, row):
        golds = row.columns['golds']
        return (golds,) if isinstance(golds, str) else tuple(golds)


def measured(metric, predicted, right, **columns):
    """Apply a metric to texts; columns are given as lists."""
    rows = [Row({'golds': golds} | {name: values[number] for name, values in columns.items()},
                f'row {number}') for number, golds in enumerate(right)]
    return metric([Prediction(text) for text in predicted], rows)
