"""Reconciliation: what became of each row of a batch's manifest, and the proof that none is missing or counted twice.

Works for archived batches, too: `archive` keeps how jobs without an image ended in `archived_jobs`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

from sqlalchemy import Engine, text

from jobs.batches.status import BatchStatus
from jobs.db.engine import run
from jobs.job_dataclasses import BatchId
from jobs.states import JobState

PAGE = 2_000


class Outcome(StrEnum):
    """What became of a row; of a row of several images, the first of these that is true of one of them."""

    RUNNING = "running"
    QUEUED = "queued"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"
    RETRACTED = "retracted"
    REPLACED = "replaced"
    """Ended without an image, and another image of the row made up for it."""
    IMAGE = "image"
    REJECTED = "rejected"


_OF_STATE: Mapping[str, Outcome] = {
    str(state): Outcome.IMAGE if state == JobState.DONE else Outcome(state) for state in JobState
}

# The jobs of a page of rows, whether they are still there, archived, or known by their image row alone.
_JOBS = text(f"""
    WITH page AS (
        SELECT id AS job_id, ordinal, "index", row_id, meta::text AS meta, state, attempt, error_kind, error_text,
            (SELECT made.id FROM jobs AS made WHERE made.replaces = jobs.id) AS replaced_by
        FROM jobs WHERE batch_id = :batch AND ordinal >= :first AND ordinal < :end
        UNION ALL
        SELECT job_id, ordinal, "index", row_id, meta::text, state, attempt, error_kind, error_text, replaced_by
        FROM archived_jobs WHERE batch_id = :batch AND ordinal >= :first AND ordinal < :end
        UNION ALL
        SELECT job_id, ordinal, "index", row_id, meta::text, '{JobState.DONE}', attempt, NULL, NULL, NULL FROM images
        WHERE batch_id = :batch AND ordinal >= :first AND ordinal < :end
          AND NOT EXISTS (SELECT FROM jobs WHERE jobs.id = images.job_id)
    )
    SELECT page.*, images.id AS image_id, images.key, images.sha256, told.detail
    FROM page LEFT JOIN images ON images.job_id = page.job_id AND page.state = '{JobState.DONE}'
    LEFT JOIN LATERAL (
        SELECT detail FROM events
        WHERE page.state IN ('{JobState.BLOCKED}', '{JobState.RETRACTED}') AND kind = page.state
          AND batch_id = :batch AND ordinal = page.ordinal AND "index" = page."index"
        ORDER BY id DESC LIMIT 1) AS told ON true
    ORDER BY page.ordinal, page."index"
""")

_REJECTS = text("""
    SELECT ordinal, line, "column", reason, excerpt FROM rejects
    WHERE batch_id = :batch AND ordinal >= :first AND ordinal < :end ORDER BY ordinal
""")

# Rows that a later manifest has dropped leave gaps among the ordinals.
_LAST = text("""
    SELECT greatest(-1, (SELECT max(ordinal) FROM jobs WHERE batch_id = :batch),
        (SELECT max(ordinal) FROM archived_jobs WHERE batch_id = :batch),
        (SELECT max(ordinal) FROM images WHERE batch_id = :batch),
        (SELECT max(ordinal) FROM rejects WHERE batch_id = :batch)) AS ordinal
""")

_SUMS = text(f"""
    WITH job AS (
        SELECT ordinal, state, id AS job_id FROM jobs WHERE batch_id = :batch
        UNION ALL SELECT ordinal, state, job_id FROM archived_jobs WHERE batch_id = :batch
        UNION ALL SELECT ordinal, '{JobState.DONE}', job_id FROM images
        WHERE batch_id = :batch AND NOT EXISTS (SELECT FROM jobs WHERE jobs.id = images.job_id)
    ), accounted AS (
        SELECT ordinal FROM job UNION SELECT ordinal FROM rejects WHERE batch_id = :batch
    )
    SELECT b.rows, b.rejected, b.jobs, b.archived_at, (SELECT count(*) FROM job) AS found_jobs,
        CASE WHEN b.lines ->> 'manifest_sha256' = b.manifest_sha256 THEN b.lines - 'manifest_sha256' END AS lines,
        (SELECT count(*) FROM rejects WHERE batch_id = :batch) AS found_rejects,
        (SELECT count(*) FROM accounted) AS found_rows,
        (SELECT count(*) FROM rejects WHERE batch_id = :batch AND ordinal IN (SELECT ordinal FROM job)) AS doubled,
        (SELECT count(*) FROM job WHERE state = '{JobState.DONE}') AS done,
        (SELECT count(*) FROM images WHERE batch_id = :batch) AS images
    FROM batches b WHERE b.id = :batch
