"""What stands behind the routes: an engine, its folder of prompts, and the queue before it."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence

import numpy as np

from jax_prompt.inference.decodings import beam_decodings
from jax_prompt.inference.engine import Engine
from jax_prompt.inference.prediction import Prediction
from jax_prompt.inference.row_labels import LabelSet
from jax_prompt.inference.rows import OpenedModel, Row, ServedPrompt
from jax_prompt.inference.shapes import Shapes
from jax_prompt.prompts.nearest import nearest_words
from jax_prompt.serving.batcher import Batcher
from jax_prompt.serving.metrics import Metrics
from jax_prompt.serving.prompt_folder import PromptFolder, Version
from jax_prompt.serving.settings import ServerSettings

_log = logging.getLogger(__name__)

STARTING, READY, DRAINING = 'starting', 'ready', 'draining'


class Unavailable(Exception):
    """Nothing can be answered now; it may be later."""


class TooLate(Exception):
    """There was no answer in time."""


class Service:
    """Answer requests; used as a context, in which its threads run.

    Attributes:
      state: 'starting' until the prompts are there and their programs compiled, 'ready', and
        'draining' once it shall end.
      engine, folder, batcher, metrics, settings: its parts.
    """

    def __init__(self, opened: OpenedModel, prompts: str | os.PathLike, settings: ServerSettings,
                 shapes: Shapes | None = None):
        """Put the parts together.

        Args:
          opened: the frozen model.
          prompts: the folder of prompts.
          settings: limits.
          shapes: of batches; None for those that the settings' batch size gives.

        Raises:
          FileNotFoundError: there is no such folder.
        """
        shapes = shapes or Shapes.for_batches_of(
            settings.batch_size, labels=((2, 2), (8, 4), (64, 8)), shared_labels=1)
        self.settings, self.metrics = settings, Metrics()
        self._stop = threading.Event()
        self.engine = Engine(opened, shapes, decodings=beam_decodings(settings.num_beams))
        self.folder = PromptFolder(self.engine, prompts, settings.kept_versions,
                                   settings.warm_up_length, self._stop.is_set)
        self.batcher = Batcher(self.engine, settings.max_wait, settings.max_queue,
                               self.metrics.note_batch)
        self.state = STARTING
        self._watcher = threading.Thread(target=self._watch_folder, name='prompts', daemon=True)
        self._nearest: dict[tuple[str, int], list] = {}
        self._add_gauges()

    def __enter__(self) -> 'Service':
        self.batcher.__enter__()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.batcher.stop()
        # A thread that still compiles while Python ends would take the process down with it.
        self._watcher.join()

    def drain(self) -> None:
        """Say that the end is near; requests are still answered."""
        self.state = DRAINING

    def prompt(self, name: str | None) -> tuple[ServedPrompt, str | None]:
        """Return what a request's prompt means now, and its full name.

        Raises:
          BadName, UnknownPrompt: there is none of that name.
        """
        if name is None:
            return self.engine.plain, None
        version = self.folder.find(name)
        return version.prompt, version.full_name

    def label_set(self, words: Sequence[str]) -> LabelSet:
        """Spell a request's own labels.

        Raises:
          ValueError: they cannot be told apart, or are more or longer than is compiled for.
        """
        labels = self.engine.label_set(words)
        most = self.engine.shapes.labels[-1]
        if labels.shape[0] > most[0] or labels.shape[1] > most[1]:
            raise ValueError(f'{labels.shape[0]} labels of up to {labels.shape[1]} tokens; '
                             f'expected at most {most[0]} of {most[1]}, end tokens included')
        return labels

    async def answer(self, make_row: Callable[[], Row]) -> tuple[Row, Prediction]:
        """Answer one row.

        Args:
          make_row: makes it, on a thread aside.

        Raises:
          Unavailable: the server is starting.
          Busy, Stopped: the queue is full or closed.
          TooLate: there was no answer in time.
        """
        if self.state == STARTING:
            raise Unavailable('the server is still compiling; see /readyz')
        row = await asyncio.to_thread(make_row)
        waiting = asyncio.wrap_future(self.batcher.submit(row))
        try:
            return row, await asyncio.wait_for(waiting, self.settings.time_limit)
        except TimeoutError:
            raise TooLate(f'no answer within {self.settings.time_limit:g} seconds') from None

    def nearest(self, version: Version, count: int) -> list[list[tuple[str, float]]]:
        """Return for each row of a prompt its nearest words, with their cosines."""
        key = version.prompt.digest, count
        if key not in self._nearest:
            opened = self.engine.opened
            table = opened.frozen['token_embedder']['embedding']
            ids, cosines = nearest_words(version.prompt.file.prompt_PD, table, count,
                                         num_special_ids=0,
                                         num_words=opened.vocabulary.vocab_size)
            while len(self._nearest) >= 256:
                self._nearest.pop(next(iter(self._nearest)))
            self._nearest[key] = [
                [(self._word(token), float(cosine)) for token, cosine in zip(*row, strict=True)]
                for row in zip(ids, cosines, strict=True)]
        return self._nearest[key]

    def _word(self, token: int) -> str:
        """Return a vocabulary entry as one can read it."""
        return self.engine.opened.vocabulary.decode([int(np.int32(token))]) or f'[{token}]'

    def _watch_folder(self) -> None:
        """Take prompts into use, now and whenever the folder changes."""
        while True:
            try:
                self.folder.refresh()
            except Exception:
                _log.exception('the folder of prompts %s cannot be read', self.folder.path)
            if self.state == STARTING and not self._stop.is_set():
                self.state = READY
                _log.info('ready: %d prompts, %d programs compiled',
                          len(self.engine.prompts), self.engine.compilations)
            if self._stop.wait(self.settings.poll):
                return

    def _add_gauges(self) -> None:
        gauge = self.metrics.gauge
        gauge('queue_rows', 'Rows that wait for a batch.', lambda: self.batcher.waiting)
        gauge('unanswered_rows', 'Rows waiting or being worked on.',
              lambda: self.batcher.unanswered)
        gauge('prompts', 'Versions of prompts in use.', lambda: len(self.engine.prompts))
        gauge('prompt_table_free_rows', 'Rows of the prompt table that no prompt holds.',
              lambda: self.engine.table.free_rows)
        gauge('compiled_programs', 'Programs compiled so far.', lambda: self.engine.compilations)
        gauge('ready', '1 where /readyz says so.', lambda: float(self.state == READY))
