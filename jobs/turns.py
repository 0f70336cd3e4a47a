"""Whose turn it is: which lane a worker that has nothing to do should work in.

Tenants share the workers by stride scheduling (Waldspurger and Weihl, 1995): each has used so many worker seconds
per weight, and the one who has used least comes next. A turn is charged when it begins and corrected when it ends, so
that workers who ask at the same time spread. Who comes back after a pause starts level with the others. A tenant whose
model a worker holds already may overdraw by `warm_s` before the others come. Priorities order the batches of one
tenant; among lanes of the same priority a warm one is preferred until another has waited `warm_s`.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from jobs.conditions import HAS_WORK, IS_OPEN
from jobs.database import run, transact
from jobs.job import LaneId
from jobs.queue import EVERYBODY

TURNS_LOCK = 0x6E6D7475  # advisory lock key: choices are made one after the other

_BEGIN = text("SELECT pg_advisory_xact_lock(:key)")

_CHOOSE = text(f"""
    WITH level AS (
        SELECT coalesce((SELECT used_s FROM tenants WHERE name = '{EVERYBODY}'), 0) AS used_s
    ), sharing AS (
        SELECT lanes.id, lanes.tenant, priority, chosen_at, model = ANY (CAST(:warm AS text[])) AS is_warm,
            now() - coalesce(chosen_at, created_at) > make_interval(secs => :warm_s) AS has_waited,
            coalesce(weight, 1) AS weight, greatest(coalesce(tenants.used_s, 0), level.used_s) AS used_s
        FROM level, lanes JOIN batches ON batches.id = batch_id LEFT JOIN tenants ON tenants.name = lanes.tenant
        WHERE {IS_OPEN} AND lanes.id <> ALL (CAST(:avoided AS bigint[])) AND {HAS_WORK}
          AND (max_running IS NULL OR max_running > (
            SELECT count(*) FROM jobs JOIN lanes AS l ON l.id = lane_id
            WHERE jobs.state = 'running' AND l.tenant = lanes.tenant))
    ), best AS (
        SELECT DISTINCT ON (tenant) *, min(used_s) OVER () AS least_s FROM sharing
        ORDER BY tenant, priority DESC, has_waited DESC, is_warm DESC, id = :hinted DESC, chosen_at NULLS FIRST, id
    ), chosen AS (
        SELECT * FROM best ORDER BY is_warm AND used_s <= least_s + :warm_s DESC, used_s, id = :hinted DESC,
            chosen_at NULLS FIRST, id LIMIT 1
    ), noted AS (
        UPDATE lanes SET chosen_at = now() FROM chosen WHERE lanes.id = chosen.id
    ), charged AS (
        INSERT INTO tenants (name, used_s)
        SELECT tenant, used_s + :slice_s / weight FROM chosen UNION ALL SELECT '{EVERYBODY}', least_s FROM chosen
        ON CONFLICT (name) DO UPDATE SET used_s = excluded.used_s
    )
    SELECT id, tenant FROM chosen
""")

_SETTLE = text("UPDATE tenants SET used_s = used_s - :unused_s / weight WHERE name = :tenant RETURNING name")

_PACE = text("""
    UPDATE lanes SET image_s = coalesce(image_s + (:image_s - image_s) * :share, :image_s),
        batch_s = greatest(:batch_s, batch_s + (:batch_s - batch_s) * :share)
    WHERE id = :lane RETURNING id
""")

_WAITING = text(f"""
    SELECT lanes.id FROM lanes JOIN batches ON batches.id = batch_id WHERE {IS_OPEN} AND {HAS_WORK}
    ORDER BY priority DESC, chosen_at NULLS FIRST, lanes.id LIMIT :limit
""")


@dataclass(frozen=True, slots=True)
class Turn:
    """A lane to work in, and whose time it is."""

    lane: LaneId
    tenant: str


def take_turn(
    engine: Engine,
    *,
    slice_s: float,
    hinted: LaneId | None = None,
    warm: Collection[str] = (),
    warm_s: float = 0,
    avoided: Collection[LaneId] = (),
) -> Turn | None:
    """Choose a lane that has work and charge its tenant with `slice_s`; None if there is nothing to do.

    `warm` names the models that the worker holds, `hinted` the lane to prefer among equals, `avoided` lanes
    that it can't work in.
    """
    values = {
        "slice_s": slice_s,
        "hinted": hinted or 0,
        "warm": list(warm),
        "warm_s": warm_s,
        "avoided": list(avoided),
    }

    def choose(connection: Connection) -> Turn | None:
        connection.execute(_BEGIN, {"key": TURNS_LOCK})
        row = connection.execute(_CHOOSE, values).one_or_none()
        return Turn(row.id, row.tenant) if row else None

    return transact(engine, choose)


def end_turn(
    engine: Engine, turn: Turn, *, slice_s: float, used_s: float, images: int, batch_s: float
) -> None:
    """Correct the charge to `used_s` seconds, and note the pace of what was delivered.

    `batch_s` is how long the slowest device batch took from its begin until it was stored.
    """
    run(engine, _SETTLE, {"tenant": turn.tenant, "unused_s": slice_s - used_s})
    if images:
        share = 0.5 * min(1.0, used_s / slice_s)
        pace = {"lane": turn.lane, "image_s": used_s / images, "batch_s": batch_s, "share": share}
        run(engine, _PACE, pace)


def waiting_lanes(engine: Engine, limit: int) -> list[LaneId]:
    """Lanes that have work now, those first that a worker is likely to choose."""
    return [row.id for row in run(engine, _WAITING, {"limit": limit})]
