"""This worker's row in the table of workers: its pool, and what it is doing."""

import logging
import os
import threading
from collections.abc import Collection
from dataclasses import replace

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from jobs.job_dataclasses import LaneId
from jobs.queue.worker_drains import inherit_drain
from jobs.queue.worker_registry import WorkerReport, forget_worker, report_worker
from jobs.states import WorkerActivity

log = logging.getLogger(__name__)


class Registration:
    """What the worker reports of itself; written at each change and, by the thread that renews the leases, in between.

    Thread-safe. What a report says has no influence on jobs, so a report that can't be written is only logged.
    """

    def __init__(self, engine: Engine, worker: str, device: str, pool: str) -> None:
        self._engine = engine
        self._report = WorkerReport(worker, device, pool)
        self._lock = threading.Lock()
        self.is_drained = False
        """Whether an operator has drained it, by the last report; statements that give it jobs look for themselves."""

    def note(
        self, activity: WorkerActivity, lane: LaneId | None = None, warm_models: Collection[str] = ()
    ) -> None:
        """Report what the worker does from now on, and the models that it holds."""
        with self._lock:
            report = replace(self._report, activity=activity, lane=lane, warm_models=frozenset(warm_models))
            if report == self._report:
                return
            self._report = report
            try:
                self._write()
            except SQLAlchemyError as error:
                log.warning("can't report what this worker does: %s", str(error).splitlines()[0])

    def renew(self) -> None:
        """Write the last report again, which shows that the worker lives. It is idle once it has done so."""
        with self._lock:
            self._write()
            if self._report.activity is WorkerActivity.STARTING:
                self._report = replace(self._report, activity=WorkerActivity.IDLE)

    def take_over_drain(self) -> None:
        """Register, and be drained if the worker in whose place this one starts was; called before it takes jobs.

        It registers first: others that start at the same time see that whoever took over a drain is there.
        """
        with self._lock:
            self._write()
        if inherit_drain(self._engine, self._report.worker, self._report.device, _is_running):
            log.warning("drained, like the worker that was in its place")

    def _write(self) -> None:
        is_drained = report_worker(self._engine, self._report)
        if is_drained != self.is_drained:
            log.warning("drained: takes no jobs" if is_drained else "undrained: takes jobs again")
        self.is_drained = is_drained

    def delete(self) -> None:
        """Delete the row: this worker has ended."""
        forget_worker(self._engine, self._report.worker)


def _is_running(worker: str) -> bool:
    """Whether there is a process with the id that is in the name of a worker of this host."""
    try:
        os.kill(int(worker.rpartition(":")[2]), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
