"""Metrics: how many runs, how long, how many models and batches, in the form that Prometheus reads?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from components.server.line import Ended, Line

if TYPE_CHECKING:
    from components.models.manager import ModelManager

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
SIZES = (1, 2, 4, 8, 16, 32, 64)
TYPE = CONTENT_TYPE_PLAIN_0_0_4


class Metrics:
    """Counts runs as they end, see `ended`; asks line and manager for the rest when it is read."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._runs = Counter("tour_runs", "Runs that are over or were refused.", ["task"], registry=registry)
        self._errors = Counter(
            "tour_errors",
            "Of these, those that ended with a sentence instead of an answer.",
            ["task", "kind"],
            registry=registry,
        )

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(name, text, ["task"], buckets=SECONDS, registry=registry)

        self._seconds = seconds("tour_run_seconds", "Seconds of a run, without those in line.")
        self._waited = seconds("tour_wait_seconds", "Seconds of a run in line.")

    def ended(self, run: Ended) -> None:
        """Count a run."""
        self._runs.labels(run.lane).inc()
        if run.outcome != "ok":
            self._errors.labels(run.lane, run.outcome).inc()
        self._seconds.labels(run.lane).observe(run.seconds)
        self._waited.labels(run.lane).observe(run.waited)

    def watch(self, line: Line, models: ModelManager) -> None:
        """Have the state of line and manager among the metrics."""
        self.registry.register(_State(line, models))

    def text(self) -> bytes:
        """All of them, in the text format of Prometheus; its media type is TYPE."""
        return generate_latest(self.registry)


class _State(Collector):
    def __init__(self, line: Line, models: ModelManager) -> None:
        self._line, self._models = line, models

    def collect(self) -> Iterator[Metric]:
        running, waiting = self._line.counts()
        yield GaugeMetricFamily("tour_running", "Runs under way.", running)
        yield GaugeMetricFamily("tour_queue_length", "Runs that wait in line.", waiting)
        totals = self._models.totals()
        yield CounterMetricFamily("tour_model_loads", "Models loaded.", totals.loads)
        yield CounterMetricFamily("tour_model_hits", "Models lent that were loaded already.", totals.hits)
        yield CounterMetricFamily(
            "tour_model_evictions", "Idle models that went because memory was needed.", totals.evictions
        )
        held = GaugeMetricFamily(
            "tour_model_bytes", "Bytes of the weights of each model in memory.", labels=["checkpoint", "task"]
        )
        for row in self._models.snapshot():
            if row.state == "loaded":
                held.add_metric([row.name, row.task], row.bytes)
        yield held
        sizes = self._models.batches()
        buckets = [(str(float(most)), sum(n for size, n in sizes.items() if size <= most)) for most in SIZES]
        yield HistogramMetricFamily(
            "tour_batch_size",
            "Texts or pictures that went through a model together.",
            buckets=[*buckets, ("+Inf", sizes.total())],
            sum_value=sum(size * n for size, n in sizes.items()),
        )
