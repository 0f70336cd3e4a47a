"""What keeps this worker from lanes that it is given, and when it tries again.

A fault has a cause, such as a model that can't be loaded here or an output that can't be written to, and concerns the
lanes that need it; while it waits for its next try, the worker avoids those and works in others. A fault that concerns
all lanes has none. The pause doubles with each failed try. All of it is told in the table of workers.
"""

import logging
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass, field

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from jobs.health import report_health, wanted_lanes
from jobs.job import LaneId

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0


def pause_s(failures: int) -> float:
    """How long to wait after so many failed tries in a row."""
    return float(min(FIRST_PAUSE_S * 2 ** min(failures - 1, 30), LONGEST_PAUSE_S))


@dataclass
class Fault:
    """Why something can't be done here, how often it was tried in vain, and which lanes need it."""

    reason: str
    failures: int = 0
    until: float = 0.0  # by the monotonic clock
    lanes: set[LaneId] = field(default_factory=set)

    def is_waiting(self) -> bool:
        """Whether it isn't time yet to try again."""
        return time.monotonic() < self.until


class Health:
    """The faults of one worker process; any thread may tell of one."""

    def __init__(self, engine: Engine, worker: str, device: str) -> None:
        self._engine, self._worker, self._device = engine, worker, device
        self._faults: dict[Hashable, Fault] = {}
        self._worked: set[Hashable] = set()
        self._lock = threading.Lock()

    def failed(self, cause: Hashable, reason: str, lane: LaneId | None = None) -> None:
        """It was tried in vain; while it waits for the next try, failing again only renews the reason."""
        with self._lock:
            fault = self._faults.setdefault(cause, Fault(reason))
            fault.reason = reason
            if lane is not None:
                fault.lanes.add(lane)
            is_new = not fault.is_waiting()
            if is_new:
                fault.failures += 1
                fault.until = time.monotonic() + pause_s(fault.failures)
        if is_new:
            log.warning("unhealthy, next try in %.0f s: %s", pause_s(fault.failures), reason)
        self._tell()

    def went_well(self, cause: Hashable) -> None:
        """It was done."""
        self._worked.add(cause)
        if cause not in self._faults:
            return
        with self._lock:
            fault = self._faults.pop(cause, None)
        if fault is not None:
            log.warning("it works again after %d failed tries; before: %s", fault.failures, fault.reason)
            self._tell()

    def has_worked(self, cause: Hashable) -> bool:
        """Whether it was ever done here."""
        return cause in self._worked

    def fault(self, cause: Hashable) -> Fault | None:
        """What is amiss with it; None: nothing that is known."""
        return self._faults.get(cause)

    def avoided(self) -> set[LaneId]:
        """Lanes that aren't to be tried yet."""
        with self._lock:
            return {lane for fault in self._faults.values() if fault.is_waiting() for lane in fault.lanes}

    def is_resting(self) -> bool:
        """Whether no lane is to be tried yet."""
        with self._lock:
            return any(fault.is_waiting() and not fault.lanes for fault in self._faults.values())

    def is_healthy(self) -> bool:
        """Whether nothing is amiss."""
        return not self._faults

    def refresh(self) -> None:
        """Forget faults whose lanes have no work any more, and a rest that is over; to be called now and then."""
        if self.is_healthy():
            return
        with self._lock:
            lanes = {lane for fault in self._faults.values() for lane in fault.lanes}
        wanted = wanted_lanes(self._engine, lanes)
        with self._lock:
            for cause, fault in list(self._faults.items()):
                fault.lanes -= lanes - wanted
                if not fault.lanes and not fault.is_waiting():
                    del self._faults[cause]
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            faults = sorted(self._faults.values(), key=lambda fault: bool(fault.lanes))
            lanes = {lane: fault.reason for fault in faults for lane in fault.lanes}
            is_resting = any(not fault.lanes for fault in faults)
            next_try = min((fault.until for fault in faults), default=None)
        try:
            report_health(
                self._engine,
                self._worker,
                self._device,
                faults[0].reason if faults else None,
                next_try_s=None if next_try is None else max(0.0, next_try - time.monotonic()),
                lane_faults={} if is_resting else lanes,
            )
        except SQLAlchemyError as error:
            log.warning("can't report this worker's health: %s", str(error).splitlines()[0])
