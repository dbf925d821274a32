"""What the server counts, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Monitoring:
    """The metrics of one server."""

    def __init__(self, model: str) -> None:
        """Create all metrics at zero.

        Args:
            model: Name and version of the verifier.
        """
        registry = CollectorRegistry()
        self._registry = registry
        Info("mv_verifier", "The verifier that is served", registry=registry).info({"model": model})
        self.requests = Counter(
            "mv_requests", "Requests answered", ["path", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "mv_request_seconds",
            "Seconds from the request to its response, answered with 200",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.rows = Counter("mv_rows", "Rows scored", registry=registry)
        self.row_errors = Counter("mv_row_errors", "Rows without a score", registry=registry)
        self.tokens = Counter("mv_tokens", "Tokens computed", registry=registry)
        self.batch_requests = Histogram(
            "mv_batch_requests",
            "Requests computed together",
            buckets=_ROWS,
            registry=registry,
        )
        self.batch_rows = Histogram(
            "mv_batch_rows", "Rows computed together", buckets=_ROWS, registry=registry
        )
        self.batch_seconds = Histogram(
            "mv_batch_seconds",
            "Seconds of the rows computed together",
            buckets=_SECONDS,
            registry=registry,
        )
        self._waiting = Gauge("mv_waiting_rows", "Rows that wait to be computed", registry=registry)

    def watch_waiting(self, rows: Callable[[], int]) -> None:
        """Set where the number of waiting rows is read.

        Args:
            rows: Called whenever the metrics are read.
        """
        self._waiting.set_function(rows)

    def text(self) -> bytes:
        """Return all metrics as they are now."""
        return generate_latest(self._registry)
