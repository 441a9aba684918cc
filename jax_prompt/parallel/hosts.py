"""Several hosts as one program: start together, speak with one voice, stop together.

Every process runs the same program on its own devices. The first one writes; what it alone can know
(what a folder holds, whether it can be written) it tells the others, so that all go on alike or all
raise the same error.
"""

import contextlib
import functools
import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jax_prompt.files import first_line

#: Longer than any host's share of work: whoever waits is told when another host is lost.
_LONGEST_WAIT_MS = 365 * 24 * 60 * 60 * 1000

_ADDRESS = re.compile(r'[^\s:]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}')


def start(coordinator: str | None = None, num_processes: int | None = None,
          process_id: int | None = None) -> None:
    """Join the processes of a job; call it before anything else uses JAX's devices.

    Args:
      coordinator: 'HOST:PORT' of the first process; None to learn all three from the cluster, which
        Cloud TPU, GKE, Slurm and MPI tell.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      ValueError: values that cannot be, or a cluster that tells nothing, or processes that are not
        there within JAX's five minutes.
    """
    given = (coordinator, num_processes, process_id)
    if any(value is None for value in given) and any(value is not None for value in given):
        raise ValueError('a job of several hosts is given by coordinator, num_processes and '
                         f'process_id together; got {given}: name all three, or none on a cluster '
                         'that tells them')
    if coordinator is not None:
        _check(coordinator, num_processes, process_id)
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f'the hosts of the job could not be joined: {first_line(error)}; where the cluster '
            'does not tell them, give --coordinator=HOST:PORT, --num_processes=N and '
            '--process_id=I to each process') from error


def is_first() -> bool:
    """Say whether this is the process that writes and prints."""
    return jax.process_index() == 0


def from_first(make: Callable[[], Any]) -> Any:
    """Call a function in the first process alone and give its result to all.

    Args:
      make: returns what JSON can hold.

    Returns:
      What it returned (through JSON where there are several processes).

    Raises:
      ValueError, OSError: what it raised, in every process.
    """
    if jax.process_count() == 1:
        return make()
    told: dict[str, Any] = {}
    raised: Exception | None = None
    if is_first():
        try:
            told = {'value': make()}
        except (ValueError, OSError) as error:
            raised, told = error, {'error': str(error)}
    _meet()
    told = json.loads(_broadcast(json.dumps(told).encode()))
    if raised is not None:
        raise raised
    if 'error' in told:
        raise ValueError(f"{told['error']} (told by the first process)")
    return told['value']


def check_together(check: Callable[[], None]) -> None:
    """Call a check in every process, and go on in all or in none.

    Args:
      check: raises ValueError or OSError where the process cannot go on.

    Raises:
      ValueError, OSError: what it raised in this process, or that it raised in another one.
    """
    raised: Exception | None = None
    try:
        check()
    except (ValueError, OSError) as error:
        raised = error
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        _meet()
        failed = np.flatnonzero(multihost_utils.process_allgather(np.int32(raised is not None)))
        if raised is None and failed.size:
            raise ValueError(f'process {failed[0]} of the job cannot go on and says why; mend it '
                             'there and start all of them again')
    if raised is not None:
        raise raised


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


def arrays_from_first(tree: Any) -> Any:
    """Give the first process's arrays to all.

    Args:
      tree: a pytree of arrays; in the other processes only its structure, shapes and dtypes count.

    Returns:
      The tree, of numpy arrays; the very arrays of `tree` in a single process.
    """
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    def received(leaf: Any) -> np.ndarray:
        whole = np.asarray(leaf) if is_first() else np.zeros(leaf.shape, leaf.dtype)
        # Sent as bytes: the exchange is a sum, which some dtypes would not survive bit for bit.
        sent = np.frombuffer(whole.tobytes(), np.uint8).astype(np.int32)
        got = np.asarray(multihost_utils.broadcast_one_to_all(sent)).astype(np.uint8)
        return np.frombuffer(got.tobytes(), whole.dtype).reshape(whole.shape)

    return jax.tree.map(received, tree)


def fetch(array: Any) -> np.ndarray:
    """Bring a whole array to every host, wherever its parts live.

    Args:
      array: numpy or JAX array; one that spans hosts is gathered, by all of them together.

    Returns:
      The array on this host.
    """
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    everywhere = getattr(array.sharding, 'mesh', None) and jax.sharding.NamedSharding(
        array.sharding.mesh, jax.sharding.PartitionSpec())
    if everywhere is None:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(_copied(everywhere)(array).addressable_data(0))


@functools.cache
def _copied(everywhere: jax.sharding.NamedSharding) -> Callable[[jax.Array], jax.Array]:
    """Return what copies an array to every device; JAX's own gathering compiles at each call."""
    return jax.jit(lambda array: array, out_shardings=everywhere)


def wait_for_all(what: str) -> None:
    """Wait until every process has come here, be it for days.

    A collective would not do: on CPU it gives up after half an hour, the first one after half a
    minute. JAX makes no other barrier public, Orbax does. That another process was lost is noticed
    here only when its heartbeats have stayed away, after a hundred seconds.

    Args:
      what: names the place in messages.

    Raises:
      RuntimeError: another process was lost.
    """
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost  # takes a second

        wait = multihost.get_barrier_sync_fn()
        wait(key=f'jax_prompt: {what}', timeout_ms=_LONGEST_WAIT_MS)


@functools.cache
def _meet() -> None:
    """Wait for all before the first collective: they may have opened a model at unequal speed."""
    wait_for_all('the first collective')


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[int], bool]]:
    """Listen for SIGTERM, by which a cluster announces that it takes a host away.

    The first one is a request; a second one ends the process as if nobody listened.

    Yields:
      wanted(step) -> whether to save and stop now. With several hosts all of them get True at the
      same step, whichever was told; all must ask at every step.
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        yield multihost_utils.reached_preemption_sync_point
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False  # Python delivers signals to the main thread alone.
        return
    asked = threading.Event()

    def listen(number: int, frame: Any) -> None:
        asked.set()
        signal.signal(number, signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, listen)
    try:
        yield lambda step: asked.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)


def _check(coordinator: str, num_processes: int, process_id: int) -> None:
    if not _ADDRESS.fullmatch(coordinator):
        raise ValueError(f'coordinator is {coordinator!r}; expected HOST:PORT of the first process')
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(f'process_id is {process_id} of num_processes {num_processes}; expected '
                         'numbers from 0 to num_processes - 1')


def _broadcast(message: bytes) -> bytes:
    """Send bytes from the first process to all."""
    length = arrays_from_first(np.int32(len(message)))
    room = np.frombuffer(message, np.uint8) if is_first() else np.zeros(length, np.uint8)
    return arrays_from_first(room).tobytes()
