"""The watchdog in the parent process: it kills a child that makes no step for too long, and the pool replaces it.

The child's leases expire and its jobs are queued again, as those of a dead worker. A child's silence is measured in the
parent's own checks, so that a suspended machine or worker isn't mistaken for a hung device.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from worker.liveness.progress_heartbeat import Record

log = logging.getLogger(__name__)

LOOK_S = 1.0


@dataclass
class _Watched:
    """A child, its count of heartbeats at the last check, and how long the count has been unchanged."""

    record: Record
    beats: int
    silent_s: float = 0.0


class Watchdog:
    """Checks the heartbeats in `folder` of the processes that `children` returns."""

    def __init__(
        self,
        folder: Path,
        children: Callable[[], Sequence[int]],
        after_look: Callable[[Sequence[int]], object] = lambda _: None,
    ) -> None:
        """`after_look` is called after each check with the processes that were killed."""
        self._folder = folder
        self._children = children
        self._after_look = after_look
        self._watched: dict[int, _Watched] = {}

    def start(self) -> None:
        """Check once a second in a background thread, for as long as the process lives."""
        threading.Thread(target=self._look_forever, daemon=True, name="watchdog").start()

    def stop_within(self, seconds: float) -> None:
        """Kill the children that are still running after `seconds`, once the worker was asked to stop."""
        timer = threading.Timer(seconds, self._end_all)
        timer.daemon = True
        timer.start()

    def look(self, elapsed_s: float) -> list[int]:
        """Kill the children that hang and return their process ids. The last check was `elapsed_s` seconds ago."""
        alive = set(self._children())
        for pid in self._watched.keys() - alive:
            del self._watched[pid]
        return [pid for pid in sorted(alive) if self._hangs(pid, elapsed_s)]

    def _hangs(self, pid: int, elapsed_s: float) -> bool:
        watched = self._watched.get(pid) or self._attach(pid)
        if watched is None:
            return False
        beat = watched.record.read()
        watched.silent_s = watched.silent_s + elapsed_s if beat.beats == watched.beats else 0.0
        watched.beats = beat.beats
        if not 0 < beat.patience_s < watched.silent_s:
            return False
        log.error("process %d made no step for %.0f s: killed; its jobs come back", pid, watched.silent_s)
        watched.silent_s = 0.0
        _kill(pid)
        return True

    def _attach(self, pid: int) -> _Watched | None:
        try:
            record = Record(self._folder / str(pid))
        except (OSError, ValueError):
            return None  # the child hasn't created it yet
        self._watched[pid] = _Watched(record, record.read().beats)
        return self._watched[pid]

    def _look_forever(self) -> None:
        last = time.monotonic()
        while True:
            time.sleep(LOOK_S)
            now = time.monotonic()
            try:
                self._after_look(self.look(min(now - last, 2 * LOOK_S)))
            except Exception:
                log.exception("can't look after the children")
            last = now

    def _end_all(self) -> None:
        for pid in self._children():
            log.error("process %d did not stop: killed; its jobs come back", pid)
            _kill(pid)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
