"""Mixed batches: rows of several tasks together, each pointing at its own task's prompt.

Every batch holds the same number of rows of a task, in the order that a run of the task alone would
have with that batch size. So what a task learns from does not depend on the others; how the rates
of a mixture come out is decided once, when the rows of a batch are shared out.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from jax_prompt.data.batches import BucketOrder, covering, order_of
from jax_prompt.data.features import Features
from jax_prompt.data.packing import TRIALS, PackedOrder, assign, pack, packing_for
from jax_prompt.data.ragged import Ragged
from jax_prompt.prompts.virtual import shifted
from jax_prompt.types import Batch

MIXINGS = ('equal', 'proportional')


@dataclasses.dataclass(frozen=True, eq=False)
class Share:
    """What one task gives to every mixed batch.

    Attributes:
        features: of its training split, with virtual tokens from the first row on.
        rows: of a batch.
        seed: of its order.
        buckets: padded lengths, see `train_batches`; packing needs none.
    """

    features: Features
    rows: int
    seed: int
    buckets: Sequence[int] | None = None


def rates(counts: Sequence[int], mixing: str = 'equal', temperature: float = 1.0,
          maximum: int | None = None) -> list[float]:
    """Return how often each task comes, relative to the others.

    Args:
        counts: examples of each task.
        mixing: 'equal', or 'proportional' to the number of examples.
        temperature: proportional rates to the power of 1 / temperature: 1 is proportional, and the
            higher, the more equal.
        maximum: examples of a task that count at most, so that large ones do not crowd out others.

    Raises:
        ValueError: another mixing, or a temperature that is not positive.

    Source: Raffel et al. 2020 (arXiv:1910.10683), section 3.5.2.
    """
    if mixing not in MIXINGS:
        raise ValueError(f'mixing is {mixing!r}; expected one of {", ".join(MIXINGS)}')
    if not 0 < temperature < float('inf'):
        raise ValueError(f'mixing temperature is {temperature}; expected a positive number')
    if mixing == 'equal':
        return [1.0] * len(counts)
    return [min(count, maximum or count) ** (1 / temperature) for count in counts]


def rows_of_each(weights: Sequence[float], batch_size: int) -> list[int]:
    """Share the rows of a batch out among tasks, at least one each.

    Args:
        weights: the rate of each task.
        batch_size: rows to share out.

    Returns:
        Rows of each task; they sum up to the batch size.

    Raises:
        ValueError: fewer rows than tasks.

    Example:
        >>> rows_of_each([100, 50, 1], 8)
        [5, 2, 1]
    """
    if batch_size < len(weights):
        raise ValueError(f'batch_size is {batch_size} for {len(weights)} prompts that are trained '
                         'at once; expected at least one example of each in a batch')
    exact = np.asarray(weights, np.float64) / np.sum(weights) * batch_size
    rows = np.maximum(np.floor(exact).astype(int), 1)
    while rows.sum() != batch_size:  # to whom most is owed, or who has most too much
        step = 1 if rows.sum() < batch_size else -1
        owed = np.where((rows + step) >= 1, step * (exact - rows), -np.inf)
        rows[int(owed.argmax())] += step
    return rows.tolist()


def mixed_batches(shares: Sequence[Share], vocab_size: int, num_rows: int, start_step: int = 0,
                  host_rows: np.ndarray | None = None) -> Iterator[Batch]:
    """Yield training batches with rows of every task, without end.

    A batch is padded to the longest of the tasks' buckets. Tasks of the same lengths, such as the
    members of an ensemble, take their buckets in the order of the first of them, so that none pads
    the others.

    Args:
        shares: of each task, in the order of their prompts.
        vocab_size: V, the first virtual id.
        num_rows: of each task's prompt, those that are added to the text included.
        start_step: the first batch to yield, counted from the run's beginning.
        host_rows: which rows of each batch this host reads, ascending; None for all.

    Yields:
        `Features.batch` dicts, and the number of each row's task: prompt_ids int32[B] and, for each
        target token, decoder_task_ids int32[B, L].
    """
    length = max(share.features.decoder_length for share in shares)
    features = [dataclasses.replace(share.features, decoder_length=length) for share in shares]
    mine = slice(None) if host_rows is None else host_rows
    for chosen in zip(*_in_step(shares, start_step), strict=True):
        longest = max(bucket for bucket, _ in chosen)
        parts = []
        for task, (_, rows) in enumerate(chosen):
            part = features[task].batch(rows, longest)
            ids = part['encoder_input_tokens']
            parts.append(part | {
                'encoder_input_tokens': shifted(ids, task * num_rows, vocab_size),
                'prompt_ids': np.full(len(rows), task, np.int32),
                'decoder_task_ids': np.full((len(rows), length), task, np.int32)})
        yield {name: np.concatenate([part[name] for part in parts])[mine] for name in parts[0]}


def packed_mixed_batches(shares: Sequence[Share], vocab_size: int, num_rows: int,
                         start_step: int = 0, row_multiple: int = 1, multiple: int = 8,
                         host_rows: Callable[[int], np.ndarray] | None = None) -> Iterator[Batch]:
    """Yield packed training batches with examples of every task, without end.

    Args:
        shares, vocab_size, num_rows, start_step: as `mixed_batches` has them.
        row_multiple, multiple: of which the number of rows, and their length, are multiples.
        host_rows: how many rows a batch has -> which of them this host reads; None for all.

    Yields:
        `pack` dicts with decoder_task_ids.
    """
    tasks = np.repeat(np.arange(len(shares)), [share.rows for share in shares])

    def members(seeds: Sequence[int]) -> Callable[[int], Features]:
        orders = [PackedOrder(share.features.lengths, share.rows, seed)
                  for share, seed in zip(shares, seeds, strict=True)]
        return lambda step: _gathered(shares, [order.batch(step) for order in orders], vocab_size,
                                      num_rows)

    longest_epoch = max(-(-len(share.features) // share.rows) for share in shares)
    tried = [members([0] * len(shares))(step) for step in range(min(TRIALS, longest_epoch))]
    packing = packing_for(_end_to_end(tried), np.split(
        np.arange(len(tried) * len(tasks)), len(tried)), row_multiple, multiple)
    mine = slice(None) if host_rows is None else host_rows(packing.rows)
    of_step = members([share.seed for share in shares])
    for step in itertools.count(start_step):
        features = of_step(step)
        batch = pack(features, assign(features, np.arange(len(tasks)), packing), packing, tasks)
        yield {name: array[mine] for name, array in batch.items()}


def _in_step(shares: Sequence[Share], start_step: int) -> list[Iterator[tuple[int, np.ndarray]]]:
    """Return for each task the (padded length, int[B] rows) of every step."""
    leaders: list[tuple[Share, tuple[int, ...], BucketOrder]] = []
    streams = []
    for share in shares:
        buckets = covering(share.buckets, share.features.lengths)
        order = order_of(share.features, share.rows, share.seed, buckets)
        like = [one for leader, other, one in leaders
                if leader.rows == share.rows and other == buckets
                and np.array_equal(leader.features.lengths, share.features.lengths)]
        leaders.append((share, buckets, order))
        streams.append(_stream(order, like[0] if like else order, buckets, start_step))
    return streams


def _stream(order: BucketOrder, leader: BucketOrder, buckets: Sequence[int],
            start_step: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (padded length, rows) of a task whose buckets come in the order of a leader's."""
    return ((buckets[bucket], order.rows(bucket, number))
            for bucket, number in leader.batches(start_step))


def _gathered(shares: Sequence[Share], chosen: Sequence[np.ndarray], vocab_size: int,
              num_rows: int) -> Features:
    """Return the examples of one batch, those of each task after another's."""
    inputs, targets = [], []
    for task, (share, rows) in enumerate(zip(shares, chosen, strict=True)):
        inputs += [shifted(share.features.encoder[row], task * num_rows, vocab_size)
                   for row in rows]
        targets += [share.features.targets[row] for row in rows]
    return dataclasses.replace(shares[0].features, encoder=Ragged.from_sequences(inputs),
                               targets=Ragged.from_sequences(targets), labels=None)


def _end_to_end(several: Sequence[Features]) -> Features:
    """Return the examples of several batches as one."""
    return dataclasses.replace(several[0], **{
        name: Ragged.from_sequences([row for one in several for row in getattr(one, name)])
        for name in ('encoder', 'targets')})
