"""What stands behind the routes: an engine, its folder of prompts, and the queue before it."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from jax_prompt.inference.batching import Shapes
from jax_prompt.inference.calibration import content_free_rows, content_free_scores
from jax_prompt.inference.decodings import beam_decodings
from jax_prompt.inference.engine import Engine, UnknownPrompt
from jax_prompt.inference.ensemble import VOTE, together
from jax_prompt.inference.generate import check_beams
from jax_prompt.inference.rank import LabelSet
from jax_prompt.inference.rows import Prediction, Row, ServedPrompt
from jax_prompt.models.open import OpenedModel
from jax_prompt.prompts.nearest import nearest_words
from jax_prompt.prompts.versions import BadName
from jax_prompt.serving.batching import Batcher, Busy
from jax_prompt.serving.canary import version_for
from jax_prompt.serving.metrics import Metrics, add_gauges
from jax_prompt.serving.prompt_folder import Exists, PromptFolder, Version
from jax_prompt.serving.settings import ServerSettings
from jax_prompt.serving.telemetry import Telemetry
from jax_prompt.serving.watching import repeat

_log = logging.getLogger(__name__)

STARTING, READY, DRAINING = 'starting', 'ready', 'draining'
#: What labels score without an input is remembered for so many prompts and sets of labels.
_MOST_MEASURED = 1024

T = TypeVar('T')


class Refused(Exception):
    """A request that is not answered, with the status of HTTP that says whose fault it is.

    503: nothing can be answered now, but later; 504: there was no answer in time; 409: it asks for
    what its prompt, or the model, cannot do; the others see `limits`.
    """

    def __init__(self, status: int, detail: str):
        super().__init__(detail)
        self.status, self.detail = status, detail


class Service:
    """Answer requests; used as a context, in which its threads run.

    Attributes:
      engine, folder, batcher, metrics, telemetry, settings: its parts.
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
        self.folder = PromptFolder(self.engine, prompts, settings.warm_up_length,
                                   self._stop.is_set)
        self.batcher = Batcher(self.engine, settings.max_wait, settings.max_queue,
                               self.metrics.note_batch)
        self.telemetry = Telemetry(self.metrics, opened.vocabulary.unk_id, settings)
        self._has_started = self._is_draining = False
        #: Programs that are still to compile, of those that requests will need; None until known.
        self.programs_left: int | None = None
        self._making = 0
        # Digest of a prompt and its labels -> what they score without an input.
        self._measured: dict[tuple[str, tuple[str, ...]], np.ndarray] = {}
        # Promotions do not wait for what a new prompt needs compiled.
        self._watchers = [threading.Thread(target=repeat, name=name, daemon=True, args=(
            look, settings.poll, self._stop, f'the folder of prompts {self.folder.path}'))
            for name, look in (('prompts', self._refresh), ('promotions', self.folder.follow))]
        add_gauges(self.metrics, self)

    def __enter__(self) -> 'Service':
        self.telemetry.__enter__()
        self.batcher.__enter__()
        for watcher in self._watchers:
            watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.batcher.stop()
        # A thread that still compiles while Python ends would take the process down with it.
        for watcher in self._watchers:
            watcher.join()
        self.telemetry.__exit__()

    @property
    def state(self) -> str:
        """Return 'starting' until the prompts and the first program are there, then 'ready', and
        'draining' once it shall end. See `programs_left` for the others.
        """
        if self._is_draining:
            return DRAINING
        return READY if self._has_started else STARTING

    def drain(self) -> None:
        """Say that the end is near; requests are still answered."""
        self._is_draining = True

    def prompt(self, name: str | None, inputs: str | Mapping[str, Any] | None = None,
               ) -> tuple[ServedPrompt, str | None]:
        """Return what the prompt of a request to the model means now, and its full name.

        Args:
          name: 'name' or 'name@version'; None for the plain model.
          inputs: of the request, where a canary may get a share of those that name no version.

        Raises:
          Refused: the server has not started.
          BadName, UnknownPrompt: there is none of that name.
        """
        self._check_started()
        if name is None:
            return self.engine.plain, None
        version = self.folder.find(name) if inputs is None else version_for(
            self.folder, name, inputs)
        return version.prompt, version.full_name

    def find(self, name: str) -> Version:
        """Return what 'name' or 'name@version' means now.

        Raises:
          Refused: it is not there, and may be once the server has started.
          BadName, UnknownPrompt: there is none of that name.
        """
        try:
            return self.folder.find(name)
        except UnknownPrompt:
            self._check_started()
            raise

    def _check_started(self) -> None:
        if not self._has_started:
            raise Refused(503, 'the server is still compiling; see /readyz')

    @contextlib.contextmanager
    def changing_folder(self) -> Iterator[PromptFolder]:
        """Give the folder to who changes it, unless that would wait for minutes.

        Raises:
          Refused: the server still compiles for the prompts that are there, what is uploaded cannot
            be used, or the folder cannot be written to.
        """
        self._check_started()
        if self.programs_left:
            raise Refused(503, f'the server has {self.programs_left} programs left to compile; see '
                          '/readyz')
        try:
            yield self.folder
        except (BadName, Exists, UnknownPrompt):
            raise
        except ValueError as error:
            raise Refused(409, str(error)) from error
        except OSError as error:
            _log.warning('the folder of prompts %s cannot be changed: %s', self.folder.path, error)
            raise Refused(503, 'the folder of prompts cannot be changed now: '
                          f'{error.strerror or type(error).__name__}; try again later') from error

    def label_set(self, words: Sequence[str], prompt: ServedPrompt | None = None) -> LabelSet:
        """Spell a request's own labels.

        Args:
          words, prompt: the labels, and what they are asked of.

        Raises:
          ValueError: they cannot be told apart, or are more or longer than is compiled for.
        """
        labels = self.engine.label_set(words, prompt)
        most = self.engine.shapes.labels[-1]
        if labels.shape[0] > most[0] or labels.shape[1] > most[1]:
            raise ValueError(f'{labels.shape[0]} labels of up to {labels.shape[1]} tokens; '
                             f'expected at most {most[0]} of {most[1]}, end tokens included')
        return labels

    async def answer(self, make_rows: Callable[[], list[Row]], calibrate: bool = False,
                     combine: str = VOTE) -> tuple[Row, Prediction]:
        """Answer one input.

        Args:
          make_rows: makes its row, or one for each member of an ensemble, on a thread aside.
          calibrate: whether to take away, by its `Calibration`, what its labels score without an
            input.
          combine: how the members' answers become one.

        Returns:
          The first row and the answer.

        Raises:
          Refused: the row cannot be made, its prompt gives no answer, or there was none in time.
          Busy, Stopped: the queue is full or closed.
          BatchFailed: the engine failed.
        """
        try:
            async with asyncio.timeout(self.settings.time_limit):
                rows = await self._make(make_rows)
                if calibrate:
                    rows = [dataclasses.replace(row, options=dataclasses.replace(
                        row.options, content_free_C=await self._measure(row))) for row in rows]
                answers = await self._ask(rows)
                return rows[0], answers[0] if len(rows) == 1 else together(answers, combine)
        except TimeoutError:
            raise Refused(504, f'no answer within {self.settings.time_limit:g} seconds') from None

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
            raise Refused(409, str(error)) from error
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
            raise Refused(409, str(error)) from error
        finally:
            for answer in answers:
                answer.cancel()

    async def _measure(self, row: Row) -> np.ndarray:
        """Return what a row's labels score without an input, float64[C]; asked of the model once.

        Requests that ask for it before it is known ask the model each for itself.
        """
        key = row.prompt.digest, row.labels.words
        if key not in self._measured:
            rows = await self._make(lambda: content_free_rows(self.engine, row.prompt, row.labels))
            self._measured[key] = content_free_scores(await self._ask(rows))
            while len(self._measured) > _MOST_MEASURED:
                del self._measured[next(iter(self._measured))]
        return self._measured[key]

    def nearest(self, version: Version, count: int) -> list[list[tuple[str, float]]]:
        """Return for each row of a prompt its nearest words, with their cosines.

        Args:
          version: of the prompt.
          count: how many words.

        Returns:
          A list of (word, cosine) for each row, the nearest first.
        """
        opened, prompt = self.engine.opened, version.prompt.file.prompt
        ids, cosines = nearest_words(
            prompt.virtual, opened.model.embedding_table(opened.frozen), count,
            num_special_ids=0, num_words=opened.vocabulary.vocab_size)
        return [[(opened.vocabulary.word(token), cosine)
                 for token, cosine in zip(*row, strict=True)]
                for row in zip(ids.tolist(), cosines.tolist(), strict=True)]

    def _refresh(self) -> None:
        """Take prompts into use, and the first time compile what requests will need."""
        self.folder.refresh(warm_up=self.programs_left is not None)
        if self.programs_left is None:
            self._start()

    def _start(self) -> None:
        """Compile what requests will need, and let them come once the first program is there."""
        first = None

        def told(left: int) -> None:
            nonlocal first
            first = left if first is None else first
            self.programs_left = left
            if not self._has_started and (left < first or not left):
                self._has_started = True
                _log.info('ready: %d prompts; %d programs are left to compile',
                          len(self.engine.prompts), left)

        try:
            self.engine.warm_up(longest=self.settings.warm_up_length, stop=self._stops, told=told)
        except Exception:  # requests are told each for itself what fails
            _log.exception('not all programs could be compiled')
        if not self._stop.is_set():
            told(0)
            _log.info('%d programs are compiled', self.engine.compilations)

    def _stops(self) -> bool:
        """Let programs that requests wait for be compiled first; tell whether to leave it there."""
        while self.batcher.compiles and not self._stop.wait(0.05):
            pass
        return self._stop.is_set()
