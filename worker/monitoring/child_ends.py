"""Counts the child processes of a worker that end and are replaced, by the reason."""

from collections.abc import Collection, Sequence
from typing import Any

from jobs.monitoring import metrics


class ChildEnds:
    """Compares the pool's processes with those of the last look; nothing is counted once the worker `is_stopping`."""

    def __init__(self) -> None:
        self.is_stopping = False
        self._known: dict[int, Any] = {}
        self._stalled: set[int] = set()

    def look(self, processes: Sequence[Any], stalled: Collection[int]) -> None:
        """Count those that are gone; `stalled` are the ids of those that the watchdog has just killed."""
        self._stalled |= set(stalled)
        now = {process.pid: process for process in processes if process.pid}
        for pid in self._known.keys() - now.keys():
            if not self.is_stopping:
                metrics.CHILDREN_RESTARTED.add(1, self._reason(self._known[pid]))
            self._stalled.discard(pid)
        self._known = now

    def _reason(self, process: Any) -> str:
        if process.pid in self._stalled:
            return "stalled"
        # Not `exitcode`, which would take the process's end away from the pool, which waits for it in another thread.
        code = getattr(process._popen, "returncode", None)
        if code == 0:
            return "unhealthy"
        return "killed" if code is not None and code < 0 else "crashed"
