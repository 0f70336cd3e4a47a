"""Bring the jobs of a batch to a later version of its manifest: one transaction compares, then changes what differs.

The rows of the later manifest are in the temporary table `staged_jobs`, one for each image, with `ordinal` as the row's
place in that manifest. Rows are matched by id: rows that are there keep their ordinals, new ones get the next.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, text

from jobs.db.cluster_epochs import WRITTEN
from jobs.exports.mark_outdated_shards import outdating
from jobs.feed.write_events import ID, retracted_events
from jobs.job_dataclasses import BatchId
from jobs.manifest.seeds import GOLDEN, RETRY_STEPS, ROW_SEEDS, sql_step
from jobs.queue.sql_predicates import reopening

JOB_COLUMNS = (
    "index, seed, ordinal, batch_id, lane_id, steps, guidance_scale, sampler, noise_level, strength, tenant, "
    "init_image, mask_image, depth_image, row_id, prompt, negative_prompt, meta"
)
"""The columns of a job that a manifest's row decides, in the order in which they are copied."""

_MOST_RETRIES = 32
_DRAWN = (
    *("prompt", "negative_prompt", "steps", "guidance_scale", "sampler", "seed", "noise_level"),
    *("init_image", "mask_image", "depth_image", "strength"),
)
_DRAWN_BY_LANE = ("model", "mode", "lora", "width", "height", "upscale")
_TOLD = ("tenant", "meta", "lane_id")

_STAGE = (
    f"CREATE TEMPORARY TABLE staged_jobs ON COMMIT DROP AS SELECT {JOB_COLUMNS} FROM jobs WITH NO DATA",
    """CREATE TEMPORARY TABLE staged_rejects ON COMMIT DROP AS
        SELECT batch_id, ordinal, line, "column", reason, excerpt FROM rejects WITH NO DATA""",
)

_IDS = text("""
    SELECT count(*) - count(row_id) AS without, count(row_id) - count(DISTINCT row_id) AS repeated
    FROM (SELECT DISTINCT ordinal, row_id FROM jobs WHERE batch_id = :batch) AS there
""")

_ROWS = text("""
    CREATE TEMPORARY TABLE row_changes ON COMMIT DROP AS
    SELECT row_id, place, there.ordinal IS NULL AS is_new, place IS NULL AS is_dropped,
        coalesce(there.ordinal, (SELECT coalesce(max(ordinal), -1) FROM jobs WHERE batch_id = :batch)
            + row_number() OVER (PARTITION BY there.ordinal IS NULL ORDER BY place)) AS ordinal
    FROM (SELECT row_id, min(ordinal) AS place FROM staged_jobs GROUP BY 1) AS later
    FULL JOIN (SELECT row_id, min(ordinal) AS ordinal FROM jobs WHERE batch_id = :batch GROUP BY 1) AS there
    USING (row_id)
""")

_PLACE = text(f"""
    UPDATE staged_jobs SET ordinal = c.ordinal, seed = CASE WHEN seed >= 0 THEN seed
        ELSE mod(:offset + c.ordinal + CAST({GOLDEN} AS numeric) * "index", {ROW_SEEDS}) END
    FROM row_changes AS c WHERE c.row_id = staged_jobs.row_id
""")

# Images beyond those that a row asks for, which a target added: they follow their row, and keep their seeds.
_FOLLOWING = ", ".join(f"s.{name.strip()}" for name in JOB_COLUMNS.split(",")[2:])
_EXTRAS = text(f"""
    INSERT INTO staged_jobs ({JOB_COLUMNS})
    SELECT jobs."index", jobs.seed, {_FOLLOWING}
    FROM jobs JOIN staged_jobs AS s ON s.ordinal = jobs.ordinal AND s."index" = 0
    WHERE jobs.batch_id = :batch AND NOT EXISTS (
        SELECT FROM staged_jobs AS own WHERE own.ordinal = jobs.ordinal AND own."index" = jobs."index")
""")

# A blocked job that was tried again has a later seed of the same row.
_RETRIED = text(f"""
    UPDATE staged_jobs SET seed = jobs.seed FROM jobs
    WHERE jobs.batch_id = :batch AND jobs.ordinal = staged_jobs.ordinal AND jobs."index" = staged_jobs."index"
      AND jobs.seed <> staged_jobs.seed AND jobs.seed IN (
        SELECT {sql_step(f"{RETRY_STEPS} * n")} FROM (SELECT staged_jobs.seed AS seed) AS given,
            generate_series(1, {_MOST_RETRIES}) AS n)
""")

_IS_DRAWN_ANEW = " OR ".join(
    [f's."{name}" IS DISTINCT FROM j."{name}"' for name in _DRAWN]
    + [f'new_lane."{name}" <> old_lane."{name}"' for name in _DRAWN_BY_LANE]
)
_IS_TOLD_ANEW = """
    s.lane_id <> j.lane_id OR s.tenant IS DISTINCT FROM j.tenant
    OR s.meta::text <> j.meta::text AND s.meta::jsonb <> j.meta::jsonb"""
