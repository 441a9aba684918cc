"""Build arrays of any sharding block by block, holding on the host only what is not placed yet."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

#: XLA's CPU backend takes memory over as it is, instead of copying it, where it is aligned so.
ALIGNMENT = 64
#: Blocks that are read at once, and that wait, while another one is put in its place. In a bucket
#: most of a read is waiting.
_READERS, _READ_AHEAD = 3, 4

Region = tuple[tuple[int, int], ...]


class Builder:
    """Gather the blocks of one array, each where it belongs, and hand the array over.

    Without a sharding the array is numpy's. With one it is a JAX array of which each device of this
    process has its own part: one buffer a distinct part, filled here and given up to the devices.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype,
                 sharding: jax.sharding.Sharding | None = None):
        """Allocate this process's parts.

        Raises:
          ValueError: the array does not fit into memory.
        """
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._sharding = sharding
        self._devices: dict[Region, list[Any]] = {tuple((0, size) for size in self.shape): []}
        if sharding is not None:
            self._devices = {}
            for device, index in sharding.addressable_devices_indices_map(self.shape).items():
                self._devices.setdefault(_region(index, self.shape), []).append(device)
        self._parts = {region: _allocate([stop - start for start, stop in region], self.dtype)
                       for region in self._devices}

    def needs(self, region: Region) -> bool:
        """Tell whether a block of this region concerns this process at all."""
        return any(_overlap(region, part) for part in self._parts)

    def write(self, region: Region, block: np.ndarray) -> None:
        """Copy a block, which has the region's shape, to wherever it is wanted."""
        for part, buffer in self._parts.items():
            common = _overlap(region, part)
            if common:
                buffer[_within(common, part)] = block[_within(common, region)]

    def finish(self) -> np.ndarray | jax.Array:
        """Return the array; nothing can be written to it afterwards."""
        parts, self._parts = self._parts, {}
        if self._sharding is None:
            (buffer,) = parts.values()
            return buffer
        arrays = []
        for region in list(parts):
            buffer = parts.pop(region)
            placed = [jax.device_put(buffer, device) for device in self._devices[region]]
            del buffer
            # Only when it has left may the host's memory be used for the next.
            arrays += jax.block_until_ready(placed)
        return jax.make_array_from_single_device_arrays(self.shape, self._sharding, arrays)


def read_ahead(jobs: Iterable[tuple[Any, Callable[[], np.ndarray]]]
               ) -> Iterator[tuple[Any, np.ndarray]]:
    """Run reads in other threads while the results of the ones before are used.

    Args:
      jobs: what to call a result, and the function that reads it.

    Yields:
      The same in the same order, with the results.
    """
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        for job, read in jobs:
            waiting.append((job, pool.submit(read)))
            if len(waiting) > _READ_AHEAD:
                job, block = waiting.popleft()
                yield job, block.result()
        while waiting:
            job, block = waiting.popleft()
            yield job, block.result()


def _allocate(shape: list[int], dtype: np.dtype) -> np.ndarray:
    """Uninitialised memory that XLA's CPU backend can take over without a copy."""
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    try:
        raw = np.empty(size + ALIGNMENT, np.uint8)
    except (MemoryError, ValueError) as error:
        raise ValueError(f'no memory for a weight of shape {shape} in {dtype} ({size:,} bytes); '
                         'use a smaller dtype, or spread the weights over more devices') from error
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start:start + size].view(dtype).reshape(shape)


def _region(index: tuple[slice, ...], shape: tuple[int, ...]) -> Region:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _overlap(one: Region, other: Region) -> Region | None:
    """The region that two have in common, or None."""
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return common if all(start < stop for start, stop in common) else None


def _within(region: Region, whole: Region) -> tuple[slice, ...]:
    """A region as an index into an array that begins where `whole` does."""
    return tuple(slice(start - origin, stop - origin)
                 for (start, stop), (origin, _) in zip(region, whole, strict=True))
