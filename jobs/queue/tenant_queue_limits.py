"""Limits of a tenant's open jobs, checked where a manifest adds jobs: while it is read, and before the commit.

Several submits at once may each fit and be too many together. So the last check, of all jobs, is made under a lock of
the tenant that is held until the commit. Workers never take it.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from jobs.errors import NightmillError
from jobs.job_dataclasses import BatchId
from jobs.queue.sql_predicates import IS_LIVE
from jobs.states import OPEN, sql_list

_LIMITS = f"""
    SELECT name, max_queued, coalesce((
        SELECT sum(delta) FROM lanes JOIN job_counts ON job_counts.batch_id = lanes.batch_id AND lane_id = lanes.id
        WHERE lanes.tenant = tenants.name AND {IS_LIVE} AND state IN ({sql_list(OPEN)})), 0)::bigint AS open
    FROM tenants WHERE max_queued IS NOT NULL"""

_ALL = text(_LIMITS)
_OF_BATCH = text(f"{_LIMITS} AND name IN (SELECT tenant FROM lanes WHERE batch_id = :batch) ORDER BY name")
_LOCK = text("""
    SELECT pg_advisory_xact_lock(hashtextextended('open jobs of tenant ' || name, 0)) FROM (
        SELECT name FROM tenants
        WHERE max_queued IS NOT NULL AND name IN (SELECT tenant FROM lanes WHERE batch_id = :batch)
        ORDER BY name OFFSET 0) AS found
""")


class TooManyOpenJobsError(NightmillError):
    """A tenant would have more open jobs than it may have; nothing was stored."""


@dataclass(frozen=True)
class QueueLimit:
    """How many open jobs a tenant may have when it submits, and how many it has."""

    max_queued: int
    open: int

    def check(self, tenant: str, jobs: int, place: str) -> None:
        """Raise TooManyOpenJobsError if so many more jobs are too many; `place` says how far a manifest was read."""
        if self.open + jobs > self.max_queued:
            raise TooManyOpenJobsError(
                f"{place}: tenant {tenant} may have {self.max_queued:,} open jobs and has {self.open:,}, and the "
                f"manifest adds {jobs:,} up to here; nothing was stored. Wait until some have ended, or "
                f"`nightmill tenants set {tenant} --max-queued N`"
            )


def queue_limits(connection: Connection) -> dict[str, QueueLimit]:
    """Return the limits of all tenants that have one."""
    return {row.name: QueueLimit(row.max_queued, row.open) for row in connection.execute(_ALL)}


def check_open_jobs(connection: Connection, batch: BatchId, label: str) -> None:
    """Raise TooManyOpenJobsError if a tenant has too many open jobs, those that this transaction has added included.

    Waits for others that check the same tenants; call it last, right before the commit.
    """
    connection.execute(_LOCK, {"batch": batch})
    for row in connection.execute(_OF_BATCH, {"batch": batch}):
        if row.open > row.max_queued:
            raise TooManyOpenJobsError(
                f"{label}: with it tenant {row.name} would have {row.open:,} open jobs, and may have "
                f"{row.max_queued:,}; nothing was stored. Wait until some have ended, or "
                f"`nightmill tenants set {row.name} --max-queued N`"
            )
