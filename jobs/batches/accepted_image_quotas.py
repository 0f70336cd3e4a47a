"""Targets: a number of accepted images for each value of a column, with replacements for failed and blocked jobs.

A replacement is a job of the same row with the next free index and therefore a new seed, which the manifest determines
like all others. An image that isn't accepted (`jobs.batches.evaluate_accept_condition`) stays, and is replaced,
too. Jobs that failed with `bad-input` aren't replaced: a new seed would not help.
"""

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from sqlalchemy import Connection, Engine, text

from jobs.batches.evaluate_accept_condition import judge_all
from jobs.db.engine import run, transact
from jobs.errors import UsageError
from jobs.exports.mark_outdated_shards import outdating
from jobs.job_dataclasses import BatchId
from jobs.manifest.seeds import sql_step
from jobs.policy.stored_policy import sql_value
from jobs.queue.sql_predicates import reopening
from jobs.states import OPEN, WITH_ERROR, sql_list
from jobs.suggest_names_and_shorten_lists import nearest, some_of

_COPIED = """
    batch_id, lane_id, ordinal, row_id, prompt, negative_prompt, steps, guidance_scale, sampler, noise_level, tenant,
    meta, init_image, mask_image, depth_image, strength"""

_TARGET = sql_value("target")
_HAS_TARGET = "batches.policy ? 'target'"
_MOST = f"CAST(floor({_TARGET} * {sql_value('max_replacement_ratio')}) AS bigint)"
_PER = sql_value("target_per")
_VALUE = f"CASE WHEN {_PER} IS NULL THEN '' ELSE coalesce(meta ->> {_PER}, '') END"

_SEED = sql_step('place - "index"')

_COUNT_DELTAS = """
    count_deltas AS (
        INSERT INTO job_counts (batch_id, lane_id, state, delta)
        SELECT batch_id, lane_id, 'queued', count(*) FROM added GROUP BY 1, 2
    )"""

_FILL_UP = text(f"""
    WITH own AS (
        SELECT jobs.*, {_VALUE} AS value, {_TARGET} AS target, max("index") OVER (PARTITION BY ordinal) + 1 AS images
        FROM jobs JOIN batches ON batches.id = batch_id WHERE batch_id = :batch AND {_HAS_TARGET}
    ), ranked AS (
        SELECT *, row_number() OVER (PARTITION BY value ORDER BY ordinal, "index") - 1 AS rank,
            count(*) OVER (PARTITION BY value) AS there
        FROM own
    ), copied AS (
        SELECT ranked.*, "index" + images * (1 + n / there) AS place
        FROM ranked, generate_series(rank, target - there - 1, there) AS n
    ), added AS (
        INSERT INTO jobs ({_COPIED}, "index", seed, not_before)
        SELECT {_COPIED}, place, {_SEED}, CASE WHEN :is_later THEN now() END FROM copied ORDER BY ordinal, place
        RETURNING batch_id, lane_id
    ), {_COUNT_DELTAS}, noted AS (
        UPDATE batches SET jobs = jobs + (SELECT count(*) FROM added) WHERE id = :batch
    )
    SELECT count(*) AS n FROM added
""")

_MISSING = text(f"""
    SELECT coalesce(sum(greatest(target - there, 0)), 0)::bigint FROM (
        SELECT {_VALUE} AS value, {_TARGET} AS target, count(*) AS there
        FROM jobs JOIN batches ON batches.id = batch_id WHERE batch_id = :batch AND {_HAS_TARGET} GROUP BY 1, 2
    ) AS values
""")

_IS_NOT_REPLACED = "NOT EXISTS (SELECT FROM jobs AS made WHERE made.replaces = jobs.id)"

_REPLACE = text(f"""
    WITH lost AS (
        SELECT ended.*, {_VALUE} AS value, {_MOST} AS most
        FROM batches CROSS JOIN LATERAL (
            SELECT * FROM jobs WHERE batch_id = batches.id AND state IN ({sql_list(WITH_ERROR)})
              AND error_kind <> 'bad-input' AND {_IS_NOT_REPLACED}
            UNION ALL
            SELECT jobs.* FROM image_acceptance AS judged JOIN jobs ON jobs.id = judged.job_id
            WHERE judged.batch_id = batches.id AND NOT is_accepted AND state = 'done' AND {_IS_NOT_REPLACED}
            OFFSET 0) AS ended  -- batch by batch: few have a target, and those may be looked at first
        WHERE {_HAS_TARGET} AND cancelled_at IS NULL AND archived_at IS NULL
          AND (CAST(:batch AS bigint) IS NULL OR batches.id = :batch)
    ), made AS (
        SELECT batch_id, {_VALUE} AS value, count(*) AS n FROM jobs JOIN batches ON batches.id = batch_id
        WHERE replaces IS NOT NULL AND {_HAS_TARGET} GROUP BY 1, 2
    ), placed AS (
        SELECT lost.*, row_number() OVER (PARTITION BY batch_id, value ORDER BY id) + coalesce(made.n, 0) AS rank,
            (SELECT max(other."index") FROM jobs AS other
             WHERE other.batch_id = lost.batch_id AND other.ordinal = lost.ordinal)
            + row_number() OVER (PARTITION BY batch_id, ordinal ORDER BY id) AS place
        FROM lost LEFT JOIN made USING (batch_id, value)
    ), added AS (
        INSERT INTO jobs ({_COPIED}, "index", seed, replaces, not_before)
        SELECT {_COPIED}, place, {_SEED}, id, now() FROM placed WHERE rank <= most ORDER BY id LIMIT :limit
        ON CONFLICT DO NOTHING RETURNING batch_id, lane_id, ordinal
    ), {_COUNT_DELTAS}, noted AS (
        UPDATE batches SET jobs = jobs + n FROM (SELECT batch_id, count(*) AS n FROM added GROUP BY 1) AS more
        WHERE batches.id = more.batch_id AND cancelled_at IS NULL AND archived_at IS NULL RETURNING batches.id
    ), {reopening("SELECT lane_id FROM added WHERE (SELECT count(*) FROM noted) >= 0")}, {outdating("added")}
    SELECT count(*) AS n, count(DISTINCT batch_id) = (SELECT count(*) FROM noted) AS is_wanted FROM added
""")

