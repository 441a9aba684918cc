"""What Prometheus is told."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from jax_prompt.inference.rows import Row

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


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

    def text(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self._registry)
