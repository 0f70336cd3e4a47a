"""State transitions of jobs, each a single guarded SQL statement.

All times are the database's. A running job is guarded by its lease: updates match id and lease, and if no row matches,
another worker owns the job and LeaseLostError is raised. Each statement also inserts the changes of its lane's job
counts into `job_counts`, so that nothing has to count jobs.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import orjson
from sqlalchemy import Connection, Engine, Row, TextClause, text

from jobs.db import cluster_epochs
from jobs.db.engine import run, transact
from jobs.errors import LeaseLostError
from jobs.exports.mark_outdated_shards import outdating
from jobs.feed.write_events import job_events, retracted_events
from jobs.images.insert_and_public_columns import given_record, inserted_columns, inserted_values
from jobs.job_dataclasses import BatchId, Failure, Image, Job, JobId, Lane, LaneId
from jobs.manifest.seeds import RETRY_STEPS, sql_step
from jobs.monitoring import metrics
from jobs.policy.stored_policy import is_safety_of_batch, policy_of, sql_columns
from jobs.queue.sql_predicates import FOLDER, IS_AHEAD, IS_DRAINED, IS_OPEN, IS_PAST_CANARY, reopening
from jobs.states import OPEN, RETRYABLE, EventKind, JobState, Outcome, sql_list

Execute = Callable[[TextClause, Mapping[str, Any]], Sequence[Row[Any]]]

CAPS_LOCK = 0x6E6D6361  # advisory lock key of claims under a limit of running jobs

# `affected` holds (batch_id, lane_id, old_state, state) of each job whose state the statement changed.
COUNT_DELTAS = """
    count_deltas AS (
        INSERT INTO job_counts (batch_id, lane_id, state, delta)
        SELECT batch_id, lane_id, old_state, -count(*) FROM affected GROUP BY 1, 2, 3
        UNION ALL
        SELECT batch_id, lane_id, state, count(*) FROM affected GROUP BY 1, 2, 3
    )"""

# Here `affected` also holds the columns of the attempt and its outcome; used for attempts without an image.
_ATTEMPT_LOG = """
    attempt_log AS (
        INSERT INTO attempts (job_id, attempt, worker, started_at, outcome, error_kind, error_text)
        SELECT id, attempt, worker, started_at, outcome, error_kind, error_text FROM affected
    )"""

_FAILED_EVENTS = job_events(
    EventKind.FAILED,
    {"error_kind": "j.error_kind", "error_text": "j.error_text", "attempts": "j.attempt"},
    "state = 'failed'",
)

BLOCKED_DETAIL = {
    "error_kind": "j.error_kind",
    "error_text": "j.error_text",
    "attempts": "j.attempt",
    "scores": "j.scores",
    "quarantined": "j.quarantined",
}

# Here `affected` also holds where the file of a blocked image is kept, if it is, and the columns of its image row.
KEPT_IN_QUARANTINE = """
    quarantined_image AS (
        INSERT INTO quarantined_images (job_id, batch_id, key, blocked_at, image)
        SELECT id, batch_id, quarantined, finished_at, image FROM affected WHERE quarantined IS NOT NULL
        ON CONFLICT (job_id) DO UPDATE SET key = excluded.key, blocked_at = excluded.blocked_at, image = excluded.image
    )"""

# A range of one lane: with `=`, the planner chooses the primary key for the order by id, and then reads all finished
# jobs before it finds a queued one.
_IN_LANE = "lane_id BETWEEN :lane AND :lane"


# Statements that may wait for each other lock jobs in the order of their ids. `given` has the ids and leases.
_HELD = """
    held AS (
        SELECT given.* FROM given JOIN jobs ON jobs.id = given.id AND jobs.lease = given.lease
        ORDER BY jobs.id FOR UPDATE OF jobs
    )"""

# The same if the batch's safety policy is still the one by which the images were judged. `jobs.safety_reevaluation`
# changes it while it holds the batch FOR UPDATE: this statement waits for that, and then looks at the new policy.
# The batches are looked at apart: joined to the jobs, the planner would read all jobs of the batch.
_HELD_AND_JUDGED = f"""
    leased AS (
        SELECT given.*, jobs.batch_id FROM given JOIN jobs ON jobs.id = given.id AND jobs.lease = given.lease
        ORDER BY jobs.id FOR UPDATE OF jobs
    ), judged AS MATERIALIZED (
        SELECT id FROM batches WHERE id IN (SELECT batch_id FROM leased) AND {is_safety_of_batch(":safety")}
        ORDER BY id FOR KEY SHARE
    ), held AS MATERIALIZED (
        SELECT * FROM leased WHERE batch_id IN (SELECT id FROM judged)
    )"""

_GIVEN_PAIRS = (
    "given AS (SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:leases AS uuid[])) AS g (id, lease))"
)

_CLAIMED = """
    id, batch_id, lane_id, ordinal, index, attempt, prompt, negative_prompt, steps, guidance_scale,
    sampler, seed, noise_level, init_image, mask_image, depth_image, strength, not_before IS NULL AS is_fresh,
    coalesce(error_kind = 'crash', false) AS is_after_crash"""

# The last part of every claim statement: `picked` holds the ids, `open` what the lane allows.
_TAKEN = f"""
    affected AS (
        UPDATE jobs SET state = 'running', attempt = attempt + 1, lease = :lease, worker = :worker,
            started_at = now(), lease_until = now() + make_interval(secs => :lease_s)
        FROM picked WHERE jobs.id = picked.id
        RETURNING jobs.*, 'queued' AS old_state
    ), {COUNT_DELTAS}
    SELECT {_CLAIMED} FROM affected ORDER BY id"""

# The jobs of a claim that was committed but whose answer was lost.
_GIVEN_BEFORE = text(f"SELECT {_CLAIMED} FROM jobs WHERE state = 'running' AND lease = :lease ORDER BY id")

# The columns of a claim are the fields of a Job in the same order, except the lease, which all of them share.
_FIELDS = [field.name for field in fields(Job)]
_LEASE, _SEED = _FIELDS.index("lease"), _FIELDS.index("seed") - 1

# No row if the lane is not open, or the worker is drained: comparisons with the missing row match nothing. A lane with
# a limit of running jobs is open only to claims that have checked the limit (`has_room`), and every lane only to claims
# of a worker that judges images as the batch's policy wants it now.
_OPEN = f"""
    open AS MATERIALIZED (
        SELECT CASE WHEN {IS_PAST_CANARY} THEN now() END AS due, max_attempts, canary,
            CASE WHEN {IS_PAST_CANARY} THEN greatest(low_watermark, :after) END AS low_watermark,
            CASE WHEN NOT {IS_PAST_CANARY} THEN batch_id END AS canary_of
        FROM lanes JOIN batches ON batches.id = batch_id
        WHERE lanes.id = :lane AND {IS_OPEN} AND NOT {IS_DRAINED.format(":worker")}
            AND {is_safety_of_batch(":safety")} AND (:has_room
            OR NOT EXISTS (SELECT FROM tenants WHERE name = lanes.tenant AND max_running IS NOT NULL)
            AND NOT EXISTS (SELECT FROM fair_share WHERE max_running IS NOT NULL))
    )"""

_DUE = f"{_IN_LANE} AND state = 'queued' AND not_before <= (SELECT due FROM open)"
# Before the verdict, only the canary's jobs.
_AHEAD = IS_AHEAD.format("(SELECT canary_of FROM open)", "(SELECT canary FROM open)", ":lane")

_CLAIM = text(f"""
    WITH {_OPEN}, again AS (
        SELECT id FROM jobs WHERE {_DUE} AND error_kind IS DISTINCT FROM 'crash'
        ORDER BY lane_id, not_before, id LIMIT :limit FOR UPDATE SKIP LOCKED
    ), ahead AS (
        SELECT id FROM jobs WHERE {_AHEAD} AND error_kind IS DISTINCT FROM 'crash'
        ORDER BY batch_id, ordinal, "index" LIMIT :limit FOR UPDATE SKIP LOCKED
    ), fresh AS (
        SELECT id FROM jobs
        WHERE {_IN_LANE} AND state = 'queued' AND not_before IS NULL AND id > (SELECT low_watermark FROM open)
        ORDER BY lane_id, id LIMIT CAST(:limit AS bigint) - (SELECT count(*) FROM again) FOR UPDATE SKIP LOCKED
    ), picked AS (
        SELECT id FROM again UNION ALL SELECT id FROM ahead UNION ALL SELECT id FROM fresh
    ), {_TAKEN}
