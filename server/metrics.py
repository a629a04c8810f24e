"""What Prometheus reads of the server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .batcher import Batcher

MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


class Metrics:
    """One registry for one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._rows = Histogram(
            "pitstop_rows_a_call", "Rows of a step's call", buckets=ROWS, registry=registry
        )
        self._ms = Histogram(
            "pitstop_ms_a_call", "Milliseconds of a step", buckets=MS, registry=registry
        )
        self._latency = Histogram(
            "pitstop_request_seconds",
            "From a request for images to the end of its answer",
            buckets=SECONDS,
            registry=registry,
        )
        self._images = Counter("pitstop_images", "Images that were sent", registry=registry)
        self._answers = Counter(
            "pitstop_answers", "Answers to requests for images", ["status"], registry=registry
        )

    def watch(self, batcher: Batcher) -> None:
        """Show how full a batcher is."""
        queue = Gauge("pitstop_queue", "Images that wait", registry=self._registry)
        queue.set_function(lambda: batcher.waiting)
        flying = Gauge("pitstop_in_flight", "Images on their way", registry=self._registry)
        flying.set_function(lambda: batcher.in_flight)

    def called(self, rows: int, seconds: float) -> None:
        """Count a step of the batcher that asked the denoiser."""
        self._rows.observe(rows)
        self._ms.observe(1000 * seconds)

    def answered(self, status: int, seconds: float, images: int = 0) -> None:
        """Count an answer; status 499 is a client that went."""
        self._answers.labels(str(status)).inc()
        self._latency.observe(seconds)
        self._images.inc(images)

    def text(self) -> bytes:
        return generate_latest(self._registry)
