"""The parent's end of the metrics: sums what children have counted, and keeps the gauges of those that live."""

import logging
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jobs.monitoring import metrics
from jobs.monitoring.exposition import Totals
from jobs.monitoring.metric_types import Sample, collect
from jobs.rate_limited_log import RateLimitedLog
from jobs.services.sockets import socket_path
from worker.monitoring.count_messages import MOST_BYTES, SOCKET, CountMessage, parse_message

_log = RateLimitedLog(logging.getLogger(__name__))


class WorkerCounts:
    """What this process and its children have counted; thread-safe."""

    def __init__(self) -> None:
        self._totals = Totals(metrics.WORKER)
        self._gauges: dict[int, list[Sample]] = {}
        self._lock = threading.Lock()

    def take(self, message: CountMessage) -> None:
        """Add a child's counts, and replace its gauges."""
        with self._lock:
            self._totals.add(message.counts)
            self._gauges[message.pid] = message.gauges

    def samples(self, children: Collection[int], wanted: int) -> list[Sample]:
        """Return all sums and gauges; `children` are the processes that live, `wanted` how many there shall be."""
        with self._lock:
            self._totals.add(collect().counts)
            self._gauges = {pid: gauges for pid, gauges in self._gauges.items() if pid in children}
            gauges = [sample for found in self._gauges.values() for sample in found]
            up = len(self._gauges)
            return [
                *self._totals.samples(),
                *gauges,
                metrics.CHILDREN.sample(wanted),
                metrics.CHILDREN_UP.sample(up),
            ]


@contextmanager
def receiving(folder: Path, take: Callable[[CountMessage], object]) -> Iterator[None]:
    """Within the block, call `take` with each message of a child; messages that are none are dropped and logged."""
    path = socket_path(folder / SOCKET)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        threading.Thread(target=_receive, args=(receiver, take), daemon=True, name="counts").start()
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def _receive(receiver: socket.socket, take: Callable[[CountMessage], object]) -> None:
    with suppress(OSError):  # closed
        while True:
            body = receiver.recv(MOST_BYTES)
            try:
                take(parse_message(body))
            except ValueError as error:
                _log.tell("message", f"dropped a message of {len(body):,} bytes: {error}")
