"""Workers since a moment: what each did, how often it was unhealthy, and whether it died."""

from datetime import datetime
from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.queue.sum_usage import usage_by
from jobs.queue.worker_registry import LOST, workers
from jobs.states import WorkerEventKind

_EVENTS = text(f"""
    SELECT worker, min(device) AS device, count(*) FILTER (WHERE kind = '{WorkerEventKind.UNHEALTHY}') AS unhealthy,
        max(at) FILTER (WHERE kind = '{WorkerEventKind.LOST}') AS lost_at,
        (array_agg(reason ORDER BY id DESC) FILTER (WHERE kind = '{WorkerEventKind.UNHEALTHY}'))[1] AS reason
    FROM worker_events WHERE at >= :since GROUP BY worker
""")

_LOST_JOBS = text("""
    SELECT worker, count(*) AS jobs FROM attempts
    WHERE ended_at >= :since AND outcome = 'expired' AND worker IS NOT NULL
      AND (CAST(:tenant AS text) IS NULL OR EXISTS (
        SELECT FROM jobs WHERE jobs.id = job_id AND tenant = :tenant))
    GROUP BY worker
""")

_NOTHING = {
    "device": "", "images": 0, "worker_s": 0.0, "device_s": 0.0, "images_per_s": None, "state": "gone",
    "unhealthy_spells": 0, "reason": None, "lost_at": None, "jobs_lost": 0,
}  # fmt: skip


def workers_since(engine: Engine, since: datetime, tenant: str | None = None) -> list[dict[str, Any]]:
    """Return what workers did since then: those that died first, then those that were unhealthy, then the quickest.

    `state` is "gone" for one that has ended, `jobs_lost` counts leases that ran out in its hands. With a tenant, those
    that worked for it, and what they did and lost of it.
    """
    found: dict[str, dict[str, Any]] = {}

    def add(worker: str, **values: Any) -> None:
        found[worker] = found.get(worker, {"worker": worker, **_NOTHING}) | values

    for use in reversed(usage_by(engine, "worker", "device", since=since, tenant=tenant)):
        add(use["worker"], device=use["device"])  # of several, the one that was used most
    for use in usage_by(engine, "worker", since=since, tenant=tenant):
        pace = use["images"] / use["worker_s"] if use["worker_s"] else None
        add(
            use["worker"],
            images=use["images"],
            worker_s=use["worker_s"],
            device_s=use["device_s"],
            images_per_s=pace,
        )
    for row in run(engine, _LOST_JOBS, {"since": since, "tenant": tenant}):
        add(row.worker, jobs_lost=row.jobs)
    is_meant = set(found).__contains__ if tenant is not None else lambda _: True
    for row in run(engine, _EVENTS, {"since": since}):
        device = found.get(row.worker, {}).get("device") or row.device
        add(row.worker, device=device, unhealthy_spells=row.unhealthy, reason=row.reason, lost_at=row.lost_at)
    for worker in workers(engine):
        known = found.get(worker.name, {})
        add(worker.name, state=worker.shown_state, device=known.get("device") or worker.device)
        if worker.shown_state == LOST:
            add(worker.name, lost_at=worker.seen_at)
    return sorted((one for one in found.values() if is_meant(one["worker"])), key=_worst_first)


def _worst_first(worker: dict[str, Any]) -> tuple[object, ...]:
    is_dead = worker["lost_at"] is not None or worker["jobs_lost"] > 0
    return not is_dead, -worker["unhealthy_spells"], -worker["images"], worker["worker"]
