"""When a worker ends by itself: after a time without work, before a time limit, or after one time slice.

The worker's parent process watches its children through their heartbeats and then stops as by SIGTERM: children
release what they haven't begun, and deliver what is rendered.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.errors import UsageError
from jobs.settings import Settings
from worker.liveness.progress_heartbeat import Record

log = logging.getLogger(__name__)

LOOK_S = 0.5
ONCE_IDLE_S = 10.0
"""How long a worker that is to work once waits for work."""

STOP_S = 6  # added to the delivery deadline of a stopping child: one step, and releasing its jobs
SPARE_S = 4  # and for the parent process to end


def stop_time_s(settings: Settings) -> float:
    """Return the longest time that a worker takes from SIGTERM until it has ended."""
    return settings.shutdown_grace_s + STOP_S + SPARE_S


class EndOfWorker:
    """Decides when this worker ends; `children` returns the process ids, which have heartbeats in `folder`."""

    def __init__(self, settings: Settings, folder: Path, children: Callable[[], Sequence[int]]) -> None:
        """Raises UsageError if the time limit is shorter than what a worker takes to stop."""
        self._once = settings.once
        self._idle_s = settings.until_idle_s or (ONCE_IDLE_S if settings.once else None)
        self._folder, self._children = folder, children
        self._stop_at: float | None = None
        if settings.max_time_s is not None:
            if settings.max_time_s <= stop_time_s(settings):
                raise UsageError(
                    f"NIGHTMILL_MAX_TIME_S: must be more than the {stop_time_s(settings):.0f} s that a worker may take "
                    f"to stop (NIGHTMILL_SHUTDOWN_GRACE_S and {STOP_S + SPARE_S} s)"
                )
            self._stop_at = time.monotonic() + settings.max_time_s - stop_time_s(settings)

    def start(self) -> None:
        """Check twice a second in a background thread; when the worker is to end, send SIGTERM to this process."""
        if self._idle_s is not None or self._stop_at is not None:
            threading.Thread(target=self._look, daemon=True, name="end-of-worker").start()

    def reason(self, now: float) -> str | None:
        """Return why the worker is to end, None while it isn't; `now` is by the monotonic clock."""
        if self._stop_at is not None and now >= self._stop_at:
            return "its time is over"
        children = self._children() if self._idle_s is not None else ()
        if not children or not all(self._has_ended_work(pid, now) for pid in children):
            return None
        if self._once and any(Record(self._folder / str(pid)).worked_at() > 0 for pid in children):
            return "it has worked once"
        return f"there was no work for {self._idle_s:.0f} s"

    def _has_ended_work(self, pid: int, now: float) -> bool:
        try:
            record = Record(self._folder / str(pid))
        except (OSError, ValueError):
            return False  # it is starting
        if record.read().patience_s > 0:
            return False
        worked_at, created_at = record.worked_at(), record.created_at()
        assert self._idle_s is not None
        return (self._once and worked_at > 0) or now - max(worked_at, created_at) >= self._idle_s

    def _look(self) -> None:
        while not (reason := self.reason(time.monotonic())):
            time.sleep(LOOK_S)
        log.info("the worker ends: %s", reason)
        os.kill(os.getpid(), signal.SIGTERM)
