"""Counters, gauges and histograms that a process collects in memory, to be taken up and summed elsewhere.

They cost a lock and an addition each, and need no library: processes that render send what they have counted to their
parent (`worker.monitoring`), which alone serves it.
"""

import threading
from bisect import bisect_left
from enum import StrEnum
from typing import ClassVar, NamedTuple


class Kind(StrEnum):
    """Type of a metric, as Prometheus calls it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Sample(NamedTuple):
    """Values of one metric under one set of labels.

    A counter and a gauge have one value; a histogram has the number of observations in each bucket, of those above all
    buckets, and the sum of all.
    """

    name: str
    labels: tuple[str, ...]
    values: tuple[float, ...]


class Collected(NamedTuple):
    """What a process has counted since this was last asked, and the current values of its gauges."""

    counts: list[Sample]
    gauges: list[Sample]


_Series = tuple[str, tuple[str, ...]]
_lock = threading.Lock()
_counts: dict[_Series, list[float]] = {}
_gauges: dict[_Series, float] = {}

METRICS: "dict[str, Metric]" = {}
"""All metrics by name; `jobs.monitoring.metrics` defines them."""


class Metric:
    """A named metric. `role` says which process has it: worker, scheduler, or both where it is empty."""

    kind: ClassVar[Kind]

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...] = (), *, role: str) -> None:
        self.name, self.help, self.labels, self.role = name, help_text, labels, role
        METRICS[name] = self

    @property
    def size(self) -> int:
        """Number of values in a sample."""
        return 1


class Counter(Metric):
    """A sum that only grows."""

    kind = Kind.COUNTER

    def add(self, amount: float, *labels: str) -> None:
        """Add to the sum of these labels."""
        with _lock:
            _counts.setdefault((self.name, labels), [0.0])[0] += amount


class Gauge(Metric):
    """A value that may rise and fall."""

    kind = Kind.GAUGE

    def set(self, value: float, *labels: str) -> None:
        """Replace the value of these labels."""
        with _lock:
            _gauges[self.name, labels] = value

    def sample(self, value: float, *labels: str) -> Sample:
        """Return a value for the exposition of a process that computes it when it is asked."""
        return Sample(self.name, labels, (float(value),))


class Histogram(Metric):
    """Observations counted by size, and their sum."""

    kind = Kind.HISTOGRAM

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: tuple[str, ...] = (),
        *,
        role: str,
        buckets: tuple[float, ...],
    ) -> None:
        """`buckets` are the upper bounds, without infinity."""
        super().__init__(name, help_text, labels, role=role)
        self.buckets = buckets

    @property
    def size(self) -> int:
        """Number of values in a sample: each bucket, the one above all, the sum."""
        return len(self.buckets) + 2

    def observe(self, value: float, *labels: str) -> None:
        """Count an observation."""
        with _lock:
            counts = _counts.setdefault((self.name, labels), [0.0] * self.size)
            counts[bisect_left(self.buckets, value)] += 1
            counts[-1] += value


def collect() -> Collected:
    """Return what was counted since the last call, and all gauges."""
    with _lock:
        counts = [Sample(name, labels, tuple(values)) for (name, labels), values in _counts.items()]
        _counts.clear()
        gauges = [Sample(name, labels, (value,)) for (name, labels), value in _gauges.items()]
    return Collected(counts, gauges)


def put_back(counts: list[Sample]) -> None:
    """Return counts that could not be passed on, for the next `collect`."""
    with _lock:
        add_samples(_counts, counts)


def add_samples(sums: dict[_Series, list[float]], samples: list[Sample]) -> None:
    """Add samples to sums of the same series."""
    for name, labels, values in samples:
        held = sums.setdefault((name, labels), [0.0] * len(values))
        for place, value in enumerate(values):
            held[place] += value
