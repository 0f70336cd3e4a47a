"""The messages in which a child process tells its parent what it has counted: JSON, in datagrams."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.monitoring.metric_types import METRICS, Kind, Sample

SOCKET = "counts"
"""Name of the parent's socket in the folder that it shares with its children."""
MOST_BYTES = 65_536
MOST_SAMPLES = 50
"""Samples in one message, so that it has less than `MOST_BYTES`."""
_LONGEST_LABEL = 500


@dataclass(frozen=True)
class CountMessage:
    """What a process has counted since its last message, and its gauges; all values are finite and not negative."""

    pid: int
    counts: list[Sample]
    gauges: list[Sample]

    def encoded(self) -> bytes:
        """Return the datagram."""
        return json.dumps({"pid": self.pid, "counts": self.counts, "gauges": self.gauges}).encode()


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)

    pid: int
    counts: list[tuple[str, tuple[str, ...], tuple[float, ...]]]
    gauges: list[tuple[str, tuple[str, ...], tuple[float, ...]]]


def parse_message(body: bytes) -> CountMessage:
    """Return the message; ValueError if it isn't one, or tells of a metric that isn't one of ours."""
    try:
        read = _Message.model_validate_json(body)
    except ValidationError as error:
        raise ValueError(f"no message of counts: {error.errors()[0]['msg']}") from None
    counts, gauges = [Sample(*given) for given in read.counts], [Sample(*given) for given in read.gauges]
    _check(counts, (Kind.COUNTER, Kind.HISTOGRAM))
    _check(gauges, (Kind.GAUGE,))
    return CountMessage(read.pid, counts, gauges)


def _check(samples: Sequence[Sample], kinds: Sequence[Kind]) -> None:
    for name, labels, values in samples:
        metric = METRICS.get(name)
        if metric is None or metric.kind not in kinds:
            raise ValueError(f"no metric {name[:100]!r} of this kind")
        if len(labels) != len(metric.labels) or any(len(label) > _LONGEST_LABEL for label in labels):
            raise ValueError(f"wrong labels of {name}")
        if len(values) != metric.size or not all(math.isfinite(value) and value >= 0 for value in values):
            raise ValueError(f"wrong values of {name}")
