"""Keep the state of a training run on disk, so that a killed run goes on where it was.

Orbax writes a checkpoint into a temporary folder and renames it when it is whole; a run that is
killed at any moment leaves whole checkpoints behind and perhaps a temporary folder, which the next
start removes. Orbax does not notice a file that was truncated or damaged later (by a full disk, a
power loss, a copy that broke off), so each checkpoint carries a digest of its own content, which is
checked when it is read. A damaged one is reported and moved aside; the one before it is used.
One of another run is refused.
"""

import hashlib
import json
import logging
import os
import pathlib
from typing import Any, Protocol

import jax
import numpy as np

from jax_prompt.files import first_line, sealed
from jax_prompt.parallel.hosts import fetch, is_first, load_from_first
from jax_prompt.types import Array

_FORMAT = 2
#: Where Orbax puts times and classes of its own; it opens no folder in which one is malformed.
_ORBAX_NOTES = '_CHECKPOINT_METADATA'

_logger = logging.getLogger(__name__)


class Stepped(Protocol):
    """A pytree of arrays that knows its step, such as a `TrainState`."""

    @property
    def step(self) -> Array:
        """int32[], optimizer updates made so far."""


class TrainStateStore:
    """Save and restore training states in a folder of numbered checkpoints.

    Saving is synchronous: the prompt and its optimizer state are small, and a state that `save`
    returned from survives the process. Where several processes make one program, the first alone
    has the folder; the others need not see its disk.

    Example::

        store = TrainStateStore('run/checkpoints')
        restored = store.restore_latest(state)
        if restored is not None:
            state, host_state = restored
        ...
        store.save(state, {'best_accuracy': 0.84})
        store.close()
    """

    def __init__(self, folder: str | pathlib.Path, keep: int = 3, run: str = ''):
        """Open a folder of checkpoints, creating it if need be.

        Args:
          folder: where the checkpoints are, one folder a step inside; may be a gs:// address.
          keep: how many of the newest checkpoints to keep. With 1 there is none to fall back to.
          run: tells the run that they are of from any other.
        """
        self._manager, self._run = None, run
        if not is_first():
            return
        # Imported here: Orbax takes a second, and `import jax_prompt` must not.
        import orbax.checkpoint as ocp
        from etils import epath
        self._ocp = ocp
        # Orbax wants absolute paths; gs://bucket/run is one already.
        self._folder = epath.Path(folder if '://' in str(folder) else os.path.abspath(folder))
        self._folder.mkdir(parents=True, exist_ok=True)
        for notes in self._folder.glob(f'*/{_ORBAX_NOTES}'):
            notes.write_text('{}')  # what is in a checkpoint stands in our own record
        self._manager = ocp.CheckpointManager(self._folder, options=ocp.CheckpointManagerOptions(
            create=False,
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            cleanup_tmp_directories=True, enable_async_checkpointing=False,
            save_root_metadata=False,
            # No process is waited for that does not take part.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=jax.process_index(), active_processes={jax.process_index()})))

    def save(self, state: Stepped, host_state: dict[str, Any] | None = None) -> None:
        """Write a checkpoint and wait until it is whole on disk.

        Nothing happens when this very state is already there; another state of the same step is
        replaced.

        Args:
          state: arrays; its step names the checkpoint.
          host_state: a small JSON-ready dict to keep beside it.
        """
        leaves = _named_leaves(jax.tree.map(fetch, state))  # by all processes together
        if self._manager is None:
            return
        step = int(state.step)
        record = sealed({
            'format': _FORMAT, 'run': self._run, 'host': json.loads(json.dumps(host_state or {})),
            'leaves': _spec(leaves), 'arrays': _arrays_digest(leaves)})
        if step in self._manager.all_steps():
            try:
                if self._read_record(step)['digest'] == record['digest']:
                    return
            except _Unusable:
                pass
            self._manager.delete(step)
        args = self._ocp.args
        self._manager.save(step, force=True, args=args.Composite(
            state=args.StandardSave(_filled(leaves)), host=args.JsonSave(record)))

    def restore_latest(self, template: Stepped) -> tuple[Any, dict[str, Any]] | None:
        """Read the newest checkpoint that is whole.

        A newer one that is damaged is reported in the log and renamed to `unusable-<step>`, so that
        the run can save at that step again.

        Args:
          template: a state with the structure, shapes and dtypes to restore into; its values are
            not used.

        Returns:
          The state in numpy arrays, bit for bit as saved, and the host state; None when nothing was
          ever saved.

        Raises:
          ValueError: when checkpoints exist but none can be read, or when the newest readable one
            is of another run, or of another structure than `template`.
        """
        found = load_from_first(lambda: self._newest(template), template)
        return None if found is None else (found[1], found[0])

    def close(self) -> None:
        """Release what Orbax holds; the store cannot be used afterwards."""
        if self._manager is not None:
            self._manager.close()

    def _newest(self, template: Stepped) -> tuple[dict[str, Any], Any] | None:
        """Read the newest checkpoint that is whole: its host state and its state."""
        reasons: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state, host_state = self._restore(step, template)
                self._set_aside(reasons, step)
                return host_state, state
            except _Unusable as error:
                reasons[step] = str(error)
        if reasons:
            listed = '; '.join(f'{step}: {reason}' for step, reason in reasons.items())
            raise ValueError(f'no checkpoint in {self._folder} can be read ({listed}); remove or '
                             'rename the folder to start afresh')
        return None

    def _restore(self, step: int, template: Stepped) -> tuple[Any, dict[str, Any]]:
        """Read one checkpoint, or raise _Unusable."""
        record, leaves = self._read_record(step), _named_leaves(template)
        _check_structure(record['leaves'], _spec(leaves), self._folder / str(step))
        # Numpy arrays are restored as such; empty ones take no memory.
        empty = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in leaves.items()}
        restored = empty | self._read(step, state=self._ocp.args.StandardRestore(_filled(empty)))
        if _arrays_digest(restored) != record['arrays']:
            raise _Unusable('its arrays do not match their digest')
        state = jax.tree.structure(template).unflatten(restored[name] for name in leaves)
        if int(state.step) != step:  # a folder that was renamed
            raise _Unusable(f'it is of step {int(state.step)}')
        return state, record['host']

    def _read_record(self, step: int) -> dict[str, Any]:
        """Read what stands beside the arrays, or raise _Unusable."""
        record = self._read(step, host=self._ocp.args.JsonRestore())
        if not isinstance(record, dict) or record != sealed(record):
            raise _Unusable('its host state does not match its digest')
        if record['format'] != _FORMAT:
            raise ValueError(f'checkpoint {self._folder / str(step)} has format '
                             f'{record["format"]!r}; expected {_FORMAT}: it was written by another '
                             'version of jax_prompt')
        if record['run'] != self._run:
            raise ValueError(f'checkpoint {self._folder / str(step)} is of another run; move it '
                             'away to go on from the one before it')
        return record

    def _read(self, step: int, **item: Any) -> Any:
        """Read one item; whatever Orbax raises on damaged files, the checkpoint is not usable."""
        try:
            restored = self._manager.restore(step, args=self._ocp.args.Composite(**item))
            return restored[next(iter(item))]
        except Exception as error:
            raise _Unusable(first_line(error)) from error

    def _set_aside(self, reasons: dict[int, str], used: int) -> None:
        """Report damaged checkpoints and rename them out of the way."""
        for step, reason in reasons.items():
            _logger.warning('checkpoint %s is damaged (%s); using the one of step %d before it',
                            self._folder / str(step), reason, used)
            target = self._folder / f'unusable-{step}'
            if target.exists():
                target.rmtree()
            (self._folder / str(step)).rename(target)
        if reasons:
            self._manager.reload()


class _Unusable(Exception):
    """A checkpoint is damaged; the message says how."""


def _named_leaves(state: Stepped) -> dict[str, Any]:
    """The arrays of a state by their paths: what is stored does not depend on optax's classes."""
    return {jax.tree_util.keystr(path, simple=True, separator='.'): leaf
            for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}


def _filled(leaves: dict[str, Any]) -> dict[str, Any]:
    """The arrays that hold a number; Orbax keeps no others, such as the rows of no prompt."""
    return {name: leaf for name, leaf in leaves.items() if leaf.size}


def _spec(leaves: dict[str, Any]) -> dict[str, list]:
    """Path -> [dtype, shape]."""
    return {name: [str(np.dtype(leaf.dtype)), list(leaf.shape)] for name, leaf in leaves.items()}


def _arrays_digest(leaves: dict[str, Any]) -> str:
    """Hash every byte of the arrays."""
    digest = hashlib.sha256()
    for name in sorted(leaves):
        digest.update(np.ascontiguousarray(leaves[name]).tobytes())
    return digest.hexdigest()


def _check_structure(saved: dict[str, list], wanted: dict[str, list], where: Any) -> None:
    """Raise the ValueError for a checkpoint of another prompt or another optimizer."""
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            got, expected = ('{}{}'.format(*spec[name]) if name in spec else 'nothing'
                             for spec in (saved, wanted))
            raise ValueError(f'checkpoint {where} has {got} for {name!r} but this run needs '
                             f'{expected}; it is of another configuration: use the configuration '
                             'it was made with, or another folder')
