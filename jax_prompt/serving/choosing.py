"""Which of the rows that wait shall share a batch."""

from collections.abc import Sequence
from typing import NamedTuple

from jax_prompt.inference.rows import Row
from jax_prompt.inference.shapes import Shapes

#: What reading the weights once costs, in positions: so many take as long to compute with them, on
#: two cores of a CPU as well as on a TPU, whose operations a byte are about as many.
_WEIGHTS_COST = 256


class Choice(NamedTuple):
    """A batch.

    Attributes:
      numbers: of its rows among those that wait, ascending; at most `shapes.largest_batch`.
      rate: what its rows are worth for its cost, up to 1.
    """

    numbers: list[int]
    rate: float


def choose_rows(waiting: Sequence[Row], shapes: Shapes) -> Choice:
    """Choose a batch: the first row, and those that go best with it.

    A batch costs the positions of its rows, fillers included, and the weights once for each pass
    over them. A row is worth what it would cost in a full batch of its like. Of the batches that
    hold the first row the one is taken that is worth the most for its cost.

    Args:
      waiting: rows of one group, those that have waited longest first.
      shapes: at which batches run.

    Returns:
      The batch.
    """
    weights = _WEIGHTS_COST * waiting[0].passes
    lengths = [shapes.length(len(row.ids)) for row in waiting]
    worth = [length + weights / shapes.largest_batch for length in lengths]
    best, chosen = 0.0, [0]
    for length in sorted({length for length in lengths if length >= lengths[0]}):
        # The longest that fit waste least; of equals, those that have waited longer.
        others = sorted((number for number in range(1, len(lengths)) if lengths[number] <= length),
                        key=lambda number: -lengths[number])
        for size in shapes.batch_sizes:
            rows = [0, *others][:size]
            rate = sum(worth[number] for number in rows) / (weights + size * length)
            if rate > best:
                best, chosen = rate, rows
    return Choice(sorted(chosen), best)
