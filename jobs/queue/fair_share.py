"""Fair-share scheduling: pick the lane that an idle worker works in next.

Tenants share the workers by stride scheduling (Waldspurger and Weihl, 1995): for each tenant the used worker seconds
per weight are recorded, and the tenant with the lowest value comes next. A time slice is charged when it begins and
corrected when it ends, so that workers that ask at the same time get different tenants. A tenant that returns after a
pause starts at the virtual time of the others. A tenant whose model the worker already holds may exceed its share by
`model_affinity_s` seconds. Priorities order the batches of one tenant; among lanes of the same priority, one whose
model is loaded is preferred until another lane has waited for `model_affinity_s`, and among those whose model is
loaded, one that was never picked.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, text

from jobs.db.engine import run, transact
from jobs.db.usage_tables import QUARTER_S
from jobs.job_dataclasses import LaneId
from jobs.queue.sql_predicates import HAS_WORK, IS_DRAINED, IS_LIVE, IS_OPEN
from jobs.queue.worker_pools import SERVES
from jobs.states import DEFAULT_POOL

PICK_LOCK = 0x6E6D7475  # advisory lock key that serialises the picking of lanes

_BEGIN = text("SELECT pg_advisory_xact_lock(:key)")

# Lanes are locked before tenants, here and in _END.
_PICK = text(f"""
    WITH known AS (
        SELECT lane_id AS id, tenant FROM time_slices WHERE id = :time_slice
    ), clock AS (
        SELECT coalesce((SELECT virtual_time FROM fair_share), 0) AS virtual_time
    ), busy AS (
        SELECT l.tenant, count(*) AS running FROM jobs JOIN lanes AS l ON l.id = lane_id
        WHERE jobs.state = 'running' AND EXISTS (SELECT FROM tenants WHERE max_running IS NOT NULL) GROUP BY 1
    ), sharing AS (
        SELECT lanes.id, lanes.tenant, priority, chosen_at, model = ANY (CAST(:warm AS text[])) AS is_warm,
            now() - coalesce(chosen_at, created_at) > make_interval(secs => :model_affinity_s) AS has_waited,
            coalesce(weight, 1) AS weight, greatest(coalesce(used_s, 0), virtual_time) AS used_s
        FROM clock, lanes JOIN batches ON batches.id = batch_id
            LEFT JOIN tenants ON tenants.name = lanes.tenant LEFT JOIN busy ON busy.tenant = lanes.tenant
        WHERE {IS_LIVE} AND {IS_OPEN} AND lanes.id <> ALL (CAST(:avoided AS bigint[])) AND {HAS_WORK}
          AND (max_running IS NULL OR max_running > coalesce(running, 0)) AND NOT EXISTS (SELECT FROM known)
          AND {SERVES.format(":pool")} AND NOT {IS_DRAINED.format(":worker")}
    ), best AS (
        SELECT DISTINCT ON (tenant) *, min(used_s) OVER () AS least_s FROM sharing
        ORDER BY tenant, priority DESC, has_waited DESC, is_warm DESC, chosen_at IS NULL DESC, id = :preferred DESC,
            chosen_at, id
    ), chosen AS (
        SELECT * FROM best ORDER BY is_warm AND used_s <= least_s + :model_affinity_s DESC, used_s,
            chosen_at IS NULL DESC, id = :preferred DESC, chosen_at, id LIMIT 1
    ), noted AS (
        UPDATE lanes SET chosen_at = now() FROM chosen WHERE lanes.id = chosen.id RETURNING lanes.id
    ), unstarted AS (  -- without waiting for whoever changes the batch
        SELECT batches.id FROM batches JOIN lanes ON lanes.batch_id = batches.id JOIN chosen ON chosen.id = lanes.id
        WHERE started_at IS NULL FOR NO KEY UPDATE OF batches SKIP LOCKED
    ), started AS (
        UPDATE batches SET started_at = now() FROM unstarted WHERE batches.id = unstarted.id
    ), charged AS (
        INSERT INTO tenants (name, used_s) SELECT tenant, used_s + :slice_s / weight FROM chosen JOIN noted USING (id)
        ON CONFLICT (name) DO UPDATE SET used_s = excluded.used_s
    ), clock_set AS (
        INSERT INTO fair_share (virtual_time) SELECT least_s FROM chosen
        ON CONFLICT (id) DO UPDATE SET virtual_time = excluded.virtual_time
    ), begun AS (
        INSERT INTO time_slices (id, lane_id, tenant, slice_s, weight)
        SELECT :time_slice, id, tenant, :slice_s, weight FROM chosen
    )
    SELECT id, tenant FROM chosen UNION ALL SELECT id, tenant FROM known
