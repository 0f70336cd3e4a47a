"""The text in which Prometheus reads metrics, made from samples by prometheus_client."""

from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from jobs.monitoring import metrics
from jobs.monitoring.metric_types import METRICS, Histogram, Kind, Metric, Sample, add_samples

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Totals:
    """Counts summed since the process began, of its own and of others. Not thread-safe."""

    def __init__(self, role: str) -> None:
        """Counters without labels begin with 0, so that their first increase is seen."""
        self._sums: dict[tuple[str, tuple[str, ...]], list[float]] = {
            (metric.name, ()): [0.0]
            for metric in METRICS.values()
            if metric.kind == Kind.COUNTER and not metric.labels and metric.role in (role, metrics.BOTH)
        }

    def add(self, counts: list[Sample]) -> None:
        """Add counts."""
        add_samples(self._sums, counts)

    def samples(self) -> list[Sample]:
        """Return the sums."""
        return [Sample(name, labels, tuple(values)) for (name, labels), values in self._sums.items()]


def exposition(samples: Iterable[Sample]) -> bytes:
    """Return the samples in Prometheus' text format, with this version and what the process itself uses."""
    registry = CollectorRegistry()
    registry.register(_Samples([*samples, metrics.BUILD_INFO.sample(1, metadata.version("nightmill"))]))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Samples(Collector):
    """Gives samples to prometheus_client."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Family]:
        """Yield the families of the samples, each once, in the order of their definition."""
        for metric in METRICS.values():
            if found := sorted(sample for sample in self._samples if sample.name == metric.name):
                yield _family(metric, found)


def _family(metric: Metric, samples: Sequence[Sample]) -> Family:
    if isinstance(metric, Histogram):
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds = [*(f"{bound:g}" for bound in metric.buckets), "+Inf"]
        for _, labels, values in samples:
            counted = zip(bounds, accumulate(values[:-1]), strict=True)
            histogram.add_metric(labels, list(counted), values[-1])
        return histogram
    kind = CounterMetricFamily if metric.kind == Kind.COUNTER else GaugeMetricFamily
    family: Family = kind(metric.name, metric.help, labels=metric.labels)
    for _, labels, values in samples:
        family.add_metric(labels, values[0])  # type: ignore[attr-defined]
    return family
