"""Finds out what webhooks are to be told: batches that ended, are late or fall short, and unhealthy workers.

Several schedulers may look at once: what has happened has a key, and each webhook gets one message of it.
"""

import json
import logging
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, text

from jobs.batches.accepted_image_quotas import make_up, short
from jobs.batches.status import BatchStatus, status
from jobs.db.engine import database_time, run
from jobs.errors import UsageError
from jobs.job_dataclasses import BatchId
from jobs.queue.sql_predicates import IS_LIVE
from jobs.queue.worker_health_reports import unhealthy_workers
from jobs.rate_limited_log import RateLimitedLog
from jobs.settings import Settings
from jobs.webhooks.batch_end_hooks import begin_hook, check_hook, queue_for_hook
from jobs.webhooks.webhook_events import WANTS, EventType, emit_now

log = logging.getLogger(__name__)

SETTLED_S = 60.0
"""A worker must have been unhealthy, and a batch expected late, for so long: estimates and hosts recover."""
_LONGEST_VALUE = 200
_TOLD = (
    "batch", "name", "state", "counts", "rejected", "rows", "manifest", "output", "created_at", "deadline",
    "misses_deadline", "late_s", "started_at",
)  # fmt: skip

_WANTED = text(f"""
    SELECT event FROM unnest(CAST(:events AS text[])) AS event
    WHERE EXISTS (SELECT FROM webhooks WHERE {WANTS.format(event="event")})
""")  # noqa: S608 - constants, as below

_ENDED = text("""
    SELECT b.id, b.name, max(lanes.ended_at) AS ended_at FROM batches b JOIN lanes ON batch_id = b.id
    WHERE b.id IN (SELECT batch_id FROM lanes WHERE ended_at > now() - interval '1 day') AND b.archived_at IS NULL
    GROUP BY b.id HAVING bool_and(lanes.ended_at IS NOT NULL)
""")

_HAS_HOOKS = text("""
    SELECT EXISTS (
        SELECT FROM batches WHERE policy ? 'on_end' AND archived_at IS NULL
          AND (ended_at IS NULL OR ended_at > now() - interval '1 day')) AS has_hooks
""")

_STOPPED = text("""
    SELECT id, name, paused_at FROM batches
    WHERE stopped_because IS NOT NULL AND paused_at > now() - interval '1 day' AND archived_at IS NULL
""")

_WITH_DEADLINE = text(f"""
    SELECT name FROM batches
    WHERE deadline > now() - interval '1 day' AND cancelled_at IS NULL AND archived_at IS NULL
      AND EXISTS (SELECT FROM lanes WHERE batch_id = batches.id AND {IS_LIVE})
""")  # noqa: S608