# Of one batch; images that weren't judged yet have no verdict.
_WITH_VERDICTS = """LEFT JOIN (
            SELECT job_id, is_accepted FROM image_acceptance WHERE batch_id = :batch) AS judged ON job_id = jobs.id"""
_IS_ACCEPTED = "state = 'done' AND (is_accepted OR NOT batches.policy ? 'accept')"

_SHORT = text(f"""
    SELECT value, target, accepted, on_their_way FROM (
        SELECT {_VALUE} AS value, {_TARGET} AS target, count(*) FILTER (WHERE {_IS_ACCEPTED}) AS accepted,
            count(*) FILTER (WHERE state IN ({sql_list(OPEN)}) OR (
                state = 'done' AND is_accepted IS NULL AND batches.policy ? 'accept')) AS on_their_way
        FROM jobs JOIN batches ON batches.id = batch_id {_WITH_VERDICTS}
        WHERE batch_id = :batch AND {_HAS_TARGET} GROUP BY 1, 2
    ) AS values WHERE accepted < target ORDER BY accepted - target, value LIMIT :limit
""")


_SHORTFALL = text(f"""
    SELECT count(*) AS batches, coalesce(sum(greatest(target - accepted, 0)), 0)::bigint AS images,
        count(*) FILTER (WHERE accepted < target) AS values
    FROM (
        SELECT {_TARGET} AS target, count(*) FILTER (WHERE {_IS_ACCEPTED}) AS accepted
        FROM batches LEFT JOIN jobs ON batch_id = batches.id {_WITH_VERDICTS}
        WHERE batches.id = :batch AND {_HAS_TARGET} AND archived_at IS NULL GROUP BY {_TARGET}, {_VALUE}
    ) AS of_value
""")

_HAS_COLUMN = text(
    "SELECT EXISTS (SELECT FROM jobs WHERE batch_id = :batch AND meta -> CAST(:column AS text) IS NOT NULL)"
)
_COLUMNS = text("""
    SELECT DISTINCT json_object_keys(meta) FROM (SELECT meta FROM jobs WHERE batch_id = :batch LIMIT 1000) AS few
""")


class Shortfall(NamedTuple):
    """What a batch lacks of its target: images in all, and the number of values that lack some."""

    images: int
    values: int

    def report(self) -> dict[str, int]:
        """Return it as JSON has it."""
        return self._asdict()


def shortfall(engine: Engine, batch: BatchId) -> Shortfall | None:
    """Return what the batch lacks of its target at the moment; None if it has no target, or its jobs are archived.

    Reads all jobs of a batch that has a target.
    """
    (row,) = run(engine, _SHORTFALL, {"batch": batch})
    return Shortfall(row.images, row.values) if row.batches else None


def check_target_per(connection: Connection, batch: BatchId, column: str) -> None:
    """Raise UsageError if no row of a batch that is being ingested has the column `target_per`."""
    if not connection.execute(_HAS_COLUMN, {"batch": batch, "column": column}).scalar_one():
        refuse_target_per(column, connection.execute(_COLUMNS, {"batch": batch}).scalars().all())


def refuse_target_per(column: str, columns: Sequence[str]) -> NoReturn:
    """Raise the UsageError for a `target_per` that is not among the columns of `meta`."""
    near = nearest(column, columns)
    listed = f"those there are: {some_of(sorted(columns), 20)}" if columns else "there are none of your own"
    hint = f"did you mean {near!r}?" if near else listed
    raise UsageError(f"--set target_per={column}: no row has a column {column!r}; {hint}")


def missing(connection: Connection, batch: BatchId) -> int:
    """Return how many jobs `fill_up` would add."""
    jobs: int = connection.execute(_MISSING, {"batch": batch}).scalar_one()
    return jobs


def fill_up(connection: Connection, batch: BatchId, *, is_later: bool = False) -> int:
    """Repeat rows of a batch that is being ingested until each value reaches its target; returns the jobs added.

    `is_later`: the batch was there before, so that the low watermarks of its lanes may be above all jobs.
    """
    added: int = connection.execute(_FILL_UP, {"batch": batch, "is_later": is_later}).scalar_one()
    return added


def make_up(engine: Engine, batch: BatchId | None = None, *, limit: int = 1000) -> int:
    """Queue replacements for failed and blocked jobs and images that weren't accepted; returns the number queued.

    As many as the batch allows. With a batch, all its images are judged before.
    """
    if batch is not None:
        judge_all(engine, batch)

    def replace(connection: Connection) -> int:
        made = connection.execute(_REPLACE, {"batch": batch, "limit": limit}).one()
        if not made.is_wanted:  # a batch was cancelled or archived meanwhile
            connection.rollback()
        return made.n if made.is_wanted else 0

    return transact(engine, replace)


def short(engine: Engine, batch: BatchId, *, limit: int = 20) -> list[dict[str, object]]:
    """Return the values that are below their target, the largest gap first; scans all jobs of the batch.

    The keys are value, target, accepted, on_their_way.
    """
    return [dict(row._mapping) for row in run(engine, _SHORT, {"batch": batch, "limit": limit})]
