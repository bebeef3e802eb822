"""Metrics of the endpoint for Prometheus."""

from collections.abc import Callable
from functools import cache, partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_INSTANCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one endpoint, separate from those of any other in the process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        counter, histogram = partial(Counter, registry=registry), partial(Histogram, registry=registry)
        requests = counter("seqwright_requests", "Requests for translations, by HTTP status.", ["status"])
        tokens = counter("seqwright_tokens", "Tokens of translated instances, by side.", ["side"])
        self._answered = cache(lambda status: requests.labels(str(status)))
        self._source_tokens, self._target_tokens = tokens.labels("source"), tokens.labels("target")
        self._unknown_tokens = counter("seqwright_unknown_tokens", "Source tokens that the model does not know.")
        self._instances = counter("seqwright_instances", "Instances translated.")
        self._seconds = histogram("seqwright_request_seconds", "Time of requests that succeed.", buckets=_SECONDS)
        self._batch_sizes = histogram("seqwright_batch_size", "Instances searched together.", buckets=_INSTANCES)
        self._search_seconds = histogram("seqwright_search_seconds", "Time of a batch's search.", buckets=_SECONDS)
        self._queue = Gauge("seqwright_queue_instances", "Instances that wait for a search.", registry=registry)

    def watch_queue(self, waiting: Callable[[], int]) -> None:
        """Call `waiting` for the length of the queue whenever the metrics are read."""
        self._queue.set_function(waiting)

    def answered(self, status: int) -> None:
        """Count an answer."""
        self._answered(status).inc()

    def translated(
        self, *, instances: int, source_tokens: int, unknown_tokens: int, target_tokens: int, seconds: float
    ) -> None:
        """Count a request whose translations are done."""
        self._instances.inc(instances)
        self._source_tokens.inc(source_tokens)
        self._unknown_tokens.inc(unknown_tokens)
        self._target_tokens.inc(target_tokens)
        self._seconds.observe(seconds)

    def searched(self, *, instances: int, seconds: float) -> None:
        """Count a batch."""
        self._batch_sizes.observe(instances)
        self._search_seconds.observe(seconds)

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self._registry)
