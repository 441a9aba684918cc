"""What Prometheus is told."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from jax_prompt.inference.rows import Row

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_TOKENS = (4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Count and measure one server; several in a process do not meet."""

    def __init__(self):
        self._registry = CollectorRegistry()
        own = {'registry': self._registry, 'namespace': 'jax_prompt'}
        self._requests = Counter('requests', 'Requests by route and status code.',
                                 ('route', 'code'), **own)
        self._seconds = Histogram('request_seconds', 'Seconds from a request to its answer.',
                                  ('route',), buckets=_SECONDS, **own)
        self._batch_rows = Histogram('batch_rows', 'Rows of a batch, fillers left out.',
                                     buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256), **own)
        self._batch_prompts = Histogram('batch_prompts', 'Different prompts in a batch.',
                                        buckets=(1, 2, 4, 8, 16, 32), **own)
        self._batch_seconds = Histogram('batch_seconds', 'Seconds from a batch to its answers.',
                                        buckets=_SECONDS, **own)
        self._wait_seconds = Histogram('batch_wait_seconds', 'Longest wait of a row for a batch.',
                                       buckets=_SECONDS, **own)
        of_prompt = ('prompt',)
        self._prompt_requests = Counter(
            'prompt_requests', 'Requests to the model by version of a prompt and status code.',
            ('prompt', 'code'), **own)
        self._prompt_seconds = Histogram(
            'prompt_request_seconds', 'Seconds to an answer by version of a prompt.', of_prompt,
            buckets=_SECONDS, **own)
        self._answers = Counter('prompt_answers', "Answers among the task's own labels.",
                                ('prompt', 'label'), **own)
        self._confidence = Histogram(
            'prompt_confidence', 'Probability of the label that was answered, among the labels.',
            of_prompt, buckets=_CONFIDENCES, **own)
        self._tokens = Histogram('prompt_input_tokens', 'Tokens of an input.', of_prompt,
                                 buckets=_TOKENS, **own)
        self._unknown = Counter('prompt_unknown_tokens', 'Tokens that the vocabulary does not '
                                'know, in inputs.', of_prompt, **own)
        self._cut = Counter('prompt_truncated', 'Inputs that were cut.', of_prompt, **own)
        self._shares = Gauge('canary_share', 'Share of the requests that name no version which a '
                             'canary gets.', of_prompt, **own)
        self._own = own

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Add a value that is read when it is asked for."""
        Gauge(name, help, **self._own).set_function(read)

    def note_request(self, route: str, code: int | str, seconds: float) -> None:
        """Take down a request; its code is 'dropped' where it was not answered."""
        self._requests.labels(route, code).inc()
        self._seconds.labels(route).observe(seconds)

    def note_batch(self, rows: Sequence[Row], waited: float, seconds: float) -> None:
        """Take down a batch."""
        self._batch_rows.observe(len(rows))
        self._batch_prompts.observe(len({row.prompt.name for row in rows}))
        self._batch_seconds.observe(seconds)
        self._wait_seconds.observe(max(waited, 0.0))

    def note_prompt(self, prompt: str, code: int | str, seconds: float) -> None:
        """Take down a request to a version, by its full name; '' for the plain model."""
        self._prompt_requests.labels(prompt, code).inc()
        self._prompt_seconds.labels(prompt).observe(seconds)

    def note_input(self, prompt: str, tokens: int, unknown: int, cut: bool) -> None:
        """Take down what an input was like."""
        self._tokens.labels(prompt).observe(tokens)
        self._unknown.labels(prompt).inc(unknown)
        self._cut.labels(prompt).inc(cut)

    def note_label(self, prompt: str, label: str, confidence: float) -> None:
        """Take down an answer among the labels of the prompt's task."""
        self._answers.labels(prompt, label).inc()
        self._confidence.labels(prompt).observe(confidence)

    def set_canaries(self, shares: Mapping[str, float]) -> None:
        """Say which versions get which shares; all others get none."""
        self._shares.clear()
        for prompt, share in shares.items():
            self._shares.labels(prompt).set(share)

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)


def add_gauges(metrics: Metrics, service: Any) -> None:
    """Add what is read of a `Service` when it is asked for."""
    gauge = metrics.gauge
    gauge('queue_rows', 'Rows that wait for a batch.', lambda: service.batcher.waiting)
    gauge('unanswered_rows', 'Rows waiting or being worked on.',
          lambda: service.batcher.unanswered)
    gauge('prompts', 'Versions of prompts in use.', lambda: len(service.engine.prompts))
    gauge('prompt_table_free_rows', 'Rows of the prompt table that no prompt holds.',
          lambda: service.engine.table.free_rows)
    gauge('compiled_programs', 'Programs compiled so far.', lambda: service.engine.compilations)
    gauge('programs_left', 'Programs of the prompts in use that are still to compile.',
          lambda: service.programs_left or 0)
    gauge('ready', '1 where /readyz says so.', lambda: float(service.state == 'ready'))
    gauge('request_log_lines', 'Lines of the log of requests that were written.',
          lambda: service.telemetry.lines[0])
    gauge('request_log_lost_lines', 'Lines of the log of requests that were lost.',
          lambda: service.telemetry.lines[1])
