"""One device table that holds the rows of many prompts, changed while batches are in flight.

Prompts of any length stand in one float32[R, D] table, each in a contiguous block. A row of a
batch that uses the block at `offset` has ids `V + offset + i`, so `prompts.virtual.embed` serves a
batch of many tasks as it serves one. The table is a value: adding a prompt makes a new one, and
batches that were started before go on with the old.
"""

import collections
import copy
import logging
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np

from jax_prompt.types import Array

_log = logging.getLogger(__name__)

#: Blocks have this many rows, or a power of two times as many: few sizes, so that few programs
#: write them and freed blocks fit again.
_SMALLEST_BLOCK = 8


class Block:
    """Rows of a table that are held for as long as anyone refers to this object.

    A request keeps the block of its prompt alive in this way until it is answered, although the
    prompt may be removed meanwhile.

    Attributes:
      offset: the first row.
      size: rows held, the prompt's and fillers.
    """

    def __init__(self, offset: int, size: int):
        self.offset, self.size = offset, size


class FreeRows:
    """Which rows of a table are free: first fit, and neighbours join when they are freed.

    Example:
      >>> free = FreeRows(16)
      >>> free.take(8), free.take(8), free.take(8)
      (0, 8, None)
    """

    def __init__(self, capacity: int):
        self._free = [(0, capacity)]  # (offset, size), by offset

    def take(self, size: int) -> int | None:
        """Take the first stretch that is long enough.

        Args:
          size: rows.

        Returns:
          Its first row; None where there is no such stretch.
        """
        for number, (offset, length) in enumerate(self._free):
            if length >= size:
                rest = [(offset + size, length - size)] if length > size else []
                self._free[number:number + 1] = rest
                return offset
        return None

    def give(self, offset: int, size: int) -> None:
        """Give rows back, or add new ones: `size` rows from `offset` on."""
        joined = []
        for start, length in sorted([*self._free, (offset, size)]):
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((start, length))
        self._free = joined

    @property
    def count(self) -> int:
        """Return how many rows are free."""
        return sum(length for _, length in self._free)