""")


def _claiming_crashed(which: str) -> TextClause:
    return text(f"""
        WITH {_OPEN}, again AS (
            SELECT id FROM jobs WHERE {_DUE} AND error_kind = 'crash' AND {which}
            ORDER BY lane_id, not_before, id LIMIT :limit FOR UPDATE SKIP LOCKED
        ), ahead AS (
            SELECT id FROM jobs WHERE {_AHEAD} AND error_kind = 'crash' AND {which}
            ORDER BY batch_id, ordinal, "index" LIMIT :limit FOR UPDATE SKIP LOCKED
        ), picked AS (
            SELECT id FROM again UNION ALL SELECT id FROM ahead
        ), {_TAKEN}
    """)


_HAS_SPARE = "attempt + 1 < (SELECT max_attempts FROM open)"
# The statements of a claim and the share of its limit that each gets. Separate statements instead of a parameter, so
# that the planner sees the condition.
_CLAIMS = (
    (_CLAIM, lambda limit: limit),
    (_claiming_crashed(_HAS_SPARE), lambda limit: max(1, limit // 8)),
    (_claiming_crashed(f"NOT {_HAS_SPARE}"), lambda _: 1),
)

# The number of further jobs that may run; null: no limit. An advisory lock serialises the claims, so that no two see
# the same room.
_LOCK_LIMITS = text("SELECT pg_advisory_xact_lock(:key)")
_ROOM = text("""
    SELECT least(
        (SELECT max_running - (SELECT count(*) FROM jobs WHERE state = 'running')
         FROM fair_share WHERE max_running IS NOT NULL),
        (SELECT max_running - (
            SELECT count(*) FROM jobs JOIN lanes ON lanes.id = lane_id
            WHERE jobs.state = 'running' AND lanes.tenant = tenants.name)
         FROM tenants WHERE max_running IS NOT NULL AND name = (SELECT tenant FROM lanes WHERE id = :lane))) AS room
