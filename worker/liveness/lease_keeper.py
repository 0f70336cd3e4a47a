"""Keeps this process's job leases, renewed by a background thread for as long as the process lives."""

import logging
import threading
from collections.abc import Callable, Iterable
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from jobs.job_dataclasses import Job, JobId
from jobs.monitoring import metrics
from jobs.queue import transitions
from jobs.states import DEFAULT_POOL
from worker.liveness.worker_registration import Registration

log = logging.getLogger(__name__)


class LeaseKeeper:
    """The leases that this worker holds. A job whose lease PostgreSQL no longer extends is dropped; see `holds`.

    It also keeps the worker's row in the table of workers. `on_renewal` is called after each renewal.
    """

    def __init__(
        self, engine: Engine, worker: str, device: str, lease_s: float, pool: str = DEFAULT_POOL
    ) -> None:
        self.engine = engine
        self.worker = worker
        self.device = device
        self.registration = Registration(engine, worker, device, pool)
        self.lease_s = lease_s
        self.on_renewal: Callable[[], object] = lambda: None
        self._held: dict[JobId, UUID] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._renew_forever, daemon=True, name="leases")

    def start(self) -> None:
        """Register in the table of workers and begin to renew."""
        self._thread.start()

    def add(self, jobs: Iterable[Job]) -> None:
        """Renew the leases of these jobs, too."""
        with self._lock:
            self._held |= {job.id: job.lease for job in jobs}

    def drop(self, jobs: Iterable[Job]) -> None:
        """Stop renewing the leases of these jobs, which have ended."""
        self._forget((job.id, job.lease) for job in jobs)

    def lose(self, ids: Iterable[int]) -> None:
        """Forget the leases of these jobs, which PostgreSQL no longer has, and count those not known to be lost."""
        with self._lock:
            known = [job_id for job_id in map(JobId, ids) if self._held.pop(job_id, None)]
        metrics.LEASES_LOST.add(len(known))

    def release(self, jobs: Iterable[Job]) -> None:
        """Release these jobs to the queue at once, without counting an attempt."""
        self._give_back([(job.id, job.lease) for job in jobs if self.holds(job)])

    def release_all(self) -> None:
        """Release all jobs still held to the queue at once, without counting an attempt."""
        with self._lock:
            held = list(self._held.items())
        self._give_back(held)

    def refused(self, jobs: Iterable[tuple[JobId, UUID]]) -> None:
        """Give back jobs, given with their leases, whose end PostgreSQL refused to record.

        Where the lease is still this worker's, as when the batch got another safety policy, the job is released at
        once, without counting an attempt. The leases of the others are lost.
        """
        pairs = list(jobs)
        released = transitions.release(self.engine, pairs)
        self._forget((job, lease) for job, lease in pairs if job in released)
        self.lose(job for job, lease in pairs if job not in released and self._held.get(job) == lease)

    def holds(self, job: Job) -> bool:
        """Whether this worker held the job's lease at the last renewal."""
        return self._held.get(job.id) == job.lease

    def stop(self) -> None:
        """End the thread and delete the worker's row in the table of workers."""
        self._stopping.set()
        self._thread.join(timeout=5)
        self.registration.delete()

    def _give_back(self, held: list[tuple[JobId, UUID]]) -> None:
        """Stop renewing the leases, even if PostgreSQL can't be reached, and release the jobs."""
        self._forget(held)
        if held:
            transitions.release(self.engine, held)

    def _forget(self, held: Iterable[tuple[JobId, UUID]]) -> None:
        """Remove these leases; a newer lease of the same job stays."""
        with self._lock:
            for job_id, lease in held:
                if self._held.get(job_id) == lease:
                    del self._held[job_id]

    def _renew_forever(self) -> None:
        while True:
            try:
                self._renew()
            except SQLAlchemyError as error:
                log.warning("can't renew leases: %s", str(error).splitlines()[0])
            except Exception:  # if the thread ended, all leases would expire one after the other, unnoticed
                log.exception("can't renew leases")
            if self._stopping.wait(self.lease_s / 4):
                return

    def _renew(self) -> None:
        self.registration.renew()
        self._extend()
        self.on_renewal()

    def _extend(self) -> None:
        with self._lock:
            held = list(self._held.items())
        if not held:
            return
        kept = transitions.extend(self.engine, held, self.lease_s)
        self.lose(job_id for job_id, lease in held if job_id not in kept and self._held.get(job_id) == lease)
