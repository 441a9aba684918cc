"""What the first host does for all of them: keep checkpoints, and write the record of metrics."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jax_prompt.parallel.hosts import arrays_from_first, from_first, is_first
from jax_prompt.training.reporting import MetricsLog
from jax_prompt.training.state import TrainStateStore
from jax_prompt.types import TrainState


def load_from_first(read: Callable[[], tuple[Any, Any] | None],
                    template: Any) -> tuple[Any, Any] | None:
    """Read on the first host what all of them need.

    Args:
      read: returns (what JSON can hold, a pytree of arrays), or None for nothing.
      template: a pytree like the one that is read.

    Returns:
      What `read` returned, on every host.

    Raises:
      ValueError, OSError: what `read` raised, on every host.
    """
    arrays = template

    def told() -> Any:
        nonlocal arrays
        found = read()
        if found is None:
            return None
        value, arrays = found
        return [value]

    value = from_first(told)
    return None if value is None else (value[0], arrays_from_first(arrays))


class StateKeeper:
    """Keep a run's checkpoints on the first host's disk; nobody else needs to see that disk.

    Args:
      folder: see `TrainStateStore`.
      keep: how many of the newest checkpoints to keep.
    """

    def __init__(self, folder: str | pathlib.Path, keep: int):
        self._store = TrainStateStore(folder, keep) if is_first() else None

    def restore_latest(self, template: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Read the newest whole checkpoint, for all hosts; see `TrainStateStore`."""

        def read() -> tuple[dict[str, Any], TrainState] | None:
            restored = self._store.restore_latest(template)
            return None if restored is None else (restored[1], restored[0])

        found = load_from_first(read, template)
        return None if found is None else (found[1], found[0])

    def save(self, state: TrainState, host_state: dict[str, Any]) -> None:
        """Write a checkpoint and wait until it is whole on disk; see `TrainStateStore`."""
        if self._store is not None:
            self._store.save(jax.device_get(state), host_state)

    def close(self) -> None:
        """Release what is open; the keeper cannot be used afterwards."""
        if self._store is not None:
            self._store.close()


class _Silence:
    """Take the place of the record of metrics where another host writes it."""

    def write(self, step: int, split: str, metrics: Mapping[str, Any]) -> None:
        """Write nothing."""

    def flush(self) -> None:
        """Flush nothing."""

    def __enter__(self) -> '_Silence':
        return self

    def __exit__(self, *_) -> None:
        pass


def open_metrics(folder: pathlib.Path, resume_step: int | None) -> MetricsLog | _Silence:
    """Open the record of metrics; on other hosts than the first, one that writes nothing."""
    return MetricsLog(folder, resume_step) if is_first() else _Silence()
