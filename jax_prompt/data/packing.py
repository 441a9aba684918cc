"""Packing: several examples in one row, so that batches have few pads and one shape.

Each example keeps its own virtual tokens, and segment ids keep it from seeing its neighbours, so a
packed batch gives the loss, gradient and outputs of its examples unpacked. Relative positions need
no reset: within a segment their differences are what they are alone.

A step still takes exactly `batch_size` examples. To make them fill the same rows every time, the
lengths of each batch are spread alike: the examples of an epoch, sorted by length, fall into
`batch_size` strata, and every batch takes one of each, at random.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from jax_prompt.data.batches import raw_numbers
from jax_prompt.data.features import Features
from jax_prompt.types import Batch

# Rows are tried that hold so many examples on average.
_DENSITIES = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)
# So many batches are packed to choose their shape by.
TRIALS = 64
# A batch that does not fit is given rows longer by a multiple of this.
_OVERFLOW_MULTIPLE = 16
# Attention's cost grows with the row's length; at this one it costs as much as all products that do
# not. Measured for T5 1.1 Small on CPU, forward and backward (benchmarks/RESULTS.md).
_HALF_LENGTH = 900


@dataclasses.dataclass(frozen=True)
class Packing:
    """The shape of packed batches.

    Attributes:
        rows: B of the packed arrays, fewer than there are examples.
        length: S, encoder positions of a row, virtual tokens included.
        targets_length: L, decoder positions of a row.
        segments: the most examples in a row.
    """

    rows: int
    length: int
    targets_length: int
    segments: int

    @property
    def cost(self) -> float:
        """Estimate the work of a step, in encoder positions of a model without attention."""
        return self.rows * (with_attention(self.length) + self.targets_length)


def with_attention(length: int) -> float:
    """Estimate the work of an encoder's row, in positions of a model without attention.

    Args:
        length: S, positions of the row.
    """
    return length * (1 + length / _HALF_LENGTH)


def choose_packing(features: Features, batch_size: int, row_multiple: int = 1,
                   multiple: int = 8) -> Packing:
    """Choose the shape in which batches cost least.

    Fewer and longer rows waste fewer positions but make attention dearer. Shapes of one example a
    row up to 32 are tried on the first batches of an epoch.

    Args:
        features: what is to be packed; there are examples.
        batch_size: examples a batch.
        row_multiple: of which the number of rows is a multiple: the number of devices (and
            microbatches) that share them.
        multiple: of which the length is a multiple.

    Returns:
        The shape. It holds the batches tried; the rare one that needs more is given more.

    Raises:
        ValueError: fewer examples a batch than devices.
    """
    order = PackedOrder(features.lengths, batch_size, seed=0)
    trials = [order.batch(step) for step in range(min(TRIALS, -(-len(features) // batch_size)))]
    return packing_for(features, trials, row_multiple, multiple)


def packing_for(features: Features, trials: Sequence[np.ndarray], row_multiple: int = 1,
                multiple: int = 8) -> Packing:
    """Choose the shape in which some batches cost least; see `choose_packing`.

    Args:
        features: what is to be packed.
        trials: int[B], the examples of each batch to try.
        row_multiple, multiple: of which the number of rows, and their length, are multiples.
    """
    batch_size, shapes = len(trials[0]), []
    if batch_size < row_multiple:
        raise ValueError(f'batch_size is {batch_size} but packed rows are shared by {row_multiple} '
                         'devices; give each at least one example or use fewer devices')
    for density in _DENSITIES:
        rows = math.ceil(batch_size / (density * row_multiple)) * row_multiple
        even = -(-batch_size // rows)
        # A row of short examples may take one more, where others hold the longest.
        for segments in {even, min(even + 1, batch_size)}:
            shapes.append(_shape_of(features, trials, rows, segments, multiple))
    return min(shapes, key=lambda shape: (shape.cost, shape.rows, shape.segments))


def packed_train_batches(features: Features, batch_size: int, seed: int, packing: Packing,
                         start_step: int = 0,
                         host_rows: np.ndarray | None = None) -> Iterator[Batch]:
    """Yield packed training batches without end.

    Each epoch is a fresh order by (seed, epoch), and epochs follow each other without a gap: every
    example comes once an epoch, and every batch has `batch_size` examples. The batches are a
    function of (seed, step); `start_step` reaches any by index arithmetic.

    Args:
        features: what to batch.
        batch_size: examples a batch, exact.
        seed: 0 or more.
        packing: the shape, of `choose_packing` for this batch size.
        start_step: the first batch to yield, counted from the run's beginning.
        host_rows: which rows of each batch this host reads, ascending; None for all.

    Yields:
        `pack` dicts of `packing.rows` rows, or of this host's.
    """
    order = PackedOrder(features.lengths, batch_size, seed)
    mine = slice(None) if host_rows is None else host_rows
    for_all_hosts = (pack(features, assign(features, order.batch(step), packing), packing)
                     for step in itertools.count(start_step))
    return ({key: array[mine] for key, array in batch.items()} for batch in for_all_hosts)


def assign(features: Features, members: Sequence[int], packing: Packing) -> list[list[int]]:
    """Divide examples among rows so that the fullest row is short.

    The longest example first, each goes to the row with the fewest positions that has room for one
    more segment. None is split, and none is left.

    Args:
        features: which they are of.
        members: which examples, at most rows x segments.
        packing: how many rows, and how many segments a row.

    Returns:
        The examples of each row.

    Source: R. L. Graham, Bounds on multiprocessing timing anomalies, 1969 (longest first).
    """
    sizes = features.lengths[members] + features.targets.lengths[members]
    assert len(sizes) <= packing.rows * packing.segments, (len(sizes), packing)
    return [[int(members[i]) for i in row]
            for row in spread(sizes, packing.rows, packing.segments)]


def spread(sizes: Sequence[int], rows: int, segments: int) -> list[list[int]]:
    """Spread pieces over rows so that the fullest row is short; see `assign`.

    Args:
        sizes: of the pieces, at most rows x segments of them.
        rows: how many there are.
        segments: the most pieces of a row.

    Returns:
        The numbers of each row's pieces.
    """
    sizes = np.asarray(sizes)
    found: list[list[int]] = [[] for _ in range(rows)]
    used = np.zeros(rows, np.int64)
    full = np.iinfo(np.int64).max // 2
    for i in np.argsort(-sizes, kind='stable'):
        row = int(used.argmin())
        found[row].append(int(i))
        # A row whose segments are all taken counts as full from here on.
        used[row] += sizes[i] if len(found[row]) < segments else full
    return found


def pack(features: Features, rows: Sequence[Sequence[int]], packing: Packing,
         tasks: np.ndarray | None = None) -> Batch:
    """Build a batch whose rows hold several examples.

    Args:
        features: which they are of.
        rows: the examples of each row.
        packing: the shape; longer rows are made where these do not fit.
        tasks: int[N], the number of each example's task, to be told with each target token; None
            for a single task, which needs none.

    Returns:
        seqio's keys for packed features, without positions, which T5 does not read: those of
        `Features.batch`, with `encoder_segment_ids` int32[B, S] and `decoder_segment_ids`
        int32[B, L], which count a row's examples from 1 and are 0 on pads. The decoder's inputs
        begin anew in each segment.
    """
    inputs, targets = features.encoder, features.targets
    shape = (packing.rows, _room(_fullest(inputs.lengths, rows), packing.length))
    target_shape = (packing.rows, _room(_fullest(targets.lengths, rows), packing.targets_length))
    batch = {
        'encoder_input_tokens': np.full(shape, features.pad_id, np.int32),
        'encoder_segment_ids': np.zeros(shape, np.int32),
        'decoder_target_tokens': np.full(target_shape, features.pad_id, np.int32),
        'decoder_input_tokens': np.full(target_shape, features.pad_id, np.int32),
        'decoder_segment_ids': np.zeros(target_shape, np.int32),
    }
    if tasks is not None:
        batch['decoder_task_ids'] = np.zeros(target_shape, np.int32)
    for row, members in enumerate(rows):
        start = target_start = 0
        for segment, example in enumerate(members, start=1):
            ids, target = inputs[example], targets[example]
            here = row, slice(start, start := start + len(ids))
            batch['encoder_input_tokens'][here] = ids
            batch['encoder_segment_ids'][here] = segment
            here = row, slice(target_start, target_start := target_start + len(target))
            batch['decoder_target_tokens'][here] = target
            batch['decoder_input_tokens'][here] = [features.decoder_start_id, *target[:-1]]
            batch['decoder_segment_ids'][here] = segment
            if tasks is not None:
                batch['decoder_task_ids'][here] = tasks[example]
    weights = batch['decoder_segment_ids'] > 0
    return batch | {'decoder_loss_weights': weights.astype(np.float32)}


class PackedOrder:
    """The order of training: which examples, of lengths int64[N], make batch number `step`."""

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self._recent = functools.lru_cache(maxsize=4)(self.epoch)

    def batch(self, step: int) -> np.ndarray:
        """Return int[batch_size], the examples of a step."""
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, within = np.divmod(places, len(self.lengths))
        return np.array([self._recent(int(epoch))[place]
                         for epoch, place in zip(epochs, within, strict=True)])

    def epoch(self, epoch: int) -> np.ndarray:
        """Return an epoch's order of all examples."""
        count = len(self.lengths)
        raw = raw_numbers(self.seed, epoch, 2 * count)
        shuffled = np.argsort(raw[:count], kind='stable')
        by_length = shuffled[np.argsort(self.lengths[shuffled], kind='stable')]
        # A batch's i-th example is always of the i-th stratum, also where epochs meet in a batch.
        stratum = (epoch * count + np.arange(count)) % self.batch_size
        order = np.empty(count, np.int64)
        order[np.lexsort((raw[count:], stratum))] = by_length
        return order


def _shape_of(features: Features, trials: Sequence[np.ndarray], rows: int, segments: int,
              multiple: int) -> Packing:
    """Return the smallest shape of so many rows and segments that holds all the trials."""
    packing = Packing(rows, 0, 0, segments)
    packed = [assign(features, members, packing) for members in trials]
    longest, longest_targets = (max(_fullest(lengths, rows) for rows in packed)
                                for lengths in (features.lengths, features.targets.lengths))
    return dataclasses.replace(packing, length=-(-longest // multiple) * multiple,
                               targets_length=-(-longest_targets // 2) * 2)


def _fullest(lengths: np.ndarray, rows: Sequence[Sequence[int]]) -> int:
    """Return the positions that the fullest row needs."""
    return max(int(lengths[members].sum()) for members in rows)


def _room(needed: int, planned: int) -> int:
    """Return the planned length, or a longer one for the rare batch that needs it."""
    if needed <= planned:
        return planned
    return planned + -(-(needed - planned) // _OVERFLOW_MULTIPLE) * _OVERFLOW_MULTIPLE