_JOBS = text(f"""
    CREATE TEMPORARY TABLE job_changes ON COMMIT DROP AS
    SELECT j.id AS job_id, coalesce(s.ordinal, j.ordinal) AS ordinal, coalesce(s."index", j."index") AS "index",
        CASE WHEN j.id IS NULL THEN 'added' WHEN s.ordinal IS NULL THEN 'removed'
            WHEN {_IS_DRAWN_ANEW} THEN 'drawn' WHEN {_IS_TOLD_ANEW} THEN 'told' END AS change
    FROM staged_jobs AS s
    FULL JOIN (SELECT * FROM jobs WHERE batch_id = :batch) AS j
        ON j.ordinal = s.ordinal AND j."index" = s."index"
    LEFT JOIN lanes AS new_lane ON new_lane.id = s.lane_id LEFT JOIN lanes AS old_lane ON old_lane.id = j.lane_id
""")

_KEEP_DROPPED = text("""
    DELETE FROM job_changes USING row_changes
    WHERE row_changes.ordinal = job_changes.ordinal AND is_dropped AND change = 'removed'
""")

_COUNTED = text("""
    SELECT count(*) FILTER (WHERE is_new) AS new, count(*) FILTER (WHERE is_dropped) AS dropped,
        count(*) FILTER (WHERE NOT is_new AND NOT is_dropped AND redraws) AS changed,
        count(*) FILTER (WHERE NOT is_new AND NOT is_dropped AND NOT redraws AND tells) AS told,
        count(*) FILTER (WHERE NOT is_new AND NOT is_dropped AND NOT redraws AND NOT tells) AS unchanged
    FROM (
        SELECT r.ordinal, bool_or(is_new) AS is_new, bool_or(is_dropped) AS is_dropped,
            coalesce(bool_or(change <> 'told'), false) AS redraws, coalesce(bool_or(change = 'told'), false) AS tells
        FROM row_changes AS r LEFT JOIN job_changes USING (ordinal) GROUP BY 1
    ) AS of_row
""")
_COUNTED_JOBS = text("""
    SELECT count(*) FILTER (WHERE change IN ('added', 'drawn')) AS queued,
        count(images.id) FILTER (WHERE change IN ('drawn', 'removed')) AS retracted
    FROM job_changes LEFT JOIN images USING (job_id)
""")

_LOCKS = (
    text("""
        SELECT id FROM jobs WHERE id IN (SELECT job_id FROM job_changes WHERE change IS NOT NULL)
        ORDER BY id FOR UPDATE
    """),
    text("""
        SELECT id FROM images WHERE job_id IN (SELECT job_id FROM job_changes WHERE change IS NOT NULL)
        ORDER BY id FOR UPDATE
    """),
)

# Whether an image is accepted may depend on the columns that change: it is judged anew.
_UNJUDGE = text("""
    DELETE FROM image_acceptance USING job_changes
    WHERE image_acceptance.job_id = job_changes.job_id AND change = 'told'
""")

_COUNT_DELTAS = """
    count_deltas AS (
        INSERT INTO job_counts (batch_id, lane_id, state, delta)
        SELECT batch_id, old_lane, old_state, -count(*) FROM affected GROUP BY 1, 2, 3
        UNION ALL
        SELECT batch_id, lane_id, state, count(*) FROM affected GROUP BY 1, 2, 3
    )"""


def _picked(change: str) -> str:
    return f"""
    picked AS (
        SELECT jobs.id, state AS old_state, lane_id AS old_lane, job_changes.ordinal, job_changes."index"
        FROM job_changes JOIN jobs ON jobs.id = job_id WHERE change = '{change}'
    )"""


def _set(columns: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}" = s."{name}"' for name in columns)


_STAGED = 'picked JOIN staged_jobs AS s ON s.ordinal = picked.ordinal AND s."index" = picked."index"'

# A worker that is rendering the job has lost its lease.
_DRAW = text(f"""
    WITH {_picked("drawn")}, retracted AS (
        DELETE FROM images USING picked WHERE images.job_id = picked.id RETURNING images.*
    ), affected AS (
        UPDATE jobs SET {_set((*_DRAWN, *_TOLD))}, state = 'queued', attempt = 0, not_before = now(), lease = NULL,
            lease_until = NULL, finished_at = NULL, error_kind = NULL, error_text = NULL
        FROM {_STAGED} WHERE jobs.id = picked.id RETURNING jobs.*, old_state, old_lane
    ), {_COUNT_DELTAS}, {retracted_events()}, {reopening("SELECT lane_id FROM affected")}, {outdating()}
    SELECT count(*) FROM affected
""")

# The image row gets a new number and place in the feed, so that whoever reads it learns of the change.
_TELL = text(f"""
    WITH {_picked("told")}, retracted AS (
        SELECT images.* FROM images JOIN picked ON images.job_id = picked.id
    ), affected AS (
        UPDATE jobs SET {_set(_TOLD)} FROM {_STAGED} WHERE jobs.id = picked.id RETURNING jobs.*, old_state, old_lane
    ), {_COUNT_DELTAS}, {retracted_events()}, renewed AS (
        UPDATE images SET meta = s.meta, tenant = s.tenant, id = {ID}, xid = pg_current_xact_id(), epoch = {WRITTEN}
        FROM {_STAGED} WHERE images.job_id = picked.id
    ), {reopening("SELECT lane_id FROM affected")}, {outdating()}
    SELECT count(*) FROM affected
""")