""")

_EXTEND = text(f"""
    WITH {_GIVEN_PAIRS}, {_HELD}
    UPDATE jobs SET lease_until = now() + make_interval(secs => :lease_s)
    FROM held WHERE jobs.id = held.id RETURNING jobs.id
""")

_RELEASE = text(f"""
    WITH {_GIVEN_PAIRS}, {_HELD}, affected AS (
        UPDATE jobs SET state = 'queued', attempt = attempt - 1, lease = NULL, lease_until = NULL,
            not_before = now()
        FROM held WHERE jobs.id = held.id
        RETURNING jobs.*, 'running' AS old_state
    ), {COUNT_DELTAS}
    SELECT id FROM affected
""")

_GIVE_BACK = text(f"""
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(CAST(:records AS jsonb)) AS g (
            id bigint, lease uuid, error_kind text, error_text text)
    ), {_HELD}, affected AS (
        UPDATE jobs SET state = 'queued', attempt = attempt - 1, lease = NULL, lease_until = NULL,
            not_before = now() + make_interval(secs => :delay_s)
        FROM held WHERE jobs.id = held.id
        RETURNING jobs.*, 'running' AS old_state, held.error_kind AS failed_by, held.error_text AS failed_with
    ), {COUNT_DELTAS}, attempt_log AS (
        INSERT INTO attempts (job_id, attempt, worker, started_at, outcome, error_kind, error_text)
        SELECT id, attempt + 1, worker, started_at, 'returned', failed_by, failed_with FROM affected
    )
    SELECT id FROM affected
