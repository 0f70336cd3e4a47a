"""What a safety policy makes of the stored scores of a batch: of done jobs by image row, of blocked ones by event."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, RowMapping, text

from jobs.db.engine import run
from jobs.job_dataclasses import BatchId, JobId
from jobs.policy.safety_thresholds import CONCEPTS, Concept, SafetyThresholds
from jobs.queue.sql_predicates import in_quarantine
from jobs.safety_reevaluation.safety_thresholds_sql import (
    adjusted,
    has_any_scores,
    is_flagged,
    is_flagged_for_prompt,
    is_judged_by_scores_alone,
    lacks_labels,
    reached_labels,
    score_arrays,
    shift,
)
from jobs.states import EventKind, JobState

PAGE = 500

# What the prompt filter has flagged is blocked, whatever its scores: a batch that withholds has no such images.
_DONE = f"""
    SELECT i.id, i.job_id, i.ordinal, i."index", i.row_id, i.key, i.safety_scores AS scores,
        NULL::timestamptz AS blocked_at, i.c2pa_sidecar_sha256, {is_flagged_for_prompt("i")} AS for_prompt
    FROM images i
    WHERE i.batch_id = :batch"""

# The scores of the last block: a job that was retried may have been blocked for another image. What lies in quarantine
# and can't be restored is as if it had no file; neither can what a checker of the batch hasn't rated.
_BLOCKED = f"""
    SELECT NULL::bigint AS id, jobs.id AS job_id, jobs.ordinal, jobs."index", row_id, told.scores,
        CASE WHEN NOT {lacks_labels("told.scores", ":labels")} THEN q.key END AS key,
        jobs.finished_at AS blocked_at, NULL::text AS c2pa_sidecar_sha256, false AS for_prompt
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
    """A job whose state a policy changes; `above` are concepts and labels for which its image is flagged, with scores.

    Of a job that is freed, `above` is what it was flagged for before. `image` and `key` are those of its image row; of
    a blocked job, `key` is that of its file in quarantine, if there is one that can be restored, and `blocked_at` is
    when it was blocked.
    """

    job: JobId
    ordinal: int
    index: int
    row_id: str | None
    scores: Mapping[str, Any]
    above: Mapping[Concept, float]
    image: int | None = None
    key: str | None = None
    blocked_at: datetime | None = None
    sidecar_sha256: str | None = None
    """Of the manifest beside the file of the image row; None if there is none."""
    for_prompt: bool = False
    """Whether the prompt filter has flagged the image."""


@dataclass(frozen=True)
class Counts:
    """How many jobs there are, how many the policy changes (by concept, too), and how many have no scores.

    `with_file`: so many that the policy changes have a file, as an image or in quarantine. `for_prompt`: so many that
    it changes have been flagged by the prompt filter.
    """

    jobs: int
    changed: int
    without_scores: int
    by_concept: Mapping[Concept, int]
    with_file: int
    for_prompt: int


def count_blocked_images(engine: Engine, batch: BatchId, new: SafetyThresholds) -> Counts:
    """Count the image rows that the policy blocks."""
    return _Selection(engine, batch, _DONE, new, new).count()


def count_freed_jobs(engine: Engine, batch: BatchId, new: SafetyThresholds, old: SafetyThresholds) -> Counts:
    """Count the blocked jobs that the policy frees; by the concepts for which the `old` policy had blocked them."""
    return _Selection(engine, batch, _BLOCKED, new, old).count()


def blocked_images(
    engine: Engine, batch: BatchId, new: SafetyThresholds, limit: int = PAGE
) -> Iterator[list[JudgedJob]]:
    """Yield the image rows that the policy blocks, in manifest order, page by page."""
    return _Selection(engine, batch, _DONE, new, new).pages(limit)


def freed_jobs(
    engine: Engine, batch: BatchId, new: SafetyThresholds, old: SafetyThresholds, limit: int = PAGE
) -> Iterator[list[JudgedJob]]:
    """Yield the blocked jobs that the policy frees, in manifest order, page by page."""
    return _Selection(engine, batch, _BLOCKED, new, old).pages(limit)


