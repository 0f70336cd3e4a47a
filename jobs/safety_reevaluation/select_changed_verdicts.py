"""What a safety policy makes of the stored scores of a batch: of done jobs by image row, of blocked ones by event."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, RowMapping, TextClause, text

from jobs.db.engine import run
from jobs.job_dataclasses import BatchId, JobId
from jobs.policy.safety_thresholds import CONCEPTS, ScoreAdjustments
from jobs.queue.sql_predicates import in_quarantine
from jobs.safety_reevaluation.safety_thresholds_sql import (
    adjusted,
    highest,
    is_judged_by_scores_alone,
    score_arrays,
    shift,
)
from jobs.states import EventKind, JobState

PAGE = 500

_DONE = """
    SELECT i.id, i.job_id, i.ordinal, i."index", i.row_id, i.key, i.safety_scores AS scores,
        NULL::timestamptz AS blocked_at
    FROM images i
    WHERE i.batch_id = :batch"""

# The scores of the last block: a job that was retried may have been blocked for another image. What lies in quarantine
# and can't be restored is as if it had no file.
_BLOCKED = f"""
    SELECT NULL::bigint AS id, jobs.id AS job_id, jobs.ordinal, jobs."index", row_id, q.key, told.scores,
        jobs.finished_at AS blocked_at
    FROM jobs
    LEFT JOIN quarantined_images q ON {in_quarantine()} AND {is_judged_by_scores_alone("q.image")}
    LEFT JOIN LATERAL (
        SELECT detail -> 'scores' AS scores FROM events
        WHERE batch_id = jobs.batch_id AND ordinal = jobs.ordinal AND "index" = jobs."index" AND job_id = jobs.id
          AND kind = '{EventKind.BLOCKED}'
        ORDER BY id DESC LIMIT 1) AS told ON true
    WHERE jobs.batch_id = :batch AND jobs.state = '{JobState.BLOCKED}'"""


@dataclass(frozen=True)
class JudgedJob:
    """A job whose state a policy changes; `above` are the concepts for which its image is flagged, with the scores.

    Of a job that is freed, `above` is what it was flagged for before. `image` and `key` are those of its image row; of
    a blocked job, `key` is that of its file in quarantine, if there is one that can be restored, and `blocked_at` is
    when it was blocked.
    """

    job: JobId
    ordinal: int
    index: int
    row_id: str | None
    scores: Mapping[str, Any]
    above: Mapping[int, float]
    image: int | None = None
    key: str | None = None
    blocked_at: datetime | None = None


@dataclass(frozen=True)
class Counts:
    """How many jobs there are, how many the policy changes (by concept, too), and how many have no scores.

    `with_file`: so many that the policy changes have a file, as an image or in quarantine.
    """

    jobs: int
    changed: int
    without_scores: int
    by_concept: Mapping[int, int]
    with_file: int


def count_blocked_images(engine: Engine, batch: BatchId, new: ScoreAdjustments) -> Counts:
    """Count the image rows that the policy blocks."""
    return _count(engine, batch, _scored(_DONE, new), f"{highest(new)} > 0", adjusted(new))


def count_freed_jobs(engine: Engine, batch: BatchId, new: ScoreAdjustments, old: ScoreAdjustments) -> Counts:
    """Count the blocked jobs that the policy frees; by the concepts for which the `old` policy had blocked them."""
    return _count(
        engine, batch, _scored(_BLOCKED, new, old), f"{highest(new)} <= 0", adjusted(old, "old_shift")
    )


def blocked_images(
    engine: Engine, batch: BatchId, new: ScoreAdjustments, limit: int = PAGE
) -> Iterator[list[JudgedJob]]:
    """Yield the image rows that the policy blocks, in manifest order, page by page."""
    statement = _page(_scored(_DONE, new), f"{highest(new)} > 0")
    return _pages(engine, batch, statement, new, limit)


def freed_jobs(
    engine: Engine, batch: BatchId, new: ScoreAdjustments, old: ScoreAdjustments, limit: int = PAGE
) -> Iterator[list[JudgedJob]]:
    """Yield the blocked jobs that the policy frees, in manifest order, page by page."""
    return _pages(engine, batch, _page(_scored(_BLOCKED, new), f"{highest(new)} <= 0"), old, limit)


def _scored(jobs: str, new: ScoreAdjustments, old: ScoreAdjustments | None = None) -> str:
    """Return the SQL of jobs with their scores as arrays and what special care adds to these."""
    shifts = f"{shift(new)} AS shift, {shift(old or new)} AS old_shift"
    return f"""({jobs}) AS job LEFT JOIN LATERAL {score_arrays("job.scores")} AS a ON true
        CROSS JOIN LATERAL (SELECT {shifts} OFFSET 0) AS s"""


def _count(engine: Engine, batch: BatchId, scored: str, condition: str, concepts: Sequence[str]) -> Counts:
    by_concept = ", ".join(
        f"count(*) FILTER (WHERE is_changed AND {score} > 0) AS concept_{number}"
        for number, score in enumerate(concepts)
    )
    statement = text(f"""
        SELECT count(*) AS jobs, count(*) FILTER (WHERE is_changed) AS changed,
            count(*) FILTER (WHERE concepts IS NULL) AS without_scores,
            count(*) FILTER (WHERE is_changed AND key IS NOT NULL) AS with_file, {by_concept}
        FROM (SELECT key, concepts, shift, old_shift, {condition} AS is_changed FROM {scored} OFFSET 0) AS judged
    """)
    found = run(engine, statement, {"batch": batch})[0]._mapping
    counted = {number: found[f"concept_{number}"] for number in range(CONCEPTS)}
    return Counts(
        found["jobs"],
        found["changed"],
        found["without_scores"],
        {number: count for number, count in counted.items() if count},
        found["with_file"],
    )


def _page(scored: str, condition: str) -> TextClause:
    return text(f"""
        SELECT job.* FROM {scored} WHERE (job.ordinal, job."index") > (:ordinal, :number) AND {condition}
        ORDER BY job.ordinal, job."index" LIMIT :limit
    """)


def _pages(
    engine: Engine, batch: BatchId, statement: TextClause, reasons: ScoreAdjustments, limit: int
) -> Iterator[list[JudgedJob]]:
    place = {"ordinal": -1, "number": -(2**31)}
    while rows := run(engine, statement, {"batch": batch, "limit": limit, **place}):
        yield [_job(row._mapping, reasons) for row in rows]
        last: Any = rows[-1]._mapping
        place = {"ordinal": last["ordinal"], "number": last["index"]}


def _job(row: RowMapping, reasons: ScoreAdjustments) -> JudgedJob:
    place = row["job_id"], row["ordinal"], row["index"], row["row_id"]
    scores = row["scores"]
    return JudgedJob(*place, scores, reasons.above(scores), row["id"], row["key"], row["blocked_at"])