""")

_COMPLETE = text(f"""
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(CAST(:records AS jsonb)) AS g (
            {given_record()})
    ), {_HELD_AND_JUDGED}, affected AS (
        UPDATE jobs SET state = 'done', lease = NULL, lease_until = NULL, finished_at = now(),
            error_kind = NULL, error_text = NULL
        FROM held WHERE jobs.id = held.id
        RETURNING jobs.*, held.lease AS held, 'running' AS old_state
    ), {COUNT_DELTAS}, {cluster_epochs.BEGUN}, stored AS (
        INSERT INTO images (epoch, {inserted_columns()})
        SELECT {cluster_epochs.WRITTEN}, {inserted_values()}
        FROM affected j JOIN given g ON g.id = j.id AND g.lease = j.held JOIN lanes l ON l.id = j.lane_id
        ORDER BY j.id
    )
    SELECT id FROM affected
""")

_FAIL = text(f"""
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(CAST(:records AS jsonb)) AS g (
            id bigint, lease uuid, error_kind text, error_text text, most_attempts int)
    ), held AS (
        SELECT given.*, attempt < least(max_attempts, most_attempts) AS is_again
        FROM given JOIN jobs USING (id, lease) JOIN batches ON batches.id = jobs.batch_id
        ORDER BY jobs.id FOR UPDATE OF jobs
    ), affected AS (
        UPDATE jobs SET state = CASE WHEN is_again THEN 'queued' ELSE 'failed' END,
            not_before = now() + make_interval(
                secs => least(:delay_s * 2 ^ least(attempt - 1, 30), 3600) * (0.75 + random() / 2)),
            finished_at = CASE WHEN NOT is_again THEN now() END,
            lease = NULL, lease_until = NULL, error_kind = held.error_kind, error_text = held.error_text
        FROM held WHERE jobs.id = held.id
        RETURNING jobs.*, 'running' AS old_state, CASE WHEN is_again THEN 'retried' ELSE 'failed' END AS outcome
    ), {COUNT_DELTAS}, {_ATTEMPT_LOG}, {_FAILED_EVENTS}
    SELECT id, outcome FROM affected
""")

_BLOCK = text(f"""
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(CAST(:records AS jsonb)) AS g (
            id bigint, lease uuid, error_kind text, error_text text, scores jsonb, image jsonb, quarantined text)
    ), {_HELD_AND_JUDGED}, affected AS (
        UPDATE jobs SET state = 'blocked', finished_at = now(), lease = NULL, lease_until = NULL,
            error_kind = held.error_kind, error_text = held.error_text
        FROM held WHERE jobs.id = held.id
        RETURNING jobs.*, 'running' AS old_state, 'blocked' AS outcome, held.scores, held.image, held.quarantined
    ), {COUNT_DELTAS}, {_ATTEMPT_LOG}, {KEPT_IN_QUARANTINE}, {job_events(EventKind.BLOCKED, BLOCKED_DETAIL)}
    SELECT id FROM affected
""")

_RESCUE = text(f"""
    WITH expired AS (
        SELECT jobs.id, attempt < max_attempts AS is_again
        FROM jobs JOIN batches ON batches.id = jobs.batch_id
        WHERE state = 'running' AND lease_until < now()
        ORDER BY lease_until LIMIT :limit FOR UPDATE OF jobs SKIP LOCKED
    ), affected AS (
        UPDATE jobs SET state = CASE WHEN is_again THEN 'queued' ELSE 'failed' END,
            finished_at = CASE WHEN NOT is_again THEN now() END, lease = NULL, lease_until = NULL, not_before = now(),
            error_kind = 'crash', error_text = 'worker ' || worker || ' stopped renewing its lease'
        FROM expired WHERE jobs.id = expired.id
        RETURNING jobs.*, 'running' AS old_state, 'expired' AS outcome
    ), {COUNT_DELTAS}, {_ATTEMPT_LOG}, {_FAILED_EVENTS}
    SELECT id, state FROM affected
""")

_CANCEL = text(f"""
    WITH picked AS (
        SELECT id, state AS old_state FROM jobs WHERE state IN ({sql_list(OPEN)}) AND id IN (
            (SELECT id FROM jobs WHERE {_IN_LANE} AND state = 'queued' AND not_before IS NULL
             ORDER BY lane_id, id LIMIT :limit)
            UNION ALL
            (SELECT id FROM jobs WHERE {_IN_LANE} AND state = 'queued' AND not_before IS NOT NULL
             ORDER BY lane_id, not_before, id LIMIT :limit)
            UNION ALL
            (SELECT id FROM jobs WHERE lane_id = :lane AND state = 'running' LIMIT :limit))
        ORDER BY id LIMIT :limit FOR UPDATE
    ), affected AS (
        UPDATE jobs SET state = 'cancelled', finished_at = now(), lease = NULL, lease_until = NULL
        FROM picked WHERE jobs.id = picked.id RETURNING jobs.*, old_state
    ), {COUNT_DELTAS}
    SELECT id FROM affected
