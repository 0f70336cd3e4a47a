"""Exponential backoff for lanes that this worker can't process, and the faults that cause it.

A fault has a cause, such as a model that can't be loaded or an output that can't be written to, and affects the lanes
that need it; until its next try, the worker avoids those lanes and processes others. A fault that affects all lanes
has no lanes listed. The pause doubles with each failed try. Faults are reported in the table of workers.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from jobs.job_dataclasses import LaneId
from jobs.monitoring import metrics
from jobs.queue.worker_health_reports import note_stored, report_health, wanted_lanes

log = logging.getLogger(__name__)

BROKEN = "broken"
"""The cause of the fault that affects all lanes: this worker fails at jobs that other workers complete."""

NOTE_S = 1.0
"""The shortest time between two records of stored images in the table of workers."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 300.0

_NAMES = 20


def pause_s(failures: int) -> float:
    """Return how long to wait after this many consecutive failed tries."""
    return float(min(FIRST_PAUSE_S * 2 ** min(failures - 1, 30), LONGEST_PAUSE_S))


@dataclass
class Fault:
    """Why an operation fails on this host, how many tries failed, and which lanes need it."""

    reason: str
    failures: int = 0
    until: float = 0.0  # by the monotonic clock
    lanes: set[LaneId] = field(default_factory=set)

    def is_waiting(self) -> bool:
        """Whether the next try isn't due yet."""
        return time.monotonic() < self.until


class Health:
    """The faults of one worker process; thread-safe.

    A rest is passed on, in a file, to the process that replaces this one.
    """

    def __init__(self, engine: Engine, worker: str, device: str, handover: Path | None = None) -> None:
        self._engine, self._worker, self._device = engine, worker, device
        self._faults: dict[Hashable, Fault] = {}
        self._worked: set[Hashable] = set()
        self._left_until: dict[LaneId, float] = {}
        self._noted_at = -NOTE_S
        self._handover = handover
        self._rests = 0
        self.names = [worker]
        """The names of this process, and of its predecessors that rested and stored no image since."""
        self.must_restart = False
        self._take_over()
        metrics.WORKER_HEALTHY.set(0 if self._faults else 1, device)
        self._lock = threading.Lock()

    def failed(self, cause: Hashable, reason: str, lane: LaneId | None = None) -> None:
        """Record a failed try; while the next try isn't due, a further failure only updates the reason."""
        reason = reason.replace("\0", "?")  # PostgreSQL's text type can't hold NUL
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
        self._report()

    def rest(self, reason: str) -> None:
        """Do nothing for a while, then continue in a new process; the pause grows until an image is stored."""
        reason = reason.replace("\0", "?")
        with self._lock:
            self._rests += 1
            pause = pause_s(self._rests)
            self._faults[BROKEN] = Fault(reason, self._rests, time.monotonic() + pause)
            self.must_restart = True
            self._hand_over(
                {
                    "rests": self._rests,
                    "until": time.time() + pause,
                    "reason": reason,
                    "names": self.names[:_NAMES],
                }
            )
        log.error("unhealthy, rests for %.0f s and starts anew: %s", pause, reason)
        self._report()

    def leave(self, lane: LaneId) -> None:
        """Avoid a lane for a moment, without reporting it."""
        with self._lock:
            self._left_until[lane] = time.monotonic() + pause_s(1)

    def has_rested(self) -> bool:
        """Whether this process, or its predecessor, has rested and no image was stored since."""
        return self._rests > 0

    def stored(self) -> None:
        """Record that an image was stored: the worker isn't broken."""
        if self._rests:
            self._rests = 0
            self._hand_over(None)
        self.went_well(BROKEN)
        if time.monotonic() >= self._noted_at + NOTE_S:
            self._noted_at = time.monotonic()
            self._write(lambda: note_stored(self._engine, self._worker))

    def went_well(self, cause: Hashable) -> None:
        """Record that the operation succeeded."""
        self._worked.add(cause)
        if fault := self.forget(cause):
            log.warning("it works again after %d failed tries; before: %s", fault.failures, fault.reason)

    def forget(self, cause: Hashable) -> Fault | None:
        """Remove a cause's fault; returns it, if there was one."""
        if cause not in self._faults:
            return None
        with self._lock:
            fault = self._faults.pop(cause, None)
        self._report()
        return fault

    def has_worked(self, cause: Hashable) -> bool:
        """Whether the operation has ever succeeded in this process."""
        return cause in self._worked

    def fault(self, cause: Hashable) -> Fault | None:
        """The cause's fault; None if none is known."""
        return self._faults.get(cause)

    def avoided(self) -> set[LaneId]:
        """The lanes whose next try isn't due yet."""
        now = time.monotonic()
        with self._lock:
            self._left_until = {lane: until for lane, until in self._left_until.items() if now < until}
            waiting = {lane for fault in self._faults.values() if fault.is_waiting() for lane in fault.lanes}
            return waiting | self._left_until.keys()

    def is_resting(self) -> bool:
        """Whether no lane may be tried yet."""
        with self._lock:
            return any(fault.is_waiting() and not fault.lanes for fault in self._faults.values())

    def is_healthy(self) -> bool:
        """Whether there is no fault."""
        return not self._faults

    def refresh(self) -> None:
        """Remove faults whose lanes have no work left, and a rest that is over; called periodically."""
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
        self._report()

    def _take_over(self) -> None:
        try:
            told = json.loads(self._handover.read_text()) if self._handover else None
        except (OSError, ValueError):
            return
        if told:
            self._rests = told["rests"]
            self.names += told["names"]
            left_s = told["until"] - time.time()
            self._faults[BROKEN] = Fault(told["reason"], self._rests, time.monotonic() + left_s)

    def _hand_over(self, told: dict[str, object] | None) -> None:
        if self._handover is None:
            return
        try:
            self._handover.write_text(json.dumps(told))
        except OSError as error:
            log.warning("can't write %s: %s", self._handover, error.strerror)

    def _report(self) -> None:
        with self._lock:
            faults = sorted(self._faults.values(), key=lambda fault: bool(fault.lanes))
            lanes = {lane: fault.reason for fault in faults for lane in fault.lanes}
            is_resting = any(not fault.lanes for fault in faults)
            next_try = min((fault.until for fault in faults), default=None)
        metrics.WORKER_HEALTHY.set(0 if faults else 1, self._device)
        self._write(
            lambda: report_health(
                self._engine,
                self._worker,
                self._device,
                faults[0].reason if faults else None,
                next_try_s=None if next_try is None else max(0.0, next_try - time.monotonic()),
                lane_faults={} if is_resting else lanes,
            )
        )

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except SQLAlchemyError as error:
            log.warning("can't report this worker's health: %s", str(error).splitlines()[0])
