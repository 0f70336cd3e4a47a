"""Status of batches: job counts, speed, estimated completion time, and why they wait."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Engine, TextClause, text

from jobs.batches.eta import LaneWork, finish, seconds_left
from jobs.batches.selection.batch_filters import BatchFilter, find_batches
from jobs.batches.selection.batch_state_as_sql import COUNTS, state_sql
from jobs.db.engine import run
from jobs.errors import UsageError
from jobs.job_dataclasses import BatchId
from jobs.policy.stored_policy import report_of
from jobs.queue.pauses import standing_pauses
from jobs.queue.sql_predicates import FOLDER, IS_DRAINED_WORKER, IS_LIVE
from jobs.queue.worker_health_reports import SEEN_S, UnhealthyWorker, unhealthy_workers, waiting
from jobs.states import OPEN, BatchState, CanaryVerdict, JobState, sql_list
from jobs.suggest_names_and_shorten_lists import nearest

RATE_WINDOW_S = 60
_NUMBER = "0|[1-9][0-9]{0,17}"

# Columns of `batches` that are fields of BatchStatus, in the same order.
_PLAIN = (
    "id", "name", "rows", "rejected", "manifest", "output", "created_at", "priority", "window", "opens_at", "closes_at",
    "not_before", "deadline", "canary_verdict", "stopped_because", "archived_at", "max_attempts", "canary",
    "canary_bound", "seed_from", "tags", "paused_at", "pauses", "folder", "tenants", "started_at", "ended_at",
)  # fmt: skip

_DERIVED = {
    "folder": FOLDER,
    "tenants": """ARRAY(
            SELECT DISTINCT tenant FROM lanes WHERE lanes.batch_id = b.id ORDER BY tenant) AS tenants""",
}
_SELECTED = ", ".join(_DERIVED.get(name) or f'b."{name}"' for name in _PLAIN)

_COUNTED = ", ".join(f"coalesce({state}, 0) AS {state}" for state in JobState)

_NOW = text(f"""
    SELECT now() AS now, (
        SELECT count(*) FROM workers
        WHERE seen_at > now() - make_interval(secs => :seen_s) AND NOT {IS_DRAINED_WORKER}) AS workers