""")

# FOR SHARE keeps the batch from being archived (`jobs.batches.drop_jobs_and_delete_batches`) until this statement has
# ended.
_IS_TO_RETRY = f"""state = ANY (CAST(:states AS text[])) AND state IN ({sql_list(RETRYABLE)})
          AND (CAST(:kind AS text) IS NULL OR error_kind = :kind)"""

_COUNT_TO_RETRY = text(f"SELECT count(*) AS jobs FROM jobs WHERE batch_id = :batch AND {_IS_TO_RETRY}")

_RETRY = text(f"""
    WITH kept AS MATERIALIZED (
        SELECT id FROM batches WHERE id = :batch AND archived_at IS NULL FOR SHARE
    ), picked AS (
        SELECT id, state AS old_state FROM jobs
        WHERE batch_id = (SELECT id FROM kept) AND {_IS_TO_RETRY}
        ORDER BY id LIMIT :limit FOR UPDATE
    ), affected AS (
        UPDATE jobs SET state = 'queued', attempt = 0, not_before = now(), finished_at = NULL,
            error_kind = CASE WHEN error_kind = 'crash' THEN error_kind END, error_text = NULL,
            seed = CASE WHEN old_state = 'blocked' AND NOT :same_seed THEN {sql_step(str(RETRY_STEPS))} ELSE seed END
        FROM picked WHERE jobs.id = picked.id RETURNING jobs.*, old_state
    ), {COUNT_DELTAS}, {reopening("SELECT lane_id FROM affected")}, {outdating()}
    SELECT id FROM affected
""")

# The image rows that are still as they were read, and their jobs.
_TAKEN_BACK = """
    kept AS MATERIALIZED (
        SELECT id FROM batches WHERE id = :batch AND archived_at IS NULL FOR SHARE
    ), picked AS (
        SELECT jobs.id, images.id AS image
        FROM unnest(CAST(:images AS bigint[]), CAST(:keys AS text[])) AS g (image, key)
        JOIN images ON images.id = g.image AND images.key = g.key JOIN jobs ON jobs.id = images.job_id
        WHERE jobs.batch_id = (SELECT id FROM kept) AND state = 'done' ORDER BY jobs.id FOR UPDATE OF jobs
    ), retracted AS (
        DELETE FROM images USING picked WHERE images.id = picked.image RETURNING images.*
    )"""

_RENDER_AGAIN = text(f"""
    WITH {_TAKEN_BACK}, affected AS (
        UPDATE jobs SET state = 'queued', attempt = 0, not_before = now(), finished_at = NULL
        FROM picked WHERE jobs.id = picked.id RETURNING jobs.*, 'done' AS old_state
    ), {COUNT_DELTAS}, {retracted_events()}, {reopening("SELECT lane_id FROM affected")}, {outdating()}
    SELECT id FROM affected
""")

_RETRACT = text(f"""
    WITH {_TAKEN_BACK}, affected AS (
        UPDATE jobs SET state = 'retracted', finished_at = now()
        FROM picked WHERE jobs.id = picked.id RETURNING jobs.*, 'done' AS old_state
    ), {COUNT_DELTAS}, {retracted_events()}, {outdating()}
    SELECT id FROM affected
