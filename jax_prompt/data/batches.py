"""Batches: examples of alike length together, in an order that seed and step alone decide."""

import functools
import itertools
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
        lengths: int[N], encoder positions of the examples, virtual tokens included; N > 0.
        max_buckets: the most buckets.
        multiple: of which all buckets are multiples.
        min_count: the fewest examples of a bucket, where there are as many; the batch size keeps an
            example from standing in a batch twice.

    Returns:
        The buckets, ascending; the last one holds the longest example.

    Example:
        >>> choose_buckets([3, 4, 4, 30], max_buckets=2, multiple=4)
        (4, 32)
    """
    lengths = np.asarray(lengths, np.int64)
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
        features: what to batch; there are examples.
        batch_size: B, exact.
        seed: 0 or more.
        buckets: padded lengths; None pads all to the longest. What is longer than the last gets
            one more bucket.
        start_step: the first batch to yield, counted from the run's beginning.
        host_rows: which rows of each batch this host reads, ascending; None for all.

    Yields:
        `Features.batch` dicts; S is one of the buckets.
    """
    buckets = covering(buckets, features.lengths)
    order = order_of(features, batch_size, seed, buckets)
    mine = slice(None) if host_rows is None else host_rows
    return (features.batch(order.rows(bucket, number)[mine], buckets[bucket])
            for bucket, number in order.batches(start_step))


def order_of(features: Features, batch_size: int, seed: int,
             buckets: Sequence[int]) -> 'BucketOrder':
    """Return the order of training for buckets that hold all examples; see `train_batches`."""
    smallest = np.searchsorted(buckets, features.lengths)  # that holds each
    return BucketOrder(smallest, len(buckets), batch_size, seed)


class BucketOrder:
    """The order of training: which rows make batch number `step`.

    A bucket's rows are one endless sequence, epoch after epoch, of which every `batch_size` make a
    batch.
    """

    def __init__(self, bucket_of: np.ndarray, num_buckets: int, batch_size: int, seed: int):
        """Say what is to be ordered.

        Args:
            bucket_of: int[N], the bucket of each example.
            num_buckets: how many buckets there are.
            batch_size: B, exact.
            seed: 0 or more.
        """
        self._bucket_of, self._batch_size, self._seed = bucket_of, batch_size, seed
        self._counts = np.bincount(bucket_of, minlength=num_buckets)
        self._epoch = functools.lru_cache(maxsize=4)(self._places_and_rows)

    def batches(self, start_step: int) -> Iterator[tuple[int, int]]:
        """Yield (bucket, the batch's number within it) for each step from start_step on."""
        # Buckets round down, so no epoch begins later than this one's share of the steps.
        epoch = start_step * self._batch_size // len(self._bucket_of)
        while self._steps_before(epoch + 1) <= start_step:
            epoch += 1
        skip = start_step - self._steps_before(epoch)
        for current in itertools.count(epoch):
            yield from itertools.islice(self._full_in(current), skip, None)
            skip = 0

    def _steps_before(self, epoch: int) -> int:
        """Count the batches that are full before an epoch begins."""
        return int((epoch * self._counts // self._batch_size).sum())

    def _full_in(self, epoch: int) -> Iterator[tuple[int, int]]:
        """Yield the (bucket, number) that become full in an epoch, in order."""
        places, _ = self._epoch(epoch)
        ready = []
        for bucket, count in enumerate(self._counts):
            first, last = (end * count // self._batch_size for end in (epoch, epoch + 1))
            for number in range(first, last):
                completed_by = (number + 1) * self._batch_size - 1 - epoch * count
                ready.append((places[bucket][completed_by], bucket, number))
        for _, bucket, number in sorted(ready):
            yield bucket, number

    def rows(self, bucket: int, number: int) -> np.ndarray:
        """Return int[B], the batch of a bucket that is the `number`-th."""
        wanted = np.arange(number * self._batch_size, (number + 1) * self._batch_size)
        epochs, within = np.divmod(wanted, self._counts[bucket])
        return np.concatenate([self._epoch(int(epoch))[1][bucket][within[epochs == epoch]]
                               for epoch in np.unique(epochs)])

    def _places_and_rows(self, epoch: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return, for each bucket, where its rows stand in an epoch's order, and which they are."""
        order = np.argsort(raw_numbers(self._seed, epoch, len(self._bucket_of)), kind='stable')
        places = [np.flatnonzero(self._bucket_of[order] == bucket)
                  for bucket in range(len(self._counts))]
        return places, [order[found] for found in places]


def raw_numbers(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return uint64[count], the random numbers of an epoch.

    numpy promises that bit generators' raw streams stay as they are between its versions; it does
    not promise so for Generator.permutation, and runs resume after upgrades.
    """
    return np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(count)