""")


def _status_of(batch: str) -> TextClause:
    """Return the status query for the batches whose ids meet the condition; it groups the job counts once."""
    return text(f"""
        WITH counted AS (
            SELECT batch_id, {COUNTS} FROM job_counts WHERE {batch.format("batch_id")} GROUP BY 1
        ), lane AS (
            SELECT lanes.id, lanes.batch_id, image_s, sum(delta) AS remaining,
                coalesce(sum(delta) FILTER (WHERE state = 'running'), 0) AS running
            FROM lanes JOIN job_counts ON job_counts.batch_id = lanes.batch_id AND lane_id = lanes.id
            WHERE {IS_LIVE} AND state IN ({sql_list(OPEN)}) AND {batch.format("lanes.batch_id")}
            GROUP BY lanes.id HAVING sum(delta) > 0
        ), left_over AS (
            SELECT batch_id, jsonb_agg(jsonb_build_array(remaining, running, image_s)) AS work FROM lane GROUP BY 1
        ), lately AS (
            SELECT batch_id, count(*) / greatest(extract(epoch FROM now() - min(created_at)), 0.1) AS images_per_s
            FROM images WHERE created_at > now() - make_interval(secs => :rate_s) AND {batch.format("batch_id")}
              AND batch_id IN (
                SELECT batch_id FROM lanes WHERE {IS_LIVE} OR ended_at > now() - make_interval(secs => :rate_s))
            GROUP BY 1
        )
        SELECT {_SELECTED}, b.policy::text, {_COUNTED}, {state_sql("b", "counted")} AS state, work,
            images_per_s
        FROM batches b LEFT JOIN counted ON counted.batch_id = b.id LEFT JOIN left_over ON left_over.batch_id = b.id
            LEFT JOIN lately ON lately.batch_id = b.id
        WHERE {batch.format("b.id")} ORDER BY b.id
    """)


_ALL, _ONE = _status_of("{} IS NOT NULL"), _status_of("{} = :id")
_SOME = _status_of("{} = ANY (CAST(:ids AS bigint[]))")
_STATES = [state.value for state in JobState]
_FIRST_COUNT, _LAST_COUNT = len(_PLAIN) + 1, len(_PLAIN) + 1 + len(_STATES)

_FOUND = text("SELECT id, name FROM batches WHERE name = :text OR id = :number")
_NAMES = text("SELECT name FROM batches ORDER BY id")


class BatchStatus(NamedTuple):
    """Status of a batch; `images_per_s` is measured over the last minute, `eta_s` is None if unknown."""

    # The columns of _PLAIN come first: thousands of these are made at once, which is fast only by position.
    id: BatchId
    name: str
    rows: int
    rejected: int
    manifest: str
    output: str
    created_at: datetime
    priority: int
    window: str | None
    opens_at: datetime | None
    closes_at: datetime | None
    not_before: datetime | None
    deadline: datetime | None
    canary_verdict: str | None
    stopped_because: str | None
    archived_at: datetime | None
    max_attempts: int
    canary: int
    canary_bound: float
    seed_from: str
    tags: list[str]
    paused_at: datetime | None
    pauses: dict[str, Any]
    """A record of each pause that stands; see `standing_pauses`."""
    folder: str
    """Where its files are below the output: its first name."""
    tenants: list[str]
    """Whose jobs it has; "": rows without a tenant."""
    started_at: datetime | None
    """When a worker first picked one of its lanes."""
    ended_at: datetime | None
    """When the scheduler saw that no job was left; None while there are some."""
    policy: str
    """The keys that aren't columns and not their defaults, as JSON: most callers read none of it."""
    state: BatchState
    counts: dict[str, int]
    images_per_s: float
    eta_s: float | None
    now: datetime
    waiting: str | None = None
    """The reason why no worker can process it."""
    unhealthy: tuple[UnhealthyWorker, ...] = ()

    @property
    def remaining(self) -> int:
        """Jobs that are neither done nor ended otherwise."""
        return open_jobs(self.counts)

    @property
    def starts_at(self) -> datetime | None:
        """When the batch may run next; None if it may run now."""
        moments = [moment for moment in (self.not_before, self.opens_at) if moment and moment > self.now]
        return max(moments, default=None)

    @property
    def late_s(self) -> float | None:
        """Seconds by which the batch ended after its deadline, or by which it is late so far; None: it isn't late."""
        if self.deadline is None:
            return None
        end = self.now if self.remaining else self.ended_at or self.now
        return max(0.0, (end - self.deadline).total_seconds()) or None

    @property
    def misses_deadline(self) -> bool | None:
        """Whether the batch has missed its deadline or is expected to miss it; None if that can't be told yet."""
        if self.deadline is None or self.late_s:
            return self.late_s is not None
        if not self.remaining:
            return False
        return None if self.eta_s is None else self.now + timedelta(seconds=self.eta_s) > self.deadline

    @property
    def is_stopped_by_canary(self) -> bool:
        """Whether its canary has paused it, and nobody has overruled that."""
        return self.canary_verdict == CanaryVerdict.STOPPED

    @property
    def standing_pauses(self) -> list[dict[str, Any]]:
        """The pauses that stand: by (name, all, tenant:NAME), who, at, reason; without that of a canary."""
        return standing_pauses(self.paused_at, self.pauses, is_stopped=self.is_stopped_by_canary)

    def report(self) -> dict[str, Any]:
        """Return the values that `status --json` prints."""
        return {
            "batch": self.id,
            "name": self.name,
            "state": self.state,
            "counts": self.counts,
            "rejected": self.rejected,
            "images_per_s": round(self.images_per_s, 3),
            "eta_s": self.eta_s and round(self.eta_s, 1),
            "rows": self.rows,
            "manifest": self.manifest,
            "output": self.output,
            "created_at": self.created_at.isoformat(),
            "priority": self.priority,
            "window": self.window,
            "starts_at": _iso(self.starts_at),
            "not_before": _iso(self.not_before),
            "deadline": _iso(self.deadline),
            "misses_deadline": self.misses_deadline,
            "late_s": self.late_s and round(self.late_s, 1),
            "started_at": _iso(self.started_at),
            "ended_at": _iso(self.ended_at),
            "canary": self.canary_verdict,
            "stopped_because": self.stopped_because,
            "paused_at": _iso(self.paused_at),
            "pauses": self.standing_pauses,
            "archived_at": _iso(self.archived_at),
            "tags": self.tags,
            "tenants": self.tenants,
            "policy": report_of(self._asdict() | {"policy": json.loads(self.policy)}),
            "waiting": self.waiting,
            "unhealthy_workers": [worker.report() for worker in self.unhealthy],
        }


