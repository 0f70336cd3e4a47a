"""What `up` does at requests: change the number of its workers, restart its processes one after the other."""

import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

import psutil
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from console.process_control import up_requests
from console.process_control.background_up import UpReport
from console.process_control.supervisor import Child, ProcessGroup
from console.process_control.up_requests import UpRequest
from console.terminal.output import note
from jobs.errors import UsageError
from jobs.queue.worker_registry import workers
from jobs.settings import Settings

READY_S = 120.0
"""How long a restarted process may take to be ready until the next one is restarted nevertheless."""

SCHEDULER_S = 1.0
"""A scheduler that lives for so long has read its settings."""

IsReady = Callable[[Child], bool]


class RollingRestart:
    """Restarts processes one after the other: each when the one before it is ready again, so that others work on."""

    def __init__(self, children: Sequence[Child], is_ready: IsReady) -> None:
        self.failure: str | None = None
        """Why the others were not restarted."""
        self._waiting, self._is_ready = deque(children), is_ready
        self._current: Child | None = None

    def is_done(self) -> bool:
        """Restart the next process if it is time; returns whether all are ready, or one can't start anew."""
        if self._current is not None and (trouble := self._current.trouble) is not None:
            self.failure = f"{trouble}; the other processes were not restarted"
            return True
        if self._current is not None and not self._is_back(self._current):
            return False
        if not self._waiting:
            return True
        self._current = self._waiting.popleft()
        self._current.restart()
        return False

    def _is_back(self, child: Child) -> bool:
        if child.is_stopping or child.due is not None:
            return False
        return time.monotonic() - child.started > READY_S or self._is_ready(child)


class UpControl:
    """Takes requests one after the other; `look` is called again and again."""

    def __init__(self, settings: Settings, members: ProcessGroup, is_ready: IsReady) -> None:
        self._settings, self._members, self._is_ready = settings, members, is_ready
        self._request: UpRequest | None = None
        self._restart: RollingRestart | None = None
        self._answered: str | None = None
        self._refusal: str | None = None
        up_requests.forget(settings)

    def look(self) -> None:
        """Begin the next request, or go on with the one that was begun."""
        if self._request is None and (request := up_requests.take(self._settings)) is not None:
            self._begin(request)
        if self._request is not None and not self._members.is_changing() and self._is_restarted():
            self._answered, self._request = self._request.id, None

    def report(self) -> UpReport:
        """Return what other commands may know."""
        return UpReport(
            workers=self._members.workers,
            worker_pids=self._members.worker_pids(),
            slowed=tuple(self._members.slowed()),
            answered=self._answered,
            refusal=self._refusal,
        )

    def _begin(self, request: UpRequest) -> None:
        self._request, self._refusal, self._restart = request, None, None
        before = list(self._members.children)
        try:
            if request.workers is not None:
                self._members.resize(request.workers)
        except UsageError as error:
            self._refusal = str(error)
            return
        note(f"asked for {request.workers} workers" if request.workers is not None else "asked for a restart")
        if request.restart:
            kept = [child for child in before if child in self._members.children and not child.is_leaving]
            self._restart = RollingRestart(kept, self._is_ready)

    def _is_restarted(self) -> bool:
        if self._restart is None:
            return True
        is_done = self._restart.is_done()
        self._refusal = self._restart.failure
        return is_done


def is_ready(engine: Engine, child: Child) -> bool:
    """Whether a scheduler has started, or a worker has registered in the table of workers."""
    assert child.process is not None
    if child.role != "worker":
        return time.monotonic() - child.started > SCHEDULER_S
    try:
        pids = [process.pid for process in psutil.Process(child.process.pid).children(recursive=True)]
        names = {f"{socket.gethostname()}:{pid}" for pid in pids}
        return any(worker.name in names for worker in workers(engine))
    except (psutil.Error, SQLAlchemyError):
        return False
