"""Batches that ended since a moment or are still to end, the worst first, each with what is wrong with it."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from sqlalchemy import Engine

from jobs.batches.accepted_image_quotas import Shortfall, shortfall
from jobs.batches.status import BatchStatus, statuses
from jobs.queue.sum_usage import usage_by
from jobs.states import BatchState

FAILED_SHARE = 0.05
"""A batch with more failed jobs than this has failed, even if most of its images are there."""


class Verdict(IntEnum):
    """What is to be said of a batch first; the lower, the worse."""

    STOPPED = 0
    """Paused by nightmill itself, such as by its canary."""
    LATE = 1
    """It ended after its deadline, or is past it."""
    SHORT = 2
    """It ended without as many accepted images as wanted."""
    FAILED = 3
    """More than FAILED_SHARE of its jobs failed."""
    WAITING = 4
    """No worker can go on with it."""
    WILL_BE_LATE = 5
    """It is expected to miss its deadline."""
    PAUSED = 6
    REJECTED = 7
    """It ended without some of its manifest's rows."""
    RUNNING = 8
    QUEUED = 9
    CANCELLED = 10
    DONE = 11

    @property
    def text(self) -> str:
        """Return it as JSON and tables have it."""
        return self.name.lower().replace("_", " ")


def batches_since(engine: Engine, since: datetime, tenant: str | None = None) -> list[dict[str, Any]]:
    """Return batches that ended since then or have unfinished jobs, the worst first; those of one tenant if given."""
    images = {use["batch_id"]: use["images"] for use in usage_by(engine, "batch_id", since=since)}
    found = [
        (_verdict(status, short), status, short)
        for status in statuses(engine)
        if _belongs(status, since) and (tenant is None or tenant in status.tenants)
        for short in [_short(engine, status)]
    ]
    found.sort(key=lambda one: (one[0], -(one[1].late_s or 0), one[1].id))
    return [
        _described(status, verdict, short) | {"tenants": status.tenants, "images": images.get(status.id, 0)}
        for verdict, status, short in found
    ]


def _belongs(status: BatchStatus, since: datetime) -> bool:
    return bool(status.remaining) or (status.ended_at or status.created_at) >= since


def _short(engine: Engine, status: BatchStatus) -> Shortfall | None:
    """Return what an ended batch lacks of its target, if it has one: that reads all its jobs."""
    has_target = not status.remaining and "target" in json.loads(status.policy)
    found = shortfall(engine, status.id) if has_target else None
    return found if found and found.images else None


def _verdict(status: BatchStatus, short: Shortfall | None) -> Verdict:
    if status.remaining:
        return _verdict_of_unfinished(status)
    jobs = sum(status.counts.values())
    if status.late_s is not None:
        return Verdict.LATE
    if short:
        return Verdict.SHORT
    if status.counts["failed"] > FAILED_SHARE * jobs or (status.rejected and not jobs):
        return Verdict.FAILED
    if status.state == BatchState.CANCELLED:
        return Verdict.CANCELLED
    return Verdict.REJECTED if status.rejected else Verdict.DONE


def _verdict_of_unfinished(status: BatchStatus) -> Verdict:
    reasons: Mapping[Verdict, object] = {
        Verdict.STOPPED: status.stopped_because and status.state == BatchState.PAUSED,
        Verdict.LATE: status.late_s is not None,
        Verdict.WAITING: status.waiting and status.state != BatchState.PAUSED,
        Verdict.WILL_BE_LATE: status.misses_deadline,
        Verdict.PAUSED: status.state == BatchState.PAUSED,
        Verdict.CANCELLED: status.state == BatchState.CANCELLED,
        Verdict.RUNNING: status.counts["running"],
    }
    return next((verdict for verdict, holds in sorted(reasons.items()) if holds), Verdict.QUEUED)


def _described(status: BatchStatus, verdict: Verdict, short: Shortfall | None) -> dict[str, Any]:
    ended = status.counts["done"] + status.counts["blocked"]
    report = status.report()
    names = (
        "batch", "name", "state", "counts", "rows", "rejected", "started_at", "ended_at", "deadline", "late_s",
        "misses_deadline", "stopped_because", "waiting", "eta_s",
    )  # fmt: skip
    ends_at = (
        status.now + timedelta(seconds=status.eta_s)
        if status.remaining and status.eta_s is not None
        else None
    )
    return {
        "verdict": verdict.text,
        **{name: report[name] for name in names},
        "ends_at": ends_at and ends_at.isoformat(),
        "blocked_share": round(status.counts["blocked"] / ended, 4) if ended else 0.0,
        "short": short and short.report(),
        "paused_because": [pause["reason"] for pause in status.standing_pauses if pause["reason"]],
    }