""")


@dataclass(frozen=True)
class RowOutcome:
    """What became of one row of the manifest; `meta` is JSON as the manifest had it, `line` known of rejected rows.

    `error_kind`, `error_text`, `attempts`, `scores` and `reason` are of the first image that has the row's outcome.
    """

    ordinal: int
    row_id: str | None
    outcome: Outcome
    jobs: int
    images: Sequence[Mapping[str, Any]] = ()
    """`index`, `image_id`, `key` and `sha256` of each."""
    replaced: int = 0
    error_kind: str | None = None
    error_text: str | None = None
    attempts: int | None = None
    scores: Mapping[str, Any] | None = None
    line: int | None = None
    column: str | None = None
    reason: str | None = None
    excerpt: str | None = None
    """The beginning of a rejected row, as the manifest has it."""
    meta: str | None = None


@dataclass(frozen=True)
class Sums:
    """Counts of a batch as it was ingested, and as they are found; `problems` says where they differ."""

    rows: int
    rejected: int
    jobs: int
    images: int
    lines: Mapping[str, int] | None
    """Lines of the manifest by what they are; None where they weren't counted."""
    problems: Sequence[str]

    def report(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return asdict(self)


def outcomes(engine: Engine, batch: BatchStatus, *, size: int = PAGE) -> Iterator[RowOutcome]:
    """Yield the outcome of each row in the order of the manifest, page by page, each in a transaction of its own."""
    (last,) = run(engine, _LAST, {"batch": batch.id})
    for first in range(0, last.ordinal + 1, size):
        page = {"batch": batch.id, "first": first, "end": first + size}
        found = {
            ordinal: _of_jobs(list(jobs)) for ordinal, jobs in groupby(run(engine, _JOBS, page), _ordinal)
        }
        for reject in run(engine, _REJECTS, page):
            found.setdefault(reject.ordinal, _of_reject(reject))
        yield from (found[ordinal] for ordinal in sorted(found))


def _ordinal(row: Any) -> int:
    ordinal: int = row.ordinal
    return ordinal


def _of_jobs(jobs: Sequence[Any]) -> RowOutcome:
    ranked = [(_outcome(job), job) for job in jobs]
    order = list(Outcome)
    outcome, job = min(ranked, key=lambda pair: order.index(pair[0]))
    if outcome == Outcome.REPLACED:  # by what was ranked behind it
        outcome = next((other for other, _ in ranked if other != Outcome.REPLACED), outcome)
    detail = job.detail or {}
    return RowOutcome(
        ordinal=job.ordinal,
        row_id=job.row_id,
        outcome=outcome,
        jobs=len(jobs),
        images=[
            {"index": each.index, "image_id": each.image_id, "key": each.key, "sha256": each.sha256}
            for each in jobs
            if each.image_id is not None
        ],
        replaced=sum(each == Outcome.REPLACED for each, _ in ranked),
        error_kind=job.error_kind,
        error_text=job.error_text,
        attempts=max(each.attempt for each in jobs),
        scores=detail.get("scores"),
        reason=detail.get("reason"),
        meta=job.meta,
    )


def _outcome(job: Any) -> Outcome:
    if job.replaced_by is not None and job.state in (JobState.FAILED, JobState.BLOCKED):
        return Outcome.REPLACED
    return _OF_STATE[job.state]


def _of_reject(reject: Any) -> RowOutcome:
    return RowOutcome(
        ordinal=reject.ordinal,
        row_id=None,
        outcome=Outcome.REJECTED,
        jobs=0,
        line=reject.line,
        column=reject.column,
        reason=reject.reason,
        excerpt=reject.excerpt,
    )


def sums(engine: Engine, batch: BatchId) -> Sums:
    """Compare what was counted when the manifest was ingested with the rows, jobs and images that there are."""
    (found,) = run(engine, _SUMS, {"batch": batch})
    problems = []
    if found.found_rows < found.rows:
        missing = found.rows - found.found_rows
        problems.append(f"{missing:,} of {found.rows:,} rows have neither a job nor a reject")
    if found.found_rows > found.rows:
        more = found.found_rows - found.rows
        problems.append(f"{more:,} rows are there that the manifest doesn't have")
    if found.doubled:
        problems.append(f"{found.doubled:,} rows have both jobs and a reject")
    if found.found_rejects != found.rejected:
        problems.append(f"{found.rejected:,} rows were rejected, {found.found_rejects:,} rejects are there")
    if found.found_jobs != found.jobs:
        problems.append(f"{found.jobs:,} jobs were made, {found.found_jobs:,} are accounted for")
        if found.archived_at is not None:
            problems.append(
                "an earlier version may have archived the batch, which kept nothing of jobs without an image"
            )
    if found.done != found.images:
        problems.append(f"{found.done:,} jobs are done, {found.images:,} image rows are there")
    problems += _of_lines(found.lines, found.rows)
    return Sums(found.rows, found.rejected, found.jobs, found.images, found.lines, problems)


def _of_lines(lines: Mapping[str, int] | None, rows: int) -> list[str]:
    if lines is None:
        return []
    problems = []
    kinds = {name: count for name, count in lines.items() if name != "read"}
    if lines["read"] != sum(kinds.values()):
        problems.append(f"{lines['read']:,} lines were read, and {sum(kinds.values()):,} are accounted for")
    if lines["rows"] + lines["rejected"] != rows:
        problems.append(
            f"the manifest had {lines['rows'] + lines['rejected']:,} rows, the batch has {rows:,}"
        )
    return problems