class PromptTable:
    """Hold the rows of many prompts on the devices.

    Adding a prompt writes one block by a program that was compiled before; nothing that uses the
    table is compiled again, since its shape stays. Only when the rows run out does the table double
    in size, which the log says, since everything that uses it is then compiled once more.
    """

    def __init__(self, d_model: int, capacity: int = 4096,
                 sharding: jax.sharding.Sharding | None = None):
        """Allocate a table.

        Args:
          d_model: D.
          capacity: R to begin with, rounded up to whole blocks.
          sharding: where the table stands on several devices; every device needs all of it.

        Raises:
          ValueError: for a capacity below 1.
        """
        if capacity < 1:
            raise ValueError(f'prompt table of capacity {capacity}; expected at least 1 row')
        capacity = -(-capacity // _SMALLEST_BLOCK) * _SMALLEST_BLOCK
        self._sharding = sharding
        self._lock = threading.Lock()
        self._free = FreeRows(capacity)
        # Blocks that nobody refers to any more. A finalizer may run at any moment, under the lock
        # too, so it takes none: appending to a deque is atomic.
        self._released = collections.deque()
        # On the host until it is first used: what is put until then needs no program.
        self._rows_RD: Array | np.ndarray = np.zeros((capacity, d_model), np.float32)
        self._jitted = jax.jit(_write, out_shardings=sharding)
        self._compiled: set[tuple[int, int]] = set()  # rows of tables and of blocks

    @property
    def rows_RD(self) -> Array:
        """Return the table as it is now, float32[R, D]."""
        with self._lock:
            if isinstance(self._rows_RD, np.ndarray):
                self._rows_RD = self._place(self._rows_RD)
            return self._rows_RD

    @property
    def capacity(self) -> int:
        """Return R."""
        return self._rows_RD.shape[0]

    @property
    def free_rows(self) -> int:
        """Return how many rows no block holds."""
        with self._lock:
            self._collect()
            return self._free.count

    def capacity_for(self, num_rows: int) -> int:
        """Return R after a prompt is put: more than now where no free stretch can hold it.

        Args:
          num_rows: P, of the prompt.
        """
        with self._lock:
            self._collect()
            free, capacity = copy.deepcopy(self._free), self.capacity
            while free.take(_block_size(num_rows)) is None:
                free.give(capacity, capacity)
                capacity *= 2
            return capacity

    def empty(self, capacity: int) -> Array:
        """Return what the table will be like at another size, to compile for.

        Args:
          capacity: R.

        Returns:
          float32[R, D], zeros.
        """
        return self._place(np.zeros((capacity, self._rows_RD.shape[1]), np.float32))

    @property
    def compilations(self) -> int:
        """Return how many programs have been compiled to write blocks."""
        return len(self._compiled)

    def put(self, prompt_PD: np.ndarray) -> Block:
        """Write a prompt into free rows.

        Args:
          prompt_PD: float32[P, D], on the host.

        Returns:
          Its block; its rows are freed once nothing refers to the block.

        Raises:
          ValueError: the widths differ.
        """
        prompt_PD = np.asarray(prompt_PD, np.float32)
        width = self._rows_RD.shape[1]
        if prompt_PD.ndim != 2 or prompt_PD.shape[1] != width:
            raise ValueError(f'a prompt of shape {prompt_PD.shape} does not fit a table of width '
                             f'D={width}; choose a prompt of the model in use')
        size = _block_size(len(prompt_PD))
        rows = np.zeros((size, width), np.float32)
        rows[:len(prompt_PD)] = prompt_PD
        with self._lock:
            offset = self._take(size)
            try:
                if isinstance(self._rows_RD, np.ndarray):
                    self._rows_RD[offset:offset + size] = rows
                else:
                    self._rows_RD = self._write(self._rows_RD, rows, offset)
            except BaseException:  # such as a lack of memory
                self._free.give(offset, size)
                raise
        block = Block(offset, size)
        weakref.finalize(block, self._released.append, (offset, size))
        return block

    def warm_up(self, longest: int = 256, capacity: int | None = None) -> None:
        """Compile the writing of blocks; the table's content stays.

        Args:
          longest: the most rows of a prompt to prepare for.
          capacity: R, of a table to be; None for the one there is.
        """
        table_RD = self.rows_RD if capacity is None else self.empty(capacity)
        size = _SMALLEST_BLOCK
        while size <= min(_block_size(longest), len(table_RD)):
            rows = np.zeros((size, table_RD.shape[1]), np.float32)
            self._write(table_RD, rows, 0).block_until_ready()
            size *= 2

    def _write(self, table_RD: Array, rows: np.ndarray, offset: int) -> Array:
        """Return the table with a block written."""
        self._compiled.add((len(table_RD), len(rows)))
        return self._jitted(table_RD, rows, np.int32(offset))

    def _take(self, size: int) -> int:
        """Return the offset of free rows, after doubling the table where they run out."""
        self._collect()
        while (offset := self._free.take(size)) is None:
            old = self.capacity
            _log.warning('the prompt table grows from %d to %d rows; what has not been compiled '
                         'for that will be: give a larger capacity to avoid it', old, 2 * old)
            join = np.concatenate if isinstance(self._rows_RD, np.ndarray) else jnp.concatenate
            self._rows_RD = self._place(join([self._rows_RD, self.empty(old)]))
            self._free.give(old, old)
        return offset

    def _collect(self) -> None:
        """Free the blocks that nobody refers to."""
        while self._released:
            self._free.give(*self._released.popleft())

    def _place(self, rows_RD: np.ndarray | Array) -> Array:
        return jax.device_put(rows_RD, self._sharding)


def _write(table_RD: Array, rows: Array, offset: Array) -> Array:
    return jax.lax.dynamic_update_slice(table_RD, rows, (offset, 0))


def _block_size(num_rows: int) -> int:
    """Return the rows of the block for so many."""
    size = _SMALLEST_BLOCK
    while size < num_rows:
        size *= 2
    return size