""")

# The jobs of an archived batch are gone. Its counts are by lane, which image rows don't name: those of a batch's lanes
# are only ever summed once it is archived.
_RETRACT_ARCHIVED = text(f"""
    WITH kept AS MATERIALIZED (
        SELECT id FROM batches WHERE id = :batch AND archived_at IS NOT NULL FOR SHARE
    ), picked AS (
        SELECT images.id FROM unnest(CAST(:images AS bigint[]), CAST(:keys AS text[])) AS g (image, key)
        JOIN images ON images.id = g.image AND images.key = g.key
        WHERE images.batch_id = (SELECT id FROM kept) ORDER BY images.id FOR UPDATE OF images
    ), retracted AS (
        DELETE FROM images USING picked WHERE images.id = picked.id RETURNING images.*
    ), affected AS (
        SELECT job_id AS id, batch_id, ordinal, lane_id, 'done' AS old_state, 'retracted' AS state
        FROM retracted CROSS JOIN (
            SELECT lane_id FROM job_counts WHERE batch_id = :batch AND state = 'done' ORDER BY delta DESC LIMIT 1) AS l
    ), ended AS (
        INSERT INTO archived_jobs (batch_id, ordinal, "index", row_id, job_id, state, attempt, meta)
        SELECT batch_id, ordinal, "index", row_id, job_id, 'retracted', attempt, meta FROM retracted
        ON CONFLICT (batch_id, ordinal, "index") DO NOTHING
    ), {COUNT_DELTAS}, {retracted_events()}, {outdating()}
    SELECT id FROM affected
""")

_RETRY_RETRACTED = text(f"""
    WITH kept AS MATERIALIZED (
        SELECT id FROM batches WHERE id = :batch AND archived_at IS NULL FOR SHARE
    ), picked AS (
        SELECT id, state AS old_state FROM jobs WHERE state = 'retracted' AND id IN (
            SELECT job_id FROM events
            WHERE events.batch_id = (SELECT kept.id FROM kept) AND kind = '{EventKind.RETRACTED}')
        ORDER BY id LIMIT :limit FOR UPDATE
    ), affected AS (
        UPDATE jobs SET state = 'queued', attempt = 0, not_before = now(), finished_at = NULL
        FROM picked WHERE jobs.id = picked.id RETURNING jobs.*, old_state
    ), {COUNT_DELTAS}, {reopening("SELECT lane_id FROM affected")}, {outdating()}
    SELECT id FROM affected
""")

_LANE = text(f"""
    SELECT lanes.id, batch_id, name, {FOLDER}, output, model, mode, lora, width, height, upscale, image_s,
        {sql_columns()}
    FROM lanes JOIN batches ON batches.id = batch_id
    WHERE lanes.id = :lane AND {IS_OPEN} AND NOT {IS_DRAINED.format(":worker")}
