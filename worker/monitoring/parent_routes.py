"""What a worker's parent process serves over HTTP: metrics of all its processes, and health checks."""

import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Engine, text

from jobs.db.engine import connect
from jobs.monitoring.cached_lookup import CachedLookup, Failure
from jobs.monitoring.exposition import CONTENT_TYPE, exposition
from jobs.monitoring.http_server import Answer, serve
from jobs.monitoring.liveness_and_readiness import Liveness, readiness
from jobs.settings import Settings
from worker.monitoring.child_ends import ChildEnds
from worker.monitoring.receive_counts import WorkerCounts, receiving

log = logging.getLogger(__name__)

STANDSTILL_S = 120.0
"""How long the main loop may stand still until `/healthz` says that the process hangs."""

BUSY_S = 60.0
"""A worker is busy for `/readyz/busy` until it has had no work for longer than this."""

_CHILDREN = text("""
    SELECT reason, CASE WHEN activity = 'idle' THEN extract(epoch FROM now() - activity_since) ELSE 0 END AS idle_s
    FROM workers WHERE name = ANY (CAST(:names AS text[]))
""")


class ChildReport(NamedTuple):
    """What a child has reported: what keeps it from its work, None for nothing, and how long it has had no work."""

    reason: str | None
    idle_s: float


class ParentMonitoring:
    """Serves the worker's metrics if the settings ask for it; does nothing else if they don't."""

    def __init__(self, settings: Settings, children: int) -> None:
        """`children` is the number of child processes that the worker shall have."""
        self.liveness = Liveness(STANDSTILL_S)
        self.processes: Callable[[], Sequence[Any]] = list
        self._settings, self._wanted = settings, children
        self._counts, self._ends = WorkerCounts(), ChildEnds()
        self._engine: Engine = connect(settings.database, pool_size=1)
        self._reports = CachedLookup(self._look)

    def serve(self, *, is_supervised: bool) -> None:
        """Begin to answer."""
        routes = {
            "/metrics": self._metrics,
            "/healthz": self.liveness.check,
            "/readyz": readiness(self._problems),
            "/readyz/busy": readiness(lambda: self._problems() or self._idleness()),
        }
        serve(self._settings.metrics_address, routes, is_supervised=is_supervised)

    @contextmanager
    def receiving(self, folder: Path) -> Iterator[None]:
        """Within the block, take what children count, if there is anybody to tell it to."""
        if self._settings.metrics_address is None:
            yield
            return
        with receiving(folder, self._counts.take):
            yield

    def pause(self, seconds: float) -> None:
        """Wait for a service."""
        self.liveness.beat()
        time.sleep(seconds)

    def look(self, stalled: Sequence[int]) -> None:
        """Count child processes that have ended; `stalled` are those that the watchdog has just killed."""
        self._ends.look(self.processes(), stalled)

    def stop(self) -> None:
        """Note that the worker was asked to stop."""
        self._ends.is_stopping = True
        self.liveness.stop()

    @property
    def is_stopping(self) -> bool:
        """Whether the worker was asked to stop."""
        return self._ends.is_stopping

    def _pids(self) -> list[int]:
        return [process.pid for process in self.processes() if process.pid]

    def _metrics(self, _: str) -> Answer:
        samples = self._counts.samples(set(self._pids()), self._wanted)
        return Answer(200, exposition(samples), CONTENT_TYPE)

    def _look(self) -> list[ChildReport]:
        """Return the report of each child that has made one."""
        names = [f"{socket.gethostname()}:{pid}" for pid in self._pids()]
        with self._engine.connect() as connection:
            rows = connection.execute(_CHILDREN, {"names": names})
            return [ChildReport(row.reason, float(row.idle_s)) for row in rows]

    def _problems(self) -> list[str]:
        reports = self._reports.get()
        if isinstance(reports, Failure):
            return [reports]
        if len(reports) < self._wanted:
            return [f"{len(reports)} of {self._wanted} child processes are up"]
        reasons = [report.reason for report in reports if report.reason is not None]
        return sorted(set(reasons)) if len(reasons) == len(reports) else []

    def _idleness(self) -> list[str]:
        """Return how long all children have had no work, if that is long; where workers are surplus, these go first."""
        reports = self._reports.get()
        if isinstance(reports, Failure):
            return []
        idle_s = min((report.idle_s for report in reports), default=0.0)
        return [f"no work for {idle_s:.0f} s"] if idle_s > BUSY_S else []
