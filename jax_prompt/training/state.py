"""Keep the state of a training run on disk, so that a killed run goes on where it was.

Orbax writes a checkpoint into a temporary folder and renames it when it is whole; a run that is
killed at any moment leaves whole checkpoints behind and perhaps a temporary folder, which the next
start removes. Orbax does not notice a file that was truncated or damaged later (by a full disk, a
power loss, a copy that broke off), so each checkpoint carries a digest of its own content, which is
checked when it is read, and beside it a list of its files, which tells what is wrong before Orbax
stumbles over it. A damaged checkpoint is reported and moved aside, and the one before it is used.
"""

import hashlib
import json
import logging
import os
import pathlib
from typing import Any

import jax
import numpy as np

from jax_prompt.files import first_line
from jax_prompt.types import TrainState

_FORMAT = 1
_UNUSABLE = 'unusable-'
_FILES = 'files.json'

_logger = logging.getLogger(__name__)


class TrainStateStore:
    """Save and restore training states in a folder of numbered checkpoints.

    Saving is synchronous: the prompt and its optimizer state are small, and a state that `save`
    returned from survives the process. Where several processes make one program, the first alone
    opens a store.

    Example::

        store = TrainStateStore('run/checkpoints')
        restored = store.restore_latest(state)
        if restored is not None:
            state, host_state = restored
        ...
        store.save(state, {'best_accuracy': 0.84})
        store.close()
    """

    def __init__(self, folder: str | pathlib.Path, keep: int = 3):
        """Open a folder of checkpoints, creating it if need be.

        Args:
          folder: where the checkpoints are, one folder a step inside; may be a gs:// address.
          keep: how many of the newest checkpoints to keep. With 1 there is none to fall back to.

        Raises:
          ValueError: when `keep` is below 1, or `folder` is a file.
        """
        if keep < 1:
            raise ValueError(f'keep={keep} checkpoints; expected at least 1')
        # Imported here: Orbax takes a second, and `import jax_prompt` must not.
        import orbax.checkpoint as ocp
        from etils import epath
        self._ocp = ocp
        # Orbax wants absolute paths; gs://bucket/run is one already.
        self._folder = epath.Path(folder if '://' in str(folder) else os.path.abspath(folder))
        if self._folder.exists() and not self._folder.is_dir():
            raise ValueError(f'{self._folder} is a file; expected a folder for the checkpoints')
        self._folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(self._folder, options=ocp.CheckpointManagerOptions(
            create=False,
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            cleanup_tmp_directories=True, enable_async_checkpointing=False,
            save_root_metadata=False, multiprocessing_options=_alone(ocp)))

    def save(self, state: TrainState, host_state: dict[str, Any] | None = None) -> None:
        """Write a checkpoint and wait until it is whole on disk.

        Nothing happens when this very state is already there; another state of the same step is
        replaced.

        Args:
          state: step, prompt parameters and optimizer state; its step names the checkpoint.
          host_state: a small JSON-ready dict to keep beside it.

        Raises:
          ValueError: when `host_state` holds what JSON cannot.
        """
        step = int(state.step)
        leaves = _named_leaves(state)
        record = _seal({'format': _FORMAT, 'host': _json_copy(host_state or {}),
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
            state=args.StandardSave(leaves), host=args.JsonSave(record)))
        _list_files(self._folder / str(step))

    def restore_latest(self, template: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Read the newest checkpoint that is whole.

        A newer one that is damaged is reported in the log and renamed to `unusable-<step>`, so that
        the run can save at that step again.

        Args:
          template: a state with the structure, shapes, dtypes and shardings to restore into; its
            values are not used.

        Returns:
          The state, bit for bit as saved, and the host state; None when nothing was ever saved.

        Raises:
          ValueError: when checkpoints exist but none can be read, or when the newest readable one
            is of another structure than `template`.
        """
        reasons: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._restore(step, template)
            except _Unusable as error:
                reasons[step] = str(error)
                continue
            self._set_aside(reasons, step)
            return restored
        if reasons:
            listed = '; '.join(f'{step}: {reason}' for step, reason in reasons.items())
            raise ValueError(f'no checkpoint in {self._folder} can be read ({listed}); remove or '
                             'rename the folder to start afresh')
        return None

    def close(self) -> None:
        """Release what Orbax holds; the store cannot be used afterwards."""
        self._manager.close()

    def _restore(self, step: int, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Read one checkpoint, or raise _Unusable."""
        _check_files(self._folder / str(step))
        record = self._read_record(step)
        leaves = _named_leaves(template)
        _check_structure(record['leaves'], _spec(leaves), self._folder / str(step))
        # Whatever Orbax and TensorStore raise on damaged files, the checkpoint is not usable.
        try:
            abstract = jax.tree.map(_abstract, leaves)
            restored = self._manager.restore(step, args=self._ocp.args.Composite(
                state=self._ocp.args.StandardRestore(abstract)))['state']
        except Exception as error:
            raise _Unusable(first_line(error)) from error
        if _arrays_digest(restored) != record['arrays']:
            raise _Unusable('its arrays do not match their digest')
        structure = jax.tree.structure(template)
        state = jax.tree.unflatten(structure, [restored[name] for name in leaves])
        return state, record['host']

    def _read_record(self, step: int) -> dict[str, Any]:
        """Read what stands beside the arrays, or raise _Unusable."""
        try:
            record = self._manager.restore(step, args=self._ocp.args.Composite(
                host=self._ocp.args.JsonRestore()))['host']
        except Exception as error:
            raise _Unusable(first_line(error)) from error
        if not isinstance(record, dict) or record.get('digest') != _seal(record)['digest']:
            raise _Unusable('its host state does not match its digest')
        if record['format'] != _FORMAT:
            raise ValueError(f'checkpoint {self._folder / str(step)} has format '
                             f'{record["format"]!r}; expected {_FORMAT}: it was written by another '
                             'version of jax_prompt')
        return record

    def _set_aside(self, reasons: dict[int, str], used: int) -> None:
        """Report damaged checkpoints and rename them out of the way."""
        if not reasons:
            return
        for step, reason in reasons.items():
            _logger.warning('checkpoint %s is damaged (%s); using the one of step %d before it',
                            self._folder / str(step), reason, used)
            target = self._folder / f'{_UNUSABLE}{step}'
            if target.exists():
                target.rmtree()
            (self._folder / str(step)).rename(target)
        self._manager.reload()


class _Unusable(Exception):
    """A checkpoint is damaged; the message says how."""


def _list_files(folder) -> None:
    """Write the size and sha256 of each file of a finished checkpoint beside them."""
    files = {str(path.relative_to(folder)): _size_and_digest(path)
             for item in folder.iterdir() if item.is_dir() for path in _files_below(item)}
    # A run killed here leaves a whole checkpoint without the list; its own digest still guards it.
    unfinished = folder / f'{_FILES}.unfinished'
    unfinished.write_text(json.dumps(files, indent=1))
    unfinished.replace(folder / _FILES)


def _files_below(folder):
    """Every file below a folder; gs:// addresses know no recursive glob."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files_below(path)
        else:
            yield path


def _check_files(folder) -> None:
    """Raise _Unusable when a file is missing, or not as it was written."""
    try:
        files = json.loads((folder / _FILES).read_text())
    except (OSError, ValueError):
        return
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.exists():
            raise _Unusable(f'{name} is missing')
        got_size, got_digest = _size_and_digest(path)
        if got_size != size:
            raise _Unusable(f'{name} has {got_size} bytes instead of {size}')
        if got_digest != digest:
            raise _Unusable(f'{name} has been changed')


def _size_and_digest(path) -> list:
    content = path.read_bytes()
    return [len(content), hashlib.sha256(content).hexdigest()]


def _named_leaves(state: TrainState) -> dict[str, Any]:
    """The arrays of a state by their paths: what is stored does not depend on optax's classes."""
    return {jax.tree_util.keystr(path, simple=True, separator='.'): leaf
            for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}


def _abstract(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, 'sharding', None))


