"""What stands behind the routes: an engine, its folder of prompts, and the queue before it."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from jax_prompt.inference.content_free import content_free_rows, content_free_scores
from jax_prompt.inference.decodings import beam_decodings
from jax_prompt.inference.engine import Engine, UnknownPrompt
from jax_prompt.inference.generate import check_beams
from jax_prompt.inference.prediction import Prediction
from jax_prompt.inference.row_labels import LabelSet
from jax_prompt.inference.rows import OpenedModel, Row, ServedPrompt
from jax_prompt.inference.shapes import Shapes
from jax_prompt.serving.batcher import Batcher, Busy
from jax_prompt.serving.content_free import ContentFree
from jax_prompt.serving.metrics import Metrics
from jax_prompt.serving.names import BadName
from jax_prompt.serving.nearest import NearestWords
from jax_prompt.serving.prompt_folder import Exists, PromptFolder, Version
from jax_prompt.serving.settings import ServerSettings

_log = logging.getLogger(__name__)

STARTING, READY, DRAINING = 'starting', 'ready', 'draining'

T = TypeVar('T')


class Unavailable(Exception):
    """Nothing can be answered now; it may be later."""


class TooLate(Exception):
    """There was no answer in time."""


class Unfit(ValueError):
    """A request asks for what its prompt, or the model, cannot do."""


class Service:
    """Answer requests; used as a context, in which its threads run.

    Attributes:
      engine, folder, batcher, metrics, settings, nearest: its parts.
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
          ValueError: the model cannot search with so many beams.
        """
        if settings.num_beams > 1:
            check_beams(opened.model, settings.num_beams)
        shapes = shapes or Shapes.for_batches_of(
            settings.batch_size, labels=((2, 2), (8, 4), (64, 8)), shared_labels=1)
        self.settings, self.metrics = settings, Metrics()
        self._stop = threading.Event()
        self.engine = Engine(opened, shapes, settings.prompt_rows,
                             beam_decodings(settings.num_beams))
        self.folder = PromptFolder(self.engine, prompts, settings.kept_versions,
                                   settings.warm_up_length, self._stop.is_set)
        self.batcher = Batcher(self.engine, settings.max_wait, settings.max_queue,
                               self.metrics.note_batch)
        self._has_started = self._is_draining = False
        self._making = 0
        self._content_free = ContentFree(self._measure)
        self._watcher = threading.Thread(target=self._watch_folder, name='prompts', daemon=True)
        self.nearest = NearestWords(self.engine)
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

    @property
    def state(self) -> str:
        """Return 'starting' until the prompts are there and their programs compiled, then 'ready',
        and 'draining' once it shall end.
        """
        if self._is_draining:
            return DRAINING
        return READY if self._has_started else STARTING

    def drain(self) -> None:
        """Say that the end is near; requests are still answered."""
        self._is_draining = True

    def prompt(self, name: str | None) -> tuple[ServedPrompt, str | None]:
        """Return what the prompt of a request to the model means now, and its full name.

        Args:
          name: 'name' or 'name@version'; None for the plain model.

        Raises:
          Unavailable: the server has not started.
          BadName, UnknownPrompt: there is none of that name.
        """
        self._check_started()
        if name is None:
            return self.engine.plain, None
        version = self.folder.find(name)
        return version.prompt, version.full_name

    def find(self, name: str) -> Version:
        """Return what 'name' or 'name@version' means now.

        Raises:
          Unavailable: it is not there, and may be once the server has started.
          BadName, UnknownPrompt: there is none of that name.
        """
        try:
            return self.folder.find(name)
        except UnknownPrompt:
            self._check_started()
            raise

    def _check_started(self) -> None:
        if not self._has_started:
            raise Unavailable('the server is still compiling; see /readyz')

    def upload(self, name: str, content: bytes) -> tuple[Version, bool]:
        """Add a version of a prompt; see `PromptFolder.upload`.

        Args:
          name: 'name@version', or 'name' for the next whole number.
          content: of a prompt file.

        Returns:
          The version, and whether it is new.

        Raises:
          Unavailable: the server has not started, or the folder cannot be written to.
          BadName, Exists: there can be no such name, or it has another content.
          Unfit: this is no prompt file, it does not fit the model, or it is too large.
        """
        with self._changing_folder():
            try:
                return self.folder.upload(name, content)
            except (BadName, Exists):
                raise
            except ValueError as error:
                raise Unfit(str(error)) from error

    def remove(self, name: str) -> list[str]:
        """Delete a version, or all of a prompt; see `PromptFolder.remove`.

        Args:
          name: 'name@version', or 'name' for all versions.

        Returns:
          The full names of what was removed.

        Raises:
          Unavailable: the server has not started, or the folder cannot be written to.
          BadName, UnknownPrompt: there is none of that name.
        """
        with self._changing_folder():
            return self.folder.remove(name)

    @contextlib.contextmanager
    def _changing_folder(self) -> Iterator[None]:
        """Refuse changes that would wait for minutes, or that the folder does not take."""
        self._check_started()
        try:
            yield
        except OSError as error:
            _log.warning('the folder of prompts %s cannot be changed: %s', self.folder.path, error)
            raise Unavailable('the folder of prompts cannot be changed now: '
                              f'{error.strerror or type(error).__name__}; try again later'
                              ) from error

    def label_set(self, words: Sequence[str]) -> LabelSet:
        """Spell a request's own labels.

        Args:
          words: the labels.

        Raises:
          ValueError: they cannot be told apart, or are more or longer than is compiled for.
        """
        labels = self.engine.label_set(words)
        most = self.engine.shapes.labels[-1]
        if labels.shape[0] > most[0] or labels.shape[1] > most[1]:
            raise ValueError(f'{labels.shape[0]} labels of up to {labels.shape[1]} tokens; '
                             f'expected at most {most[0]} of {most[1]}, end tokens included')
        return labels

    async def answer(self, make_row: Callable[[], Row],
                     calibrate: bool = False) -> tuple[Row, Prediction]:
        """Answer one row.

        Args:
          make_row: makes it, on a thread aside.
          calibrate: whether to take away, by its `Calibration`, what its labels score without an
            input.

        Returns:
          The row and its answer.

        Raises:
          Unfit: the row cannot be made, or its prompt gives no answer.
          Busy, Stopped: the queue is full or closed.
          TooLate: there was no answer in time.
          BatchFailed: the engine failed.
        """
        try:
            async with asyncio.timeout(self.settings.time_limit):
                row = await self._make(make_row)
                if calibrate:
                    row = dataclasses.replace(row, options=dataclasses.replace(
                        row.options, content_free_C=await self._content_free.of(row)))
                answer, = await self._ask([row])
                return row, answer
        except TimeoutError:
            raise TooLate(f'no answer within {self.settings.time_limit:g} seconds') from None

    async def _make(self, make: Callable[[], T]) -> T:
        """Make rows on a thread aside, for so many requests at a time as may wait in the queue.

        If they cannot be made it is the request's fault; any other ValueError is the server's.
        """
        if self._making >= self.settings.max_queue:
            raise Busy(f'{self._making} requests are waiting; try again later')
        self._making += 1
        try:
            return await asyncio.to_thread(make)
        except ValueError as error:
            raise Unfit(str(error)) from error
        finally:
            self._making -= 1

    async def _ask(self, rows: Sequence[Row]) -> list[Prediction]:
        """Answer rows; those that wait are called off where not all can be answered."""
        answers = []
        try:
            for row in rows:
                answers.append(self.batcher.submit(row))
            return await asyncio.gather(*map(asyncio.wrap_future, answers))
        except ValueError as error:
            raise Unfit(str(error)) from error
        finally:
            for answer in answers:
                answer.cancel()

    async def _measure(self, row: Row) -> np.ndarray:
        """Return what a row's labels score without an input, float64[C]."""
        rows = await self._make(lambda: content_free_rows(self.engine, row.prompt, row.labels))
        return content_free_scores(await self._ask(rows))

    def _watch_folder(self) -> None:
        """Take prompts into use, now and whenever the folder changes."""
        problem = None  # said once, not at every look
        while True:
            try:
                self.folder.refresh()
            except Exception as error:
                if problem != (problem := str(error)):
                    _log.warning('the folder of prompts %s cannot be read, and what it held stays '
                                 'in use: %s', self.folder.path, error,
                                 exc_info=None if isinstance(error, OSError) else error)
            else:
                if problem is not None:
                    _log.info('the folder of prompts %s can be read again', self.folder.path)
                    problem = None
                self._note_started()
            if self._stop.wait(self.settings.poll):
                return

    def _note_started(self) -> None:
        if not self._has_started and not self._stop.is_set():
            self._has_started = True
            _log.info('ready: %d prompts, %d programs compiled', len(self.engine.prompts),
                      self.engine.compilations)

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