""")

# Uses the weight at which the time slice was charged: the tenant's weight may have changed since.
_END = text(f"""
    WITH ended AS (
        DELETE FROM time_slices WHERE id = :time_slice RETURNING *
    ), used AS (
        SELECT CAST(:used_s AS float) AS s, CAST(:images AS bigint) AS images, CAST(:batch_s AS float) AS batch_s,
            CAST(:device_s AS float) AS device_s, CAST(:joules AS float) AS joules
    ), added_up AS (
        INSERT INTO lane_usage AS u (
            began_at, batch_id, lane_id, tenant, worker, device, worker_s, device_s, joules, images)
        SELECT date_bin('{QUARTER_S} seconds', now(), 'epoch'), batch_id, lane_id, ended.tenant, :worker, :device,
            used.s, used.device_s, used.joules, used.images
        FROM ended JOIN lanes ON lanes.id = lane_id, used WHERE used.s > 0
        ON CONFLICT (began_at, lane_id, worker) DO UPDATE SET worker_s = u.worker_s + excluded.worker_s,
            device_s = u.device_s + excluded.device_s, images = u.images + excluded.images,
            joules = coalesce(u.joules + excluded.joules, u.joules, excluded.joules)
    ), paced AS (
        UPDATE lanes SET image_s = coalesce(lanes.image_s + (pace.image_s - lanes.image_s) * share, pace.image_s),
            batch_s = greatest(pace.batch_s, lanes.batch_s + (pace.batch_s - lanes.batch_s) * share)
        FROM (
            SELECT lane_id, used.s / used.images AS image_s, 0.5 * least(1, used.s / slice_s) AS share, used.batch_s
            FROM ended, used WHERE used.images > 0) AS pace
        WHERE lanes.id = lane_id RETURNING lanes.id
    ), settled AS (
        UPDATE tenants SET used_s = greatest(0, used_s - (slice_s - used.s) / ended.weight)
        FROM ended, used WHERE name = tenant AND (SELECT count(*) FROM paced) >= 0
    )
    SELECT id FROM ended
""")

_FORGET = text("DELETE FROM time_slices WHERE begun_at < now() - make_interval(secs => :old_s) RETURNING id")

_WAITING = text(f"""
    SELECT lanes.id FROM lanes JOIN batches ON batches.id = batch_id
    WHERE {IS_LIVE} AND {IS_OPEN} AND {SERVES.format(":pool")} AND {HAS_WORK}
    ORDER BY priority DESC, chosen_at NULLS FIRST, lanes.id LIMIT :limit
""")

OLD_S = 86_400  # a time slice of this age belongs to a worker that died


@dataclass(frozen=True, slots=True)
class SliceUse:
    """What a time slice used: seconds of the worker, of these in device batches, joules if the device counts them.

    `images` are those stored, `batch_s` is the time that the slowest device batch took from its start until then.
    """

    used_s: float = 0.0
    device_s: float = 0.0
    joules: float | None = None
    images: int = 0
    batch_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TimeSlice:
    """A time slice granted to a worker: the lane, and the tenant charged. The row with its id exists until it ends."""

    id: UUID
    lane: LaneId
    tenant: str


def pick_lane(
    engine: Engine,
    *,
    slice_s: float,
    pool: str = DEFAULT_POOL,
    preferred: LaneId | None = None,
    warm: Collection[str] = (),
    model_affinity_s: float = 0,
    avoided: Collection[LaneId] = (),
    worker: str = "",
    time_slice: UUID | None = None,
) -> TimeSlice | None:
    """Pick a lane that has work and charge its tenant `slice_s` seconds; None if there is nothing to do.

    Only lanes whose model the worker's `pool` serves are picked; a pool that was removed serves none. `warm` names
    the models that the worker holds, `preferred` the lane to prefer among equals, `avoided` the lanes that it can't
    work in. There is nothing to do for a `worker` that is drained. The call is idempotent for a given `time_slice`
    id: if the first answer was lost, a repeated call returns the same lane and charges nothing.
    """
    time_slice = time_slice or uuid4()
    values = {
        "time_slice": time_slice,
        "slice_s": slice_s,
        "pool": pool,
        "preferred": preferred or 0,
        "warm": list(warm),
        "model_affinity_s": model_affinity_s,
        "avoided": list(avoided),
        "worker": worker,
    }

    def pick(connection: Connection) -> TimeSlice | None:
        connection.execute(_BEGIN, {"key": PICK_LOCK})
        row = connection.execute(_PICK, values).one_or_none()
        return TimeSlice(time_slice, row.id, row.tenant) if row else None

    return transact(engine, pick)


def end_time_slice(engine: Engine, time_slice: TimeSlice, worker: str, device: str, use: SliceUse) -> None:
    """Correct the charge, update the lane's seconds per image and add to its usage; only the first call has effect."""
    run(engine, _END, {"time_slice": time_slice.id, "worker": worker, "device": device, **asdict(use)})


def forget_time_slices(engine: Engine) -> int:
    """Delete time slices older than OLD_S, whose workers died; they stay charged. Returns the number deleted."""
    return len(run(engine, _FORGET, {"old_s": OLD_S}))


def waiting_lanes(engine: Engine, limit: int, pool: str = DEFAULT_POOL) -> list[LaneId]:
    """Return up to `limit` lanes that have work now for the pool, the ones most likely to be picked first."""
    return [row.id for row in run(engine, _WAITING, {"limit": limit, "pool": pool})]