def _spec(leaves: dict[str, Any]) -> dict[str, list]:
    """Path -> [dtype, shape]."""
    return {name: [str(np.dtype(leaf.dtype)), list(leaf.shape)] for name, leaf in leaves.items()}


def _arrays_digest(leaves: dict[str, Any]) -> str:
    """Hash every byte of the arrays."""
    digest = hashlib.sha256()
    for name in sorted(leaves):
        digest.update(np.ascontiguousarray(leaves[name]).tobytes())
    return digest.hexdigest()


def _seal(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the digest of all else in it."""
    content = {key: value for key, value in record.items() if key != 'digest'}
    text = json.dumps(content, sort_keys=True)
    return content | {'digest': hashlib.sha256(text.encode()).hexdigest()}


def _json_copy(host_state: dict[str, Any]) -> dict[str, Any]:
    """The host state as it will come back from JSON."""
    try:
        return json.loads(json.dumps(host_state))
    except TypeError as error:
        raise ValueError(f'host state cannot be saved ({error}); expected what JSON can hold: '
                         'strings, numbers, booleans, None, lists and dicts of these') from error


def _check_structure(saved: dict[str, list], wanted: dict[str, list], where) -> None:
    """Raise the ValueError for a checkpoint of another prompt or another optimizer."""
    for name in sorted(saved.keys() | wanted.keys()):
        got, expected = saved.get(name), wanted.get(name)
        if got != expected:
            raise ValueError(
                f'checkpoint {where} has {_describe(got)} for {name!r} but this run needs '
                f'{_describe(expected)}; it is of another configuration: use the configuration '
                'it was made with, or another folder')


def _describe(spec: list | None) -> str:
    return 'nothing' if spec is None else f'{spec[0]}{spec[1]}'


def _alone(ocp):
    """Tell Orbax not to wait for processes that do not take part."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
