"""Batches: examples of alike length together, in an order that seed and step alone decide."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from jax_prompt.data.features import Features
from jax_prompt.types import Batch

# Beyond the last bucket, one more is made for what is longer, rounded up to this.
_OVERFLOW_MULTIPLE = 16


def choose_buckets(lengths: Sequence[int], max_buckets: int = 6, multiple: int = 8,
                   min_count: int = 1) -> tuple[int, ...]:
    """Choose the padded lengths that leave the fewest positions to compute.

    Each example is padded to the smallest bucket that holds it. The sum over all examples is
    minimized exactly, by dynamic programming over the histogram of lengths. Each bucket is one more
    compiled program.

    Args:
        lengths: int[N], encoder positions of the examples, virtual tokens included.
        max_buckets: the most buckets.
        multiple: of which all buckets are multiples.
        min_count: the fewest examples of a bucket, where there are as many; the batch size keeps an
            example from standing in a batch twice.

    Returns:
        The buckets, ascending; the last one holds the longest example.

    Raises:
        ValueError: no lengths, or a count below 1.

    Example:
        >>> choose_buckets([3, 4, 4, 30], max_buckets=2, multiple=4)
        (4, 32)
    """
    lengths = np.asarray(lengths, np.int64)
    if lengths.size == 0:
        raise ValueError('no lengths to choose buckets from; the data set is empty')
    if min(max_buckets, multiple, min_count) < 1:
        raise ValueError(f'max_buckets is {max_buckets}, multiple {multiple} and min_count '
                         f'{min_count}; expected at least 1 each')
    sizes, counts = np.unique(-(-lengths // multiple) * multiple, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])  # examples before each size
    # cost[i, j]: one bucket of size j for the sizes i..j
    held = below[None, 1:] - below[:-1, None]
    allowed = held >= min(min_count, lengths.size)
    cost = np.where(allowed, held * sizes[None, :], np.inf)
    best = cost[0]
    choices = []
    for _ in range(1, max_buckets):
        total = np.full_like(cost, np.inf)
        total[1:] = best[:-1, None] + cost[1:]
        choices.append((best, total.argmin(axis=0)))
        best = np.minimum(best, total.min(axis=0))
    buckets, last = [], len(sizes) - 1
    for without, first in reversed(choices):
        # A further bucket is taken only where it is strictly better.
        start = first[last]
        if start > 0 and without[start - 1] + cost[start, last] < without[last]:
            buckets.append(int(sizes[last]))
            last = start - 1
    return tuple(reversed([*buckets, int(sizes[last])]))


def covering(buckets: Sequence[int] | None, lengths: np.ndarray) -> tuple[int, ...]:
    """Return buckets that hold all lengths.

    Args:
        buckets: padded lengths; what is longer than the last gets one more. None for the longest.
        lengths: int[N], encoder positions of the examples.
    """
    longest = int(lengths.max())
    if buckets is None:
        return (longest,)
    buckets = tuple(sorted({int(bucket) for bucket in buckets}))
    if buckets and buckets[-1] >= longest:
        return buckets
    return (*buckets, -(-longest // _OVERFLOW_MULTIPLE) * _OVERFLOW_MULTIPLE)


def train_batches(features: Features, batch_size: int, seed: int,
                  buckets: Sequence[int] | None = None, start_step: int = 0,
                  host_rows: np.ndarray | None = None) -> Iterator[Batch]:
    """Yield training batches without end.

    Each epoch is a fresh permutation by (seed, epoch). Every example takes the next place in a
    batch of its bucket, a batch comes out when it is full, and what is left of a bucket at the end
    of an epoch begins its next batch: each example comes once an epoch and every batch is whole.
    The batches are a function of (seed, step); `start_step` reaches any by index arithmetic.

    Args:
        features: what to batch.
        batch_size: B, exact.
        seed: 0 or more.
        buckets: padded lengths; None pads all to the longest. What is longer than the last gets
            one more bucket.
        start_step: the first batch to yield, counted from the run's beginning.
        host_rows: which rows of each batch this host reads, ascending; None for all.

    Yields:
        `Features.batch` dicts; S is one of the buckets.

    Raises:
        ValueError: no examples, or a batch size, seed or step below what counts.
    """
    _check_counts(features, batch_size)
    if seed < 0 or start_step < 0:
        raise ValueError(f'seed is {seed} and start_step {start_step}; expected 0 or more')
    buckets = covering(buckets, features.lengths)
    order = _Order(_bucket_of(features.lengths, buckets), len(buckets), batch_size, seed)
    mine = slice(None) if host_rows is None else host_rows
    return (features.batch(rows[mine], buckets[bucket])
            for bucket, rows in order.batches(start_step))


@dataclasses.dataclass(frozen=True, eq=False)
class _Order:
    """The order of training: which rows make batch number `step`.

    Attributes:
        bucket_of: int[N], the bucket of each example.
        num_buckets, batch_size, seed: as `train_batches` has them.
    """

    bucket_of: np.ndarray
    num_buckets: int
    batch_size: int
    seed: int

    def batches(self, start_step: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (bucket, int[B] rows) for each step from start_step on."""
        epoch = self._epoch_of(start_step)
        skip = start_step - self._steps_before(epoch)
        left = self._left_before(epoch)
        while True:
            ready, left = self._epoch(epoch, left)
            yield from ready[skip:]
            epoch, skip = epoch + 1, 0

    @property
    def _counts(self) -> np.ndarray:
        """Count the examples of each bucket."""
        return np.bincount(self.bucket_of, minlength=self.num_buckets)

    def _steps_before(self, epoch: int) -> int:
        """Count the batches that are full before an epoch begins."""
        return int((epoch * self._counts // self.batch_size).sum())

    def _epoch_of(self, step: int) -> int:
        """Find the last epoch that begins at or before a step."""
        # Buckets round down, so no epoch begins later than this one's share of the steps.
        epoch = step * self.batch_size // len(self.bucket_of)
        while self._steps_before(epoch + 1) <= step:
            epoch += 1
        return epoch

    def _permutation(self, epoch: int) -> np.ndarray:
        """Return an epoch's order of all examples."""
        # numpy promises that bit generators' raw streams stay as they are between its versions;
        # it does not promise so for Generator.permutation, and runs resume after upgrades.
        raw = np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))
        return np.argsort(raw.random_raw(len(self.bucket_of)), kind='stable')

    def _left_before(self, epoch: int) -> list[np.ndarray]:
        """Return the rows of each bucket that wait for their batch when an epoch begins."""
        missing = epoch * self._counts % self.batch_size
        left = [np.zeros(0, np.int64)] * self.num_buckets
        earlier = epoch
        while missing.any():
            earlier -= 1
            rows = self._permutation(earlier)
            for bucket in np.flatnonzero(missing):
                last = rows[self.bucket_of[rows] == bucket][-missing[bucket]:]
                left[bucket] = np.concatenate([last, left[bucket]])
                missing[bucket] -= len(last)
        return left

    def _epoch(self, epoch: int, left: list[np.ndarray]) -> tuple[list, list[np.ndarray]]:
        """Return the (bucket, rows) that become full in an epoch, in order, and what is left."""
        rows = self._permutation(epoch)
        buckets = self.bucket_of[rows]
        ready, still_left = [], []
        for bucket in range(self.num_buckets):
            places = np.flatnonzero(buckets == bucket)
            waiting = np.concatenate([left[bucket], rows[places]])
            num = len(waiting) // self.batch_size
            for i in range(num):
                end = (i + 1) * self.batch_size
                full_at = places[end - 1 - len(left[bucket])]
                ready.append((full_at, bucket, waiting[end - self.batch_size:end]))
            still_left.append(waiting[num * self.batch_size:])
        ready.sort(key=lambda item: item[0])
        return [(bucket, members) for _, bucket, members in ready], still_left


def _check_counts(features: Features, batch_size: int) -> None:
    """Refuse what no batch can be made of."""
    if len(features) == 0:
        raise ValueError(f'{features.name} has no examples to make batches of')
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}; expected at least 1')


def _bucket_of(lengths: np.ndarray, buckets: tuple[int, ...]) -> np.ndarray:
    """Return int[N], the smallest bucket that holds each length."""
    return np.searchsorted(buckets, lengths)