class Detector:
    """Looks for events; what was dealt with is remembered, so that little is asked for twice."""

    def __init__(
        self, engine: Engine, settings: Settings | None = None, *, settled_s: float = SETTLED_S
    ) -> None:
        self._engine, self._settled = engine, timedelta(seconds=settled_s)
        self._hook = settings.on_end if settings else None
        self._hook_since: datetime | None = None
        self._allows_commands = settings is not None and settings.allows_commands
        self._repeated = RateLimitedLog(log)
        self._dealt_with: set[tuple[int, datetime]] = set()
        self._late_since: dict[str, datetime] = {}

    def look(self) -> int:
        """Queue messages for what has happened; returns how many. Looks only for what a webhook or hook wants."""
        wanted = {row.event for row in run(self._engine, _WANTED, {"events": list(EventType)})}
        if self._hook and self._hook_since is None:
            self._hook_since = begin_hook(self._engine, self._hook)
        if self._hook or run(self._engine, _HAS_HOOKS, {})[0].has_hooks:
            wanted |= {EventType.BATCH_ENDED, EventType.BATCH_STOPPED}
        queued = 0
        if wanted & {EventType.BATCH_ENDED, EventType.BATCH_SHORT}:
            queued += self._ended()
        if EventType.BATCH_STOPPED in wanted:
            queued += self._stopped()
        if EventType.BATCH_LATE in wanted:
            queued += self._late()
        if EventType.WORKER_UNHEALTHY in wanted:
            queued += self._unhealthy()
        return queued

    def _ended(self) -> int:
        """Tell of batches that ended within a day, unless replacements are still to be queued."""
        rows, queued = run(self._engine, _ENDED, {}), 0
        for row in rows:
            if (row.id, row.ended_at) in self._dealt_with or make_up(self._engine, BatchId(row.id)):
                continue
            found = self._status(row.name)
            if found is None or found.remaining:
                continue
            what, ended = f"{row.id}:{row.ended_at.timestamp()}", {"ended_at": row.ended_at.isoformat()}
            data = _of_batch(found) | ended
            queued += self._emit(found, EventType.BATCH_ENDED, what, data, row.ended_at)
            if values := self._lacking(found):
                data |= {"target": found.report()["policy"]["target"], "values": values}
                queued += emit_now(self._engine, EventType.BATCH_SHORT, what, data, row.ended_at)
            self._dealt_with.add((row.id, row.ended_at))
        self._dealt_with &= {(row.id, row.ended_at) for row in rows}
        return queued

    def _stopped(self) -> int:
        """Tell of batches that nightmill itself has paused within a day."""
        queued = 0
        for row in run(self._engine, _STOPPED, {}):
            if (found := self._status(row.name)) and found.stopped_because:
                data = _of_batch(found) | {"stopped_because": found.stopped_because}
                what = f"{row.id}:{row.paused_at.timestamp()}"
                queued += self._emit(found, EventType.BATCH_STOPPED, what, data, row.paused_at)
        return queued

    def _emit(
        self, found: BatchStatus, event: EventType, what: str, data: dict[str, Any], at: datetime
    ) -> int:
        """Queue messages for the webhooks, and for the hooks of this batch."""
        queued = emit_now(self._engine, event, what, data, at)
        of_batch = json.loads(found.policy).get("on_end")
        for hook, is_trusted in ((self._hook, True), (of_batch, self._allows_commands)):
            if hook is None or (is_trusted and hook == self._hook and at < (self._hook_since or at)):
                continue
            try:
                check_hook(hook, allows_commands=is_trusted)
            except UsageError as error:
                self._repeated.tell(f"{found.name} {hook}", f"{found.name}: its hook isn't told: {error}")
                continue
            queued += queue_for_hook(self._engine, hook, event, what, data, at, allows_private=is_trusted)
        return queued

    def _lacking(self, found: BatchStatus) -> list[dict[str, object]]:
        values = short(self._engine, found.id)
        return [value | {"value": str(value["value"])[:_LONGEST_VALUE]} for value in values]

    def _late(self) -> int:
        """Tell of batches that have missed their deadline, or have been expected to for a while."""
        rows, queued = run(self._engine, _WITH_DEADLINE, {}), 0
        late = [found for row in rows if (found := self._status(row.name)) and found.misses_deadline]
        self._late_since = {found.name: self._late_since.get(found.name, found.now) for found in late}
        for found in late:
            assert found.deadline is not None
            is_missed = found.now > found.deadline
            if not is_missed and found.now < self._late_since[found.name] + self._settled:
                continue
            what = f"{found.id}:{found.deadline.timestamp()}:{'missed' if is_missed else 'expected'}"
            data = _of_batch(found) | {"is_missed": is_missed, "eta_s": found.report()["eta_s"]}
            at = found.deadline if is_missed else self._late_since[found.name]
            queued += emit_now(self._engine, EventType.BATCH_LATE, what, data, at)
        return queued

    def _unhealthy(self) -> int:
        """Tell of workers that have been unhealthy for a while."""
        now = database_time(self._engine)
        return sum(
            emit_now(
                self._engine,
                EventType.WORKER_UNHEALTHY,
                f"{worker.name}:{worker.since.timestamp()}",
                worker.report(),
                worker.since,
            )
            for worker in unhealthy_workers(self._engine)
            if worker.since + self._settled <= now
        )

    def _status(self, name: str) -> BatchStatus | None:
        try:
            return status(self._engine, name)
        except UsageError:
            return None  # deleted just now


def _of_batch(found: BatchStatus) -> dict[str, Any]:
    report = found.report()
    return {name: report[name] for name in _TOLD}