def statuses(engine: Engine, wanted: BatchFilter | None = None) -> list[BatchStatus]:
    """Return the status of all batches, or of those that meet the filter, oldest first."""
    if wanted is None:
        return _with_health(engine, _look(engine, _ALL, {}))
    return _with_health(engine, _look(engine, _SOME, {"ids": find_batches(engine, wanted)}))


def status(engine: Engine, batch: str) -> BatchStatus:
    """Return the status of a batch by name or id.

    Raises UsageError if there is none, suggesting a similar name, or if the text is one batch's name and another's id.
    """
    return status_by_id(engine, _id_of(engine, batch))


def status_by_id(engine: Engine, batch: BatchId) -> BatchStatus:
    """Return the status of a batch that was there. Raises UsageError if it isn't any more."""
    found = _look(engine, _ONE, {"id": batch})
    if not found:
        raise UsageError(f"batch number {batch} was deleted just now")
    return _with_health(engine, found)[0]


def _with_health(engine: Engine, found: Sequence[BatchStatus]) -> list[BatchStatus]:
    """Add the unhealthy workers, and the reason why no worker can process it, to each unfinished batch."""
    if not any(one.remaining for one in found):
        return list(found)
    unhealthy = tuple(unhealthy_workers(engine))
    kept = waiting(engine)
    return [
        one._replace(waiting=kept.reason(one.id), unhealthy=unhealthy) if one.remaining else one
        for one in found
    ]


def _look(engine: Engine, statement: TextClause, which: Mapping[str, object]) -> list[BatchStatus]:
    (seen,) = run(engine, _NOW, {"seen_s": SEEN_S})
    rows = run(engine, statement, {**which, "rate_s": RATE_WINDOW_S})
    return [_status(row, seen.now, seen.workers) for row in rows]


def _id_of(engine: Engine, batch: str) -> BatchId:
    number = int(batch) if re.fullmatch(_NUMBER, batch) else None
    found = run(engine, _FOUND, {"text": batch, "number": number})
    if len(found) > 1:
        named = next(row for row in found if row.name == batch)
        other = next(row for row in found if row is not named)
        raise UsageError(
            f"{batch} is the name of batch number {named.id} and the number of batch {other.name!r}: "
            f"say {named.id} or {other.name}"
        )
    if not found:
        names = [row.name for row in run(engine, _NAMES, {})]
        near = nearest(batch, names)
        hint = f"did you mean {near!r}?" if near else "`nightmill status` lists those there are"
        raise UsageError(f"no batch {batch!r}: {hint}")
    return BatchId(found[0].id)


def open_jobs(counts: Mapping[str, int]) -> int:
    """Return how many jobs are still to be rendered."""
    return sum(counts[state] for state in OPEN)


def is_number(text: str) -> bool:
    """Whether the text looks like a batch id; such names are refused for new batches."""
    return re.fullmatch("[0-9]+", text) is not None


def _status(row: Any, now: datetime, workers: int) -> BatchStatus:
    counts = dict(zip(_STATES, row[_FIRST_COUNT:_LAST_COUNT], strict=True))
    remaining = open_jobs(counts)
    rate, state = float(row.images_per_s or 0), BatchState(row.state)
    eta_s = _eta_s(row, rate, state, now, workers) if remaining else 0.0
    return BatchStatus._make((*row[:_FIRST_COUNT], state, counts, rate, eta_s, now, None, ()))


def _eta_s(row: Any, images_per_s: float, state: BatchState, now: datetime, workers: int) -> float | None:
    if state in (BatchState.PAUSED, BatchState.CANCELLED):
        return None
    lanes = [LaneWork(int(left), int(running), image_s) for left, running, image_s in row.work or ()]
    open_s = seconds_left(lanes, images_per_s, workers)
    end = None if open_s is None else finish(open_s, now, row.not_before, row.window)
    return None if end is None else (end - now).total_seconds()


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