@dataclass(frozen=True)
class _Selection:
    """Those of a batch's `jobs`, the SQL of `_DONE` or `_BLOCKED`, whose state the `new` policy changes.

    `reasons` is the policy that flags, or had flagged, their images.
    """

    engine: Engine
    batch: BatchId
    jobs: str
    new: SafetyThresholds
    reasons: SafetyThresholds

    def count(self) -> Counts:
        """Count the jobs, and those that change by concept and label."""
        by_concept = ", ".join(
            f"count(*) FILTER (WHERE is_changed AND {score} > 0) AS concept_{number}"
            for number, score in enumerate(adjusted(self.reasons, "reasons_shift"))
        )
        statement = text(f"""
            SELECT count(*) AS jobs, count(*) FILTER (WHERE is_changed) AS changed,
                count(*) FILTER (WHERE NOT has_scores) AS without_scores,
                count(*) FILTER (WHERE is_changed AND key IS NOT NULL) AS with_file,
                count(*) FILTER (WHERE is_changed AND for_prompt) AS for_prompt, {by_concept}
            FROM (
                SELECT key, for_prompt, concepts, reasons_shift, {self._is_changed()} AS is_changed,
                    {self._has_scores()} AS has_scores
                FROM {self._scored()} OFFSET 0) AS judged
        """)
        found = run(self.engine, statement, self._parameters())[0]._mapping
        by_label = self._count_by_label()
        counted = {number: found[f"concept_{number}"] for number in range(CONCEPTS)} | by_label
        return Counts(
            found["jobs"],
            found["changed"],
            found["without_scores"],
            {concept: count for concept, count in counted.items() if count},
            found["with_file"],
            found["for_prompt"],
        )

    def pages(self, limit: int) -> Iterator[list[JudgedJob]]:
        """Yield the jobs that change, in manifest order, page by page."""
        statement = text(f"""
            SELECT job.* FROM {self._scored()}
            WHERE (job.ordinal, job."index") > (:ordinal, :number) AND {self._is_changed()}
            ORDER BY job.ordinal, job."index" LIMIT :limit
        """)
        place = {"ordinal": -1, "number": -(2**31)}
        while rows := run(self.engine, statement, {**self._parameters(), "limit": limit, **place}):
            yield [_job(row._mapping, self.reasons) for row in rows]
            last: Any = rows[-1]._mapping
            place = {"ordinal": last["ordinal"], "number": last["index"]}

    def _count_by_label(self) -> dict[Concept, int]:
        if not self.reasons.labels:
            return {}
        statement = text(f"""
            SELECT reached.name, count(*) AS jobs
            FROM {self._scored()} CROSS JOIN LATERAL {reached_labels("job.scores", ":reasons_labels")} AS reached
            WHERE {self._is_changed()} GROUP BY reached.name ORDER BY reached.name
        """)
        return {row.name: row.jobs for row in run(self.engine, statement, self._parameters())}

    def _scored(self) -> str:
        """Return the SQL of the jobs with their scores as arrays and what special care adds to these."""
        shifts = f"{shift(self.new)} AS shift, {shift(self.reasons)} AS reasons_shift"
        return f"""({self.jobs}) AS job LEFT JOIN LATERAL {score_arrays("job.scores")} AS a ON true
            CROSS JOIN LATERAL (SELECT {shifts} OFFSET 0) AS s"""

    def _is_changed(self) -> str:
        """Return the SQL of whether the new policy changes a job's state. The service may have blocked a prompt."""
        labels = f"EXISTS {reached_labels('job.scores', ':labels')}" if self.new.labels else "false"
        flagged = is_flagged(self.new, labels)
        if self.jobs == _DONE:
            return f"(job.for_prompt OR {flagged})"
        return f"({has_any_scores('job.scores')} AND NOT {flagged})"

    def _has_scores(self) -> str:
        """Return the SQL of whether a job can be judged; an image that is flagged can, whatever else it lacks."""
        if self.jobs == _BLOCKED:
            return has_any_scores("job.scores")
        return (
            f"({self._is_changed()} OR concepts IS NOT NULL AND NOT {lacks_labels('job.scores', ':labels')})"
        )

    def _parameters(self) -> dict[str, Any]:
        labels = {"labels": self.new.labels, "reasons_labels": self.reasons.labels}
        return {"batch": self.batch} | {
            name: json.dumps({checker: dict(least) for checker, least in value.items()})
            for name, value in labels.items()
        }


def _job(row: RowMapping, reasons: SafetyThresholds) -> JudgedJob:
    place = row["job_id"], row["ordinal"], row["index"], row["row_id"]
    scores = row["scores"]
    of_image = row["id"], row["key"], row["blocked_at"], row["c2pa_sidecar_sha256"], row["for_prompt"]
    return JudgedJob(*place, scores, reasons.above(scores), *of_image)
