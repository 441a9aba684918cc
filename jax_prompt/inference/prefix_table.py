"""The prefixes of many prompts on the devices, changed while batches are in flight.

They stand in arrays [T, N, H, M, K], a slot a prompt, M that of the longest. What a prompt has less
of is zeros, which its rows do not see (`PrefixUse.lengths`). Slot 0 is of zeros and nobody's: rows
without a prefix are given it. Like the rows' table, arrays are values: batches that were started
before a change go on with the old ones.
"""

import collections
import dataclasses
import logging
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_prompt.prompts.prompt import Prompt
from jax_prompt.types import Array

#: Of each kind of attention keys and values, float32[T, N, H, M, K]; what `Prompt.prefix` has.
Prefixes = dict[str, tuple[Array, Array]]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PrefixUse:
    """Which of a batch's prefixes a row sees, and how much of it.

    Attributes:
      number: of the prompt among the T of `Prompt.prefix`.
      lengths: 'encoder', 'decoder', 'cross' -> positions of it; what is absent has none.
    """

    number: int
    lengths: Mapping[str, int]

    @classmethod
    def of(cls, prompt: Prompt, number: int = 0) -> 'PrefixUse | None':
        """Return the use of all of one of a prompt's prefixes; None where it has none."""
        lengths = {name: keys.shape[3] for name, (keys, _) in prompt.prefix.items()}
        return cls(number, lengths) if lengths else None


def stack_uses(uses: Sequence[PrefixUse | None], batch: int,
               names: Iterable[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Put what the rows of a batch see into arrays.

    Args:
      uses: of each row, None for nothing.
      batch: B; rows beyond those given are fillers.
      names: the kinds of attention that any prompt has a prefix for.

    Returns:
      `prompt_ids` and `lengths` of `models.base.Prefix`.
    """
    ids_B = np.zeros(batch, np.int32)
    lengths = {name: np.zeros(batch, np.int32) for name in names}
    for number, use in enumerate(uses):
        if use is not None:
            ids_B[number] = use.number
            for name, length in use.lengths.items():
                lengths[name][number] = length
    return ids_B, lengths


class PrefixSlot:
    """A slot that is held for as long as anyone refers to this object.

    Attributes:
      number: of the slot.
    """

    def __init__(self, number: int):
        self.number = number


class PrefixTable:
    """Hold the prefixes of many prompts; without any it takes no memory.

    It grows, in slots and positions, to the next power of two of what is needed; the log says so,
    since everything that uses it is then compiled once more.
    """

    def __init__(self, sharding: jax.sharding.Sharding | None = None):
        """Begin without a slot.

        Args:
          sharding: where the arrays stand on several devices; every device needs all of them.
        """
        self._sharding, self._lock = sharding, threading.Lock()
        self._free: list[int] = []
        self._released = collections.deque()  # a finalizer may run under the lock, so it takes none
        self._arrays: Prefixes = {}
        self._jitted = jax.jit(_write, out_shardings=sharding)

    @property
    def arrays(self) -> Prefixes:
        """Return the prefixes as they are now; {} where nobody has one."""
        return self._arrays

    def empty_for(self, prefix: Mapping[str, tuple[Any, Any]]) -> Prefixes:
        """Return zeros of the size that the table has when a prefix is put, to compile for.

        Args:
          prefix: of one prompt, {} for none.
        """
        with self._lock:
            self._collect()
            return self._placed({name: (np.zeros(shape, np.float32),) * 2
                                 for name, shape in self._shapes_for(prefix).items()})

    def put(self, prefix: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> PrefixSlot:
        """Write a prompt's prefix into a free slot.

        Args:
          prefix: keys and values, each float32[1, N, H, M, K], on the host.

        Returns:
          Its slot, which is freed once nothing refers to it.
        """
        with self._lock:
            self._collect()
            arrays = self._grown(self._shapes_for(prefix))
            number, block = self._free[0], {}
            for name, kept in arrays.items():
                shape = (1, *kept[0].shape[1:])
                block[name] = tuple(_padded(one, shape) for one in prefix[name]) if (
                    name in prefix) else (np.zeros(shape, np.float32),) * 2
            self._arrays = self._jitted(arrays, block, np.int32(number))
            self._free.pop(0)
        slot = PrefixSlot(number)
        weakref.finalize(slot, self._released.append, number)
        return slot

    def _shapes_for(self, prefix: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array that holds what there is and a prefix besides."""
        shapes = {name: keys.shape for name, (keys, _) in self._arrays.items()}
        slots = next(iter(shapes.values()))[0] if shapes else 2
        if prefix and shapes and not self._free:
            slots *= 2
        for name, (keys, _) in prefix.items():
            _, layers, heads, positions, width = keys.shape
            most = shapes[name][3] if name in shapes else 1
            while most < positions:
                most *= 2
            shapes[name] = (slots, layers, heads, most, width)
        return {name: (slots, *shape[1:]) for name, shape in shapes.items()}

    def _grown(self, shapes: Mapping[str, tuple[int, ...]]) -> Prefixes:
        """Return the arrays in these shapes, and free the slots that are new."""
        now = {name: keys.shape for name, (keys, _) in self._arrays.items()}
        if now == shapes:
            return self._arrays
        if now:
            _log.warning('the table of prefixes grows from %s to %s; what has not been compiled '
                         'for that will be', now, dict(shapes))
        slots = next(iter(shapes.values()))[0]
        before = next(iter(now.values()))[0] if now else 1
        self._free += range(before, slots)
        arrays = {name: tuple(_padded(one, shape) for one in self._arrays.get(
            name, (np.zeros((0, *shape[1:]), np.float32),) * 2)) for name, shape in shapes.items()}
        self._arrays = self._placed(arrays)
        return self._arrays

    def _collect(self) -> None:
        while self._released:
            self._free.append(self._released.popleft())

    def _placed(self, arrays: Prefixes) -> Prefixes:
        return jax.device_put(arrays, self._sharding)


def _padded(array: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Pad an array with zeros at the end of each dimension."""
    array = np.asarray(array, np.float32)
    return np.pad(array, [(0, want - have) for have, want in zip(array.shape, shape, strict=True)])


def _write(arrays: Prefixes, block: Prefixes, number: Array) -> Prefixes:
    return jax.tree.map(lambda kept, one: jax.lax.dynamic_update_slice_in_dim(kept, one, number, 0),
                        arrays, block)