_REMOVE = text(f"""
    WITH {_picked("removed")}, retracted AS (
        DELETE FROM images USING picked WHERE images.job_id = picked.id RETURNING images.*
    ), history AS (
        DELETE FROM attempts USING picked WHERE job_id = picked.id
    ), affected AS (
        DELETE FROM jobs USING picked WHERE jobs.id = picked.id
        RETURNING jobs.batch_id, jobs.ordinal, jobs.lane_id, old_state
    ), count_deltas AS (
        INSERT INTO job_counts (batch_id, lane_id, state, delta)
        SELECT batch_id, lane_id, old_state, -count(*) FROM affected GROUP BY 1, 2, 3
    ), {retracted_events()}, {outdating()}
    SELECT count(*) FROM affected
""")

# With `not_before`, as everything that comes to a lane later: its low watermark may be above all jobs.
_ADD = text(f"""
    WITH affected AS (
        INSERT INTO jobs ({JOB_COLUMNS}, not_before)
        SELECT {JOB_COLUMNS}, now() FROM staged_jobs JOIN job_changes USING (ordinal, "index") WHERE change = 'added'
        ORDER BY ordinal, "index" RETURNING batch_id, lane_id, ordinal
    ), count_deltas AS (
        INSERT INTO job_counts (batch_id, lane_id, state, delta)
        SELECT batch_id, lane_id, 'queued', count(*) FROM affected GROUP BY 1, 2
    ), {reopening("SELECT lane_id FROM affected")}, {outdating()}
    SELECT count(*) FROM affected
""")

_REJECTS = (
    text("DELETE FROM rejects WHERE batch_id = :batch"),
    text("""
        INSERT INTO rejects (batch_id, ordinal, line, "column", reason, excerpt)
        SELECT batch_id, (SELECT coalesce(max(ordinal), -1) FROM jobs WHERE batch_id = :batch)
            + row_number() OVER (ORDER BY ordinal), line, "column", reason, excerpt
        FROM staged_rejects ORDER BY ordinal
    """),
)


_CHANGED = {"reason": "its row of the manifest has changed", "keeps_file": False}
_GONE = {"reason": "its row is no longer in the manifest", "keeps_file": False}


@dataclass(frozen=True)
class Difference:
    """What a later manifest changes of a batch: rows, and the jobs and image rows that follow from them.

    `told` rows differ only in what no image depends on: their own columns and tenant.
    """

    new: int
    changed: int
    told: int
    dropped: int
    unchanged: int
    queued: int
    retracted: int

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done."""
        return not (self.new or self.changed or self.told or self.dropped)

    def report(self) -> dict[str, int]:
        """Return it as JSON has it."""
        return asdict(self)


def stage(connection: Connection) -> None:
    """Create the temporary tables for a later manifest's jobs and rejects, until the end of the transaction."""
    for statement in _STAGE:
        connection.execute(text(statement))


def unmatchable_rows(connection: Connection, batch: BatchId) -> tuple[int, int]:
    """Return how many rows of the batch have no id, and how many repeat another's."""
    row = connection.execute(_IDS, {"batch": batch}).one()
    return row.without, row.repeated


def compare(
    connection: Connection, batch: BatchId, seed_offset: int, *, has_target: bool, keeps_dropped: bool
) -> Difference:
    """Compare the staged jobs with the batch's; `seed_offset` is that of its seeds by row."""
    values: Mapping[str, Any] = {"batch": batch, "offset": seed_offset}
    connection.execute(_ROWS, values)
    connection.execute(_PLACE, values)
    connection.execute(text("CREATE INDEX ON staged_jobs (ordinal, index)"))
    connection.execute(text("ANALYZE staged_jobs"))
    for statement in (*((_EXTRAS,) if has_target else ()), _RETRIED, _JOBS):
        connection.execute(statement, values)
    connection.execute(text("ANALYZE row_changes, job_changes"))
    counted = dict(connection.execute(_COUNTED).one()._mapping)
    if keeps_dropped:
        connection.execute(_KEEP_DROPPED)
        counted |= {"unchanged": counted["unchanged"] + counted["dropped"], "dropped": 0}
    return Difference(**counted, **connection.execute(_COUNTED_JOBS).one()._mapping)


def apply(connection: Connection, batch: BatchId) -> int:
    """Change the batch's jobs and image rows as compared, and replace its rejects; returns how many jobs are more."""
    for statement in _LOCKS:  # statements of their own: the next ones see what was stored meanwhile
        connection.execute(statement)
    connection.execute(_DRAW, _CHANGED)
    connection.execute(_UNJUDGE)
    connection.execute(_TELL, _CHANGED)
    removed: int = connection.execute(_REMOVE, _GONE).scalar_one()
    added: int = connection.execute(_ADD).scalar_one()
    for statement in _REJECTS:
        connection.execute(statement, {"batch": batch})
    return added - removed
