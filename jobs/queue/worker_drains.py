"""Drains: workers that an operator has told to finish what they are at and to take no more jobs.

The statements that give jobs to a worker look for its drain (`jobs.queue.sql_predicates.IS_DRAINED`), so that it holds
from the moment at which it is written. A drain stays until it is taken back: workers that start on a drained host are
drained, and so is a worker that takes the place of a drained one, on the same device of its host.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.queue.sql_predicates import IS_TARGET
from jobs.queue.worker_health_reports import SEEN_S
from jobs.queue.worker_registry import AT_WORK
from jobs.states import DrainKind

_DRAIN = text("""
    INSERT INTO worker_drains AS old (kind, target, drained_by, reason, device)
    SELECT kind, target, :drained_by, :reason, (SELECT device FROM workers WHERE kind = 'worker' AND name = target)
    FROM unnest(CAST(:kinds AS text[]), CAST(:targets AS text[])) AS given (kind, target)
    ON CONFLICT (kind, target) DO UPDATE SET reason = coalesce(excluded.reason, old.reason)
    RETURNING kind
""")

_UNDRAIN = text("""
    DELETE FROM worker_drains AS old
    USING unnest(CAST(:kinds AS text[]), CAST(:targets AS text[])) AS given (kind, target)
    WHERE old.kind = given.kind AND old.target = given.target RETURNING old.kind
""")

_LIST = text("""
    SELECT kind, target, since, drained_by, reason FROM worker_drains ORDER BY kind, target
""")

_OF_PLACE = text("""
    SELECT target, coalesce(seen_at > now() - make_interval(secs => :seen_s), false) AS is_seen
    FROM worker_drains AS d LEFT JOIN workers ON name = target
    WHERE kind = 'worker' AND d.device = :device AND starts_with(target, :host || ':') ORDER BY d.since, target
""")

_INHERIT = text("""
    UPDATE worker_drains SET target = :worker WHERE kind = 'worker' AND target = :predecessor AND NOT EXISTS (
        SELECT FROM worker_drains WHERE kind = 'worker' AND target = :worker)
    RETURNING target
""")

# Leases that have run out are no worker's any more, whether or not a scheduler has queued their jobs again.
_HOLDING = text(f"""
    WITH target AS (
        SELECT * FROM unnest(CAST(:kinds AS text[]), CAST(:targets AS text[])) AS given (kind, target)
    ), holding AS (
        SELECT name, 0 AS jobs FROM workers
        WHERE activity = ANY (CAST(:at_work AS text[])) AND seen_at > now() - make_interval(secs => :seen_s)
        UNION ALL
        SELECT worker, count(*) FROM jobs WHERE state = 'running' AND lease_until > now() GROUP BY 1
    )
    SELECT name, CAST(sum(jobs) AS bigint) AS jobs FROM holding
    WHERE EXISTS (SELECT FROM target WHERE {IS_TARGET.format("name")}) GROUP BY 1 ORDER BY 1
""")

Target = tuple[DrainKind, str]
"""A host or a worker, by its name."""


@dataclass(frozen=True, slots=True)
class Drain:
    """What is drained, since when, by whom (user@host) and why."""

    kind: DrainKind
    target: str
    since: datetime
    drained_by: str
    reason: str | None

    @property
    def key(self) -> Target:
        """What is drained."""
        return self.kind, self.target

    def covers(self, worker: str) -> bool:
        """Whether the worker with this name is drained by it."""
        return self.target == (worker.rpartition(":")[0] if self.kind is DrainKind.HOST else worker)

    def report(self) -> dict[str, Any]:
        """Return the values that commands print as JSON."""
        return {
            "kind": self.kind,
            "target": self.target,
            "since": self.since.isoformat(),
            "by": self.drained_by,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Holding:
    """A worker that isn't done yet, and how many jobs it holds."""

    worker: str
    jobs: int


def drain(engine: Engine, targets: Collection[Target], *, drained_by: str, reason: str | None = None) -> None:
    """Drain hosts and workers; what is drained already stays so, with the new reason if one is given."""
    run(engine, _DRAIN, _pairs(targets) | {"drained_by": drained_by, "reason": reason})


def undrain(engine: Engine, targets: Collection[Target]) -> int:
    """Take drains back; returns how many there were."""
    return len(run(engine, _UNDRAIN, _pairs(targets)))


def drains(engine: Engine) -> list[Drain]:
    """Return all drains, those of hosts first, by name."""
    rows = run(engine, _LIST, {})
    return [Drain(DrainKind(row.kind), row.target, row.since, row.drained_by, row.reason) for row in rows]


def holding(engine: Engine, targets: Collection[Target]) -> list[Holding]:
    """Return the workers of these targets that are still at something."""
    values = _pairs(targets) | {"at_work": list(AT_WORK), "seen_s": SEEN_S}
    return [Holding(row.name, row.jobs) for row in run(engine, _HOLDING, values)]


def inherit_drain(engine: Engine, worker: str, device: str, is_running: Callable[[str], bool]) -> bool:
    """Drain a worker that starts if it takes the place of a drained one; returns whether it does.

    That is one of the same host and device whose row is gone, or old, or of which `is_running` says that its process
    is gone. Of several workers that start, each takes over one drain.
    """
    values = {"device": device, "host": worker.rpartition(":")[0], "seen_s": SEEN_S}
    gone = [
        row.target
        for row in run(engine, _OF_PLACE, values)
        if row.target != worker and not (row.is_seen and is_running(row.target))
    ]
    return any(run(engine, _INHERIT, {"worker": worker, "predecessor": predecessor}) for predecessor in gone)


def _pairs(targets: Collection[Target]) -> dict[str, Sequence[str]]:
    return {"kinds": [kind for kind, _ in targets], "targets": [target for _, target in targets]}
