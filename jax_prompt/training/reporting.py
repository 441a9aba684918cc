"""How a run speaks to those who come later: its metrics, on disk.

`metrics.jsonl` is the record; TensorBoard events repeat it and the curves are drawn from it. A run
that was killed and resumed leaves the same lines as one that never stopped.
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from jax_prompt.files import write_file
from jax_prompt.parallel.hosts import check_together, is_first

METRICS_FILE = 'metrics.jsonl'
TENSORBOARD_FOLDER = 'tensorboard'
#: Between a heading and a metric in the names of what was measured at a run's end.
HEADING_END = ', '


class MetricsLog:
    """Appends metrics to `metrics.jsonl` and to TensorBoard events.

    Each line of the file is one JSON object: `{"step": 100, "split": "validation", "name":
    "accuracy", "value": 0.83}`. JSON has no NaN and no infinity, so a value that is not finite is
    written as null. Where a run has several tasks, "task" names it. Lines reach the operating
    system at once, so that a killed process loses none but the one being written.

    Write a step's metrics before its checkpoint is saved: then a resumed run finds every line up to
    its checkpoint, drops the later ones and writes them again, and none is missing or doubled. A
    checkpoint that keeps the log's digest lets the resumed run see that they are what was written.

    Events go to the folder `tensorboard/`. Those that a killed run wrote beyond its last checkpoint
    stay there; the resumed run repeats the same points over them.

    Of several hosts of one run the first alone writes; on the others nothing happens.

    Example:
        with MetricsLog(run_folder) as log:
            log.write(100, 'train', {'loss': 0.42, 'accuracy': 0.81})

    Args:
        folder: the run's folder; made if it is not there.
        resume_step: None for a new run, which starts an empty file. The step of the restored
            checkpoint for a resumed one, which keeps the lines up to and including this step.
        digest: of the log when that checkpoint was saved; None to take its lines as they are.
        tensorboard: whether to write TensorBoard events too.

    Raises:
        ValueError: the lines up to the checkpoint are not those that were written.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        resume_step: int | None = None,
        digest: str | None = None,
        tensorboard: bool = True,
    ):
        self._folder, self._file, self._events = pathlib.Path(folder), None, None
        self._tensorboard, self._hash = tensorboard, hashlib.sha256()
        check_together(lambda: self._begin(resume_step, digest))

    def _begin(self, resume_step: int | None, digest: str | None) -> None:
        """Open the file behind the lines that are kept."""
        if not is_first():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / METRICS_FILE
        kept = '' if resume_step is None else ''.join(
            map(_line, _records_up_to(path, resume_step)))
        self._hash.update(kept.encode())
        if digest not in (None, self.digest):
            raise ValueError(f'{path} is not what this run wrote up to step {resume_step}, from '
                             'which it would go on; put it back as it was, or train afresh in '
                             'another folder')
        write_file(path, kept.encode(), overwrite=True)
        self._file = open(path, 'a', encoding='utf-8')

    @property
    def digest(self) -> str:
        """Return what tells the lines so far, without what was measured at an end."""
        return self._hash.hexdigest()

    def write(self, step: int, split: str, metrics: Mapping[str, Any], task: str = '') -> None:
        """Write one line for each metric.

        Args:
            step: optimizer steps done so far.
            split: `train`, `validation` or `test`.
            metrics: name -> number (anything that `float` takes, a 0-d array included).
            task: which they are of, in a run of several.
        """
        if self._file is None:
            return
        values = {name: float(value) for name, value in metrics.items()}
        of = {'task': task} if task else {}
        records = [{'step': int(step), 'split': split, **of, 'name': name, 'value': value}
                   for name, value in values.items()]
        self._file.write(''.join(map(_line, records)))
        self._hash.update(''.join(map(_line, filter(_is_kept, records))).encode())
        self._file.flush()
        if self._tensorboard:
            self._write_events(int(step), f'{task}/{split}' if task else split, values)

    def _write_events(self, step: int, split: str, values: dict[str, float]) -> None:
        """Write the metrics as TensorBoard scalars named `split/name`, or `task/split/name`."""
        # costs those who train a fifth of a second
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary
        from tensorboardX.record_writer import RecordWriter

        # Its SummaryWriter leaves the writing to a thread, which dies of a full disk and is waited
        # for without end.
        if self._events is None:
            folder = self._folder / TENSORBOARD_FOLDER
            folder.mkdir(exist_ok=True)
            self._events = RecordWriter(
                str(folder / f'events.out.tfevents.{time.time():.6f}.{os.getpid()}'))
            self._events.write(Event(wall_time=time.time(), file_version='brain.Event:2')
                               .SerializeToString())
        summary = Summary(value=[Summary.Value(tag=f'{split}/{name}', simple_value=value)
                                 for name, value in values.items()])
        self._events.write(Event(wall_time=time.time(), step=step, summary=summary)
                           .SerializeToString())

    def flush(self) -> None:
        """Put everything written so far on disk; call it before a checkpoint is saved."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flush and close the files, all of them on a full disk too."""
        files, self._file, self._events = (self._file, self._events), None, None
        with contextlib.ExitStack() as closing:
            for file in filter(None, files):
                closing.callback(file.close)

    def __enter__(self) -> 'MetricsLog':
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Read a `metrics.jsonl`.

    A half-written last line, which a killed run leaves, is ignored.

    Returns:
        The records in the order of the file; a value that was not finite is NaN.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line before the last is not a metric.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no metrics at {path}: expected the {METRICS_FILE} of a run')
    lines = path.read_bytes().split(b'\n')
    # What follows the last line end is empty, or was being written when the run was killed.
    whole = enumerate(lines[:-1], 1)
    return [_parse(line, f'{path}:{number}') for number, line in whole if line.strip()]


def _records_up_to(path: pathlib.Path, step: int) -> list[dict[str, Any]]:
    """Read what a run resumed from a step keeps of its records; none if it has no file yet."""
    if not path.is_file():
        return []
    return [record for record in read_metrics(path)
            if record['step'] <= step and _is_kept(record)]


def _is_kept(record: dict[str, Any]) -> bool:
    """Say whether a resumed run keeps a record: what was measured at an end it measures again."""
    return HEADING_END not in record['name']


def _line(record: dict[str, Any]) -> str:
    """Format a record as its line of JSON; a value that is not finite becomes null."""
    value = record['value'] if math.isfinite(record['value']) else None
    return json.dumps({**record, 'value': value}, allow_nan=False, ensure_ascii=False) + '\n'


def _parse(line: bytes, where: str) -> dict[str, Any]:
    """Parse a line of metrics."""
    try:
        record = json.loads(line)
        value = math.nan if record['value'] is None else float(record['value'])
        step, split, name = int(record['step']), str(record['split']), str(record['name'])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'{where} is not a metric: got {line[:60]!r}, expected a JSON object with step, split, '
            'name and value; mend or remove this line'
        ) from error
    of = {'task': str(record['task'])} if 'task' in record else {}
    return {'step': step, 'split': split, **of, 'name': name, 'value': value}
