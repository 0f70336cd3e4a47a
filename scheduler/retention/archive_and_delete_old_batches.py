"""Archives and deletes batches that ended long ago, as NIGHTMILL_KEEP_JOBS and NIGHTMILL_KEEP_BATCHES say, in a thread.

One scheduler does so at a time, a few batches a round. What was cut off goes on in a later round.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from jobs.batches.drop_jobs_and_delete_batches import archive, delete
from jobs.batches.selection.batch_filters import BatchFilter, find_batches
from jobs.batches.status import BatchStatus, status_by_id
from jobs.errors import NightmillError, ServiceError, UsageError
from jobs.job_dataclasses import BatchId
from jobs.process_lifecycle import SignalSafeEvent
from jobs.rate_limited_log import RateLimitedLog
from jobs.settings import Settings
from scheduler.retention.exports_and_consumers_that_need_a_batch import who_needs

log = logging.getLogger(__name__)

LOCK = 0x6E6D7265
"""Advisory lock key of the scheduler that archives and deletes."""
ROUND_S = 60.0
KEPT_S = 600.0
"""After this time, it is looked again whether a batch that somebody needed can be deleted."""
A_ROUND = 10
"""How many batches are archived, and how many deleted, in a round."""

_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:key)")


class _StoppingError(NightmillError):
    """The scheduler stops: what is left of a batch is done by the next one."""


def retention_said(settings: Settings) -> str:
    """Return what the settings say of ended batches."""
    said = [
        *([f"archive batches {settings.keep_jobs} after their end"] if settings.keep_jobs else []),
        *(
            [f"delete batches {settings.keep_batches} after their end, files stay"]
            if settings.keep_batches
            else []
        ),
    ]
    return f"schedulers {' and '.join(said)}" if said else "off: no batch is archived or deleted by itself"


class Retention:
    """The retention policy of one scheduler, applied round by round."""

    def __init__(self, settings: Settings, engine: Engine, stopping: SignalSafeEvent) -> None:
        self._settings, self._engine, self._stopping = settings, engine, stopping
        self._told: dict[BatchId, str] = {}
        self._kept_until: dict[BatchId, float] = {}
        self._repeated = RateLimitedLog(log, every_s=3600)

    @property
    def is_on(self) -> bool:
        """Whether anything is to be archived or deleted."""
        return self._settings.keep_jobs_s is not None or self._settings.keep_batches_s is not None

    def start(self) -> threading.Thread:
        """Begin in a thread, which ends when the scheduler stops, and at once if the policy is off."""
        thread = threading.Thread(target=self._run, daemon=True, name="retention")
        thread.start()
        return thread

    def round(self) -> int:
        """Archive and delete a few of the batches that are due, unless another scheduler does; returns how many."""
        with self._sole() as is_sole:
            if not is_sole:
                return 0
            try:
                return self._delete_due() + self._archive_due()
            except _StoppingError:
                return 0

    def _run(self) -> None:
        while self.is_on and not self._stopping.is_set():
            done = 0
            try:
                done = self.round()
            except (SQLAlchemyError, ServiceError) as error:
                reason = str(error).splitlines()[0]
                self._repeated.tell(reason, f"retention: {reason}")
            except Exception:
                log.exception("retention")
            self._stopping.wait(1.0 if done >= A_ROUND else ROUND_S)

    @contextmanager
    def _sole(self) -> Iterator[bool]:
        """Hold the lock, in a transaction that writes nothing and doesn't hold the feed back; yields if it was free."""
        with self._engine.connect() as connection:
            yield bool(connection.execute(_TRY_LOCK, {"key": LOCK}).scalar_one())
            connection.rollback()

    def _delete_due(self) -> int:
        if self._settings.keep_batches_s is None:
            return 0
        deleted = 0
        for batch in find_batches(self._engine, BatchFilter(ended_before_s=self._settings.keep_batches_s)):
            if deleted == A_ROUND:
                break
            if time.monotonic() < self._kept_until.get(batch, 0.0):
                continue
            if (reason := who_needs(self._engine, batch)) is None:
                deleted += self._change(batch, self._delete)
            else:
                self._kept_until[batch] = time.monotonic() + KEPT_S
                self._tell_kept(batch, reason)
        return deleted

    def _archive_due(self) -> int:
        if self._settings.keep_jobs_s is None:
            return 0
        wanted = BatchFilter(ended_before_s=self._settings.keep_jobs_s, has_jobs=True)
        due = find_batches(self._engine, wanted)[:A_ROUND]
        return sum(self._change(batch, self._archive) for batch in due)

    def _change(self, batch: BatchId, change: Callable[[BatchStatus], None]) -> bool:
        self._go_on(0)
        try:
            change(status_by_id(self._engine, batch))
        except UsageError as error:  # a person has deleted it meanwhile, or queued jobs of it again
            self._tell_kept(batch, str(error))
            return False
        self._told.pop(batch, None)
        self._kept_until.pop(batch, None)
        return True

    def _delete(self, batch: BatchStatus) -> None:
        rows = delete(
            self._engine,
            batch,
            on_rows=self._go_on,
            by="retention",
            ended_before_s=self._settings.keep_batches_s,
        )
        age = self._settings.keep_batches
        log.info("batch %s ended over %s ago and is deleted: %d rows; its files stay", batch.name, age, rows)

    def _archive(self, batch: BatchStatus) -> None:
        jobs = archive(self._engine, batch, on_rows=self._go_on, ended_before_s=self._settings.keep_jobs_s)
        log.info(
            "batch %s ended over %s ago and is archived: %d jobs", batch.name, self._settings.keep_jobs, jobs
        )

    def _tell_kept(self, batch: BatchId, reason: str) -> None:
        """Log why a batch is kept, once for each reason."""
        if self._told.get(batch) != reason:
            self._told[batch] = reason
            log.warning("batch number %d is kept: %s", batch, reason)

    def _go_on(self, rows: int) -> None:
        del rows
        if self._stopping.is_set():
            raise _StoppingError("stopping")
