"""What is known of each answer: metrics by version of a prompt, and the sampled log of requests."""

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jax_prompt.inference.rows import Prediction, Row, ServedPrompt
from jax_prompt.serving.batching import Busy, Stopped
from jax_prompt.serving.metrics import Metrics
from jax_prompt.serving.request_log import RequestLog
from jax_prompt.serving.settings import ServerSettings

#: Stands for all ensembles in metrics: which prompts they name is for requests to say.
ENSEMBLE = 'ensemble'


class Telemetry:
    """Take answers down, with what the prompt's own task says of them; used as a context."""

    def __init__(self, metrics: Metrics, unknown_id: int | None, settings: ServerSettings,
                 draw: Callable[[], float] = random.random):
        """Say where to.

        Args:
          metrics: of the server.
          unknown_id: the vocabulary's; None where it has none.
          settings: whether there is a log, and which share of the answered requests it gets.
          draw: gives numbers between 0 and 1, all of them as often.
        """
        self._metrics, self._unknown_id = metrics, unknown_id
        self._share, self._draw = settings.log_share, draw
        self._log = None if settings.log is None else RequestLog(
            settings.log, settings.log_share, settings.log_limit, settings.log_texts)

    def __enter__(self) -> 'Telemetry':
        if self._log is not None:
            self._log.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._log is not None:
            self._log.__exit__()

    @property
    def lines(self) -> tuple[int, int]:
        """Return how many lines of the log were written, and how many were lost."""
        return (0, 0) if self._log is None else (self._log.written, self._log.dropped)

    @contextlib.contextmanager
    def request(self, prompts: Sequence[ServedPrompt], name: str | None,
                inputs: str | Mapping[str, Any]) -> Iterator[Callable[[Row, Prediction], None]]:
        """Watch a request be answered.

        Args:
          prompts: that answer it, several for an ensemble.
          name: the full name of the version; None for the plain model.
          inputs: of the request.

        Yields:
          What is told the row and the answer.
        """
        told = ENSEMBLE if len(prompts) > 1 else name or ''
        began, code = time.monotonic(), 'dropped'
        try:
            yield lambda row, answer: self._note(prompts, told, inputs, row, answer)
            code = 200
        except (Busy, Stopped):
            code = 503
            raise
        except Exception as error:
            code = getattr(error, 'status', 500)
            raise
        finally:
            self._metrics.note_prompt(told, code, time.monotonic() - began)

    def _note(self, prompts: Sequence[ServedPrompt], name: str, inputs: str | Mapping[str, Any],
              row: Row, answer: Prediction) -> None:
        """Take an answer down, if it is a prompt's own.

        What an ensemble says, or labels that a request brings, tells of no prompt.
        """
        prompt = prompts[0]
        if len(prompts) > 1 or prompt.file is None or row.labels is not prompt.labels:
            return
        ids = prompt.converter.text_ids(row.ids)
        unknown = 0 if self._unknown_id is None else int((ids == self._unknown_id).sum())
        self._metrics.note_input(name, len(ids), unknown, row.cut)
        record = {'prompt': name, 'digest': prompt.digest, 'tokens': len(ids), 'unknown': unknown}
        if row.labels is None:
            record['words'] = len(answer.text.split())
        else:
            label, confidence = answer.likeliest
            self._metrics.note_label(name, label, confidence)
            record |= {'label': label, 'confidence': round(confidence, 6)}
        if self._log is not None and self._draw() < self._share:
            if self._log.texts:
                record |= {'inputs': inputs} | ({} if row.labels else {'answer': answer.text})
            self._log.write(record)