""")


# The first columns are the first fields of a Lane, in the same order.
_SHAPE = [field.name for field in fields(Lane)].index("policy")


def open_lane(engine: Engine, lane: LaneId, worker: str = "") -> Lane | None:
    """Return the lane with its batch's policy; None if it is gone or not open (`jobs.queue.sql_predicates.IS_OPEN`).

    Nor is it open to a worker that is drained.
    """
    rows = run(engine, _LANE, {"lane": lane, "worker": worker})
    return _lane(rows[0]) if rows else None


def _lane(row: Row[Any]) -> Lane:
    make: Callable[..., Lane] = Lane
    return make(*row[:_SHAPE], *policy_of(row._mapping), image_s=row.image_s)


def claim(
    engine: Engine,
    lane: LaneId,
    *,
    limit: int,
    worker: str,
    lease_s: float,
    after: JobId = JobId(0),  # noqa: B008 - a number
    safety: str | None = None,
) -> list[Job]:
    """Claim up to `limit` queued jobs of an open lane: queued → running, attempt + 1, one new lease.

    Jobs that returned to the queue go first. Jobs whose last attempt ended with the death of its worker are claimed
    only when no others are left, `limit` / 8 at a time, and singly in their last attempt, so that a job that kills
    workers takes no other jobs with it. A worker that continues in a lane passes its last claimed id as `after`, to
    skip the jobs that it has claimed before. The number is also bounded by the tenant's and the common limit of
    running jobs. A worker that is drained gets none, and so does one that judges images by another policy than the
    batch has now: `safety` is that of `jobs.policy.stored_policy.safety_of`.
    """
    values: dict[str, Any] = {
        "lane": lane,
        "worker": worker,
        "lease_s": lease_s,
        "lease": uuid4(),
        "after": after,
        "has_room": False,
        "safety": safety,
    }

    execute = partial(run, engine, done=_GIVEN_BEFORE)
    rows = _take(execute, values, limit) or _take_within_limits(engine, values, limit)
    if not rows and after:
        return claim(engine, lane, limit=limit, worker=worker, lease_s=lease_s, safety=safety)
    return [_job(row, values["lease"]) for row in rows]


def _job(row: Row[Any], lease: UUID) -> Job:
    make: Callable[..., Job] = Job
    return make(*row[:_LEASE], lease, *row[_LEASE:_SEED], int(row[_SEED]), *row[_SEED + 1 :])


def _take(execute: Execute, values: Mapping[str, Any], limit: int) -> Sequence[Row[Any]]:
    for statement, share in _CLAIMS:
        if rows := execute(statement, {**values, "limit": share(limit)}):
            return rows
    return []


def _take_within_limits(engine: Engine, values: Mapping[str, Any], limit: int) -> Sequence[Row[Any]]:
    lane = {"lane": values["lane"]}
    if run(engine, _ROOM, lane)[0].room is None:
        return []

    def take(connection: Connection) -> Sequence[Row[Any]]:
        connection.execute(_LOCK_LIMITS, {"key": CAPS_LOCK})
        execute = partial(_all, connection)
        if given := execute(_GIVEN_BEFORE, values):
            return given
        room = connection.execute(_ROOM, lane).scalar_one()
        most = limit if room is None else min(limit, room)
        return _take(execute, {**values, "has_room": True}, most) if most > 0 else []

    return transact(engine, take)


def _all(connection: Connection, statement: TextClause, values: Mapping[str, Any]) -> Sequence[Row[Any]]:
    return connection.execute(statement, values).all()


def extend(engine: Engine, held: Iterable[tuple[JobId, UUID]], lease_s: float) -> set[JobId]:
    """Renew leases; returns the jobs that are still held. The leases of the others are lost."""
    return _ids(run(engine, _EXTEND, _pairs(held) | {"lease_s": lease_s}))


def release(engine: Engine, held: Iterable[tuple[JobId, UUID]]) -> set[JobId]:
    """Give unfinished jobs back: running → queued, without charging the attempt. Skips jobs whose lease is lost."""
    return _ids(run(engine, _RELEASE, _pairs(held)))


def give_back(engine: Engine, failures: Sequence[Failure], *, delay_s: float = 0.0) -> set[JobId]:
    """Give back jobs that failed because of the worker: running → queued, recorded in `attempts`, not charged.

    They can't be claimed for `delay_s` seconds.
    """
    records = json.dumps([failure.record() for failure in failures])
    given_back = _ids(run(engine, _GIVE_BACK, {"records": records, "delay_s": delay_s}))
    metrics.count_attempts(Outcome.RETURNED, len(given_back))
    return given_back


def complete(engine: Engine, images: Sequence[Image], *, safety: str | None = None) -> None:
    """Insert the image rows: running → done. Raises LeaseLostError with the jobs that are no longer held.

    So it does with all if the batch's safety policy is no longer `safety`, by which they were judged (`claim`). The
    rows of all other jobs are stored even then.
    """
    records = orjson.dumps([image.record() for image in images]).decode()
    rows = run(engine, _COMPLETE, {"records": records, "safety": safety})
    metrics.count_attempts(JobState.DONE, len(rows))
    _require(rows, images)


def fail(engine: Engine, failures: Sequence[Failure], *, delay_s: float) -> None:
    """Record failed attempts: running → queued, or → failed when attempts are used up. Raises LeaseLostError.

    A job that is queued again waits `delay_s` seconds, doubled with each attempt up to an hour, with ±25 % jitter.
    """
    records = json.dumps([failure.record() for failure in failures])
    rows = run(engine, _FAIL, {"records": records, "delay_s": delay_s})
    for outcome, count in Counter(row.outcome for row in rows).items():
        metrics.count_attempts(outcome, count)
    _require(rows, failures)


def block(engine: Engine, failures: Sequence[Failure], *, safety: str | None = None) -> None:
    """Withhold jobs for safety: running → blocked. Raises LeaseLostError like `complete`."""
    records = json.dumps([failure.record() for failure in failures])
    rows = run(engine, _BLOCK, {"records": records, "safety": safety})
    metrics.count_attempts(Outcome.BLOCKED, len(rows))
    _require(rows, failures)


def rescue(engine: Engine, *, limit: int = 1000) -> int:
    """Recover up to `limit` jobs whose lease expired: running → queued, or → failed when attempts are used up."""
    rows = run(engine, _RESCUE, {"limit": limit})
    metrics.count_attempts(Outcome.EXPIRED, len(rows))
    if failed := sum(row.state == JobState.FAILED for row in rows):
        metrics.JOBS_ENDED.add(failed, JobState.FAILED)
    return len(rows)


def cancel(engine: Engine, lane: LaneId, *, limit: int = 10_000) -> int:
    """Cancel up to `limit` unfinished jobs of a lane: queued | running → cancelled. Returns the number cancelled."""
    return len(run(engine, _CANCEL, {"lane": lane, "limit": limit}))


def retry(
    engine: Engine,
    batch: BatchId,
    states: Sequence[str],
    kind: str | None,
    *,
    same_seed: bool = False,
    limit: int = 10_000,
) -> int:
    """Queue up to `limit` jobs again that ended without an image: failed | blocked | cancelled → queued.

    Blocked jobs get another seed, as with the same one they would be blocked again, unless `same_seed`.

    Does nothing for a batch that is archived or being archived.
    """
    values = {
        "batch": batch,
        "states": list(states),
        "kind": kind,
        "same_seed": same_seed,
        "limit": limit,
    }
    return len(run(engine, _RETRY, values))


def count_to_retry(engine: Engine, batch: BatchId, states: Sequence[str], kind: str | None) -> int:
    """Return how many jobs `retry` would queue now."""
    rows = run(engine, _COUNT_TO_RETRY, {"batch": batch, "states": list(states), "kind": kind})
    found: int = rows[0].jobs
    return found


def retry_retracted(engine: Engine, batch: BatchId, *, limit: int = 10_000) -> int:
    """Queue up to `limit` jobs again whose images were retracted: retracted → queued, with the seeds that they had.

    Does nothing for a batch that is archived or being archived.
    """
    return len(run(engine, _RETRY_RETRACTED, {"batch": batch, "limit": limit}))


def render_again(engine: Engine, batch: BatchId, images: Sequence[tuple[int, str]], reason: str) -> int:
    """Delete image rows, given as (id, key), whose objects are gone, and queue their jobs again: done → queued."""
    return len(run(engine, _RENDER_AGAIN, _taken_back(batch, images, reason)))


def retract(
    engine: Engine,
    batch: BatchId,
    images: Sequence[tuple[int, str]],
    reason: str,
    *,
    is_archived: bool,
    keeps_file: bool,
) -> set[JobId]:
    """Delete image rows, given as (id, key), that are to be used no more: done → retracted. Returns their jobs.

    `is_archived`: of a batch whose jobs are gone. Skips what was changed meanwhile. The caller deletes the files, or
    says that they are to be kept.
    """
    statement = _RETRACT_ARCHIVED if is_archived else _RETRACT
    return _ids(run(engine, statement, _taken_back(batch, images, reason, keeps_file=keeps_file)))


def _taken_back(
    batch: BatchId, images: Sequence[tuple[int, str]], reason: str, *, keeps_file: bool = False
) -> dict[str, object]:
    return {
        "keeps_file": keeps_file,
        "batch": batch,
        "images": [image for image, _ in images],
        "keys": [key for _, key in images],
        "reason": reason,
    }


def _pairs(held: Iterable[tuple[JobId, UUID]]) -> dict[str, object]:
    pairs = list(held)
    return {"ids": [job for job, _ in pairs], "leases": [lease for _, lease in pairs]}


def _ids(rows: Sequence[Row[Any]]) -> set[JobId]:
    return {row.id for row in rows}


def _require(rows: Sequence[Row[Any]], wanted: Sequence[Image] | Sequence[Failure]) -> None:
    if lost := sorted({item.id for item in wanted} - _ids(rows)):
        raise LeaseLostError(
            f"jobs {', '.join(map(str, lost))} were given to another worker or cancelled, or their batch got another "
            "safety policy",
            lost,
        )
