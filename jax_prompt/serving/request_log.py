"""A sample of the requests, on disk, for `jax-prompt monitor`; nothing is kept unless asked for.

Texts are what people wrote, so they are kept only where that is asked for as well: without them the
log holds lengths, answers among the task's labels, and how sure they are.
"""

import contextlib
import datetime
import json
import logging
import logging.handlers
import queue
import re
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax_prompt.files import first_line, locked, write_file

_log = logging.getLogger(__name__)

#: The file that says what the others hold.
ABOUT = 'about.json'
#: What a line may hold.
KEYS = {
    'time': 'when the answer was given, UTC',
    'prompt': 'NAME@VERSION that answered',
    'digest': 'of the content of that version',
    'tokens': 'of the input as the model reads it, the end token included, virtual tokens not',
    'unknown': 'those among them that the vocabulary does not know',
    'label': 'the answer, one of the labels of the task',
    'confidence': 'the probability of that label among them, not calibrated',
    'words': 'of the answer, of a prompt that writes text',
}
TEXTS = {
    'inputs': "the request's text or columns, as they came",
    'answer': 'the text that was written, of a prompt that writes text',
}
#: The log is a file that is written to and others before it, all of one size: the oldest goes when
#: the limit is reached.
_FILES = 8
#: Lines that may wait for the disk; those that come then are dropped and counted.
_WAITING = 1000


class RequestLog:
    """Write lines into a folder, on a thread of its own; used as a context.

    A disk that is full or slow costs lines, no requests.

    Attributes:
      folder, texts: as given.
      written: lines so far.
    """

    def __init__(self, folder: str, share: float, limit: int, texts: bool):
        """Say where to, how much and what.

        Args:
          folder: is made where it is not there, for its owner alone.
          share: of the requests, for `about.json`; who calls `write` chooses them.
          limit: bytes of all files together.
          texts: keep inputs and written answers too.
        """
        self.folder, self.texts = Path(folder), texts
        self._about = {
            'what': 'a sample of the requests that jax-prompt serve answered, a JSON object a line',
            'share': share, 'limit_bytes': limit, 'texts': texts,
            'keys': KEYS | (TEXTS if texts else {})}
        host = re.sub('[^A-Za-z0-9_.-]', '_', socket.gethostname())
        self._path = self.folder / f'requests.{host}.jsonl'
        self._limit = limit
        self._lines: queue.Queue[str | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._write_all, name='request log', daemon=True)
        self._stack = contextlib.ExitStack()
        self.written = self._full = self._failed = 0

    def __enter__(self) -> 'RequestLog':
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._stack.enter_context(locked(self._path.with_suffix('.lock'), 'writing the log of '
                                         f'requests {self._path}'))
        write_file(self.folder / ABOUT, (json.dumps(self._about, indent=1) + '\n').encode(),
                   overwrite=True)
        self._thread.start()
        _log.info('a sample of %g of the requests is kept in %s, up to %d bytes: %s', self._about[
            'share'], self.folder, self._limit, ', '.join(self._about['keys']))
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.put(None)
        self._thread.join()
        self._stack.close()

    @property
    def dropped(self) -> int:
        """Return how many lines were lost, since too many waited or they could not be written."""
        return self._full + self._failed

    def write(self, record: Mapping[str, Any]) -> None:
        """Put a line into the queue; never waits.

        Args:
          record: with some of `KEYS`, and of `TEXTS` where texts are kept; 'time' is added.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec='milliseconds')
        try:
            self._lines.put_nowait(json.dumps({'time': now, **record}, ensure_ascii=False))
        except queue.Full:
            self._full += 1

    def _write_all(self) -> None:
        """Write what waits, until there is None."""
        handler = logging.handlers.RotatingFileHandler(
            self._path, maxBytes=max(1, self._limit // _FILES), backupCount=_FILES - 1,
            encoding='utf-8', errors='backslashreplace', delay=True)
        handler.setFormatter(logging.Formatter('%(message)s'))
        handler.handleError = self._note_failure
        while (line := self._lines.get()) is not None:
            failed = self._failed
            handler.emit(logging.makeLogRecord({'msg': line}))
            self.written += self._failed == failed
        handler.close()

    def _note_failure(self, record: logging.LogRecord) -> None:
        """Count a line that could not be written; the first one is told of."""
        del record
        self._failed += 1
        if self._failed == 1:
            _log.warning('the log of requests %s cannot be written, and loses lines: %s',
                         self._path, first_line(sys.exception()))
