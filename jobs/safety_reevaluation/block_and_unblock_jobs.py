"""State transitions of jobs by a new safety policy: done ↔ blocked, blocked → queued, running → queued."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, text

from jobs.db import cluster_epochs
from jobs.db.engine import run
from jobs.errors import NightmillError
from jobs.exports.mark_outdated_shards import outdating
from jobs.feed.write_events import more_job_events, retracted_events
from jobs.images.insert_and_public_columns import (
    given_record,
    inserted_columns,
    inserted_values,
    other_columns,
)
from jobs.job_dataclasses import BatchId, JobId
from jobs.policy.stored_policy import SAFETY_KEYS, is_safety_of_batch
from jobs.queue.sql_predicates import in_quarantine, reopening
from jobs.queue.transitions import BLOCKED_DETAIL, COUNT_DELTAS, KEPT_IN_QUARANTINE
from jobs.safety_reevaluation.safety_thresholds_sql import is_flagged_for_prompt, is_judged_by_scores_alone
from jobs.states import ErrorKind, EventKind

CLAIMS_TO_RELEASE = "claims_to_release"
"""Key in the batch's settings: claims were made under an earlier safety policy, and are still to be released."""

_HOLD = text(f"""
    SELECT id FROM batches
    WHERE id = :id AND archived_at IS NULL AND output = :output AND coalesce(folder, name) = :folder
      AND {is_safety_of_batch(":safety")}
    FOR SHARE
""")

# `+ 0` keeps the planner, which may think that the batch is small, from reading all of its jobs for each page.
# The jobs that are still blocked as they were read: one that was queued again since may be blocked for another image.
_BLOCKED_SINCE = """
    given AS (
        SELECT * FROM unnest(CAST(:jobs AS bigint[]), CAST(:since AS timestamptz[])) AS g (job, blocked_at)
    ), blocked AS (
        SELECT jobs.id FROM given JOIN jobs ON jobs.id = given.job AND jobs.finished_at = given.blocked_at
        WHERE jobs.batch_id + 0 = :batch AND state = 'blocked' ORDER BY jobs.id FOR UPDATE OF jobs
    )"""

_FOR_PROMPT = is_flagged_for_prompt("images")

# Of `given`, the image rows that are still as they were read; their jobs keep the scores, by which they may be freed.
# One that the prompt filter has flagged keeps that reason, and no scores: no policy of scores frees it.
_BLOCK_IMAGES = text(f"""
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(CAST(:records AS jsonb)) AS g (
            image bigint, key text, reason text, quarantined text)
    ), picked AS (
        SELECT jobs.id, images.id AS image_id, quarantined, to_jsonb(images) - CAST(:others AS text[]) AS image,
            CASE WHEN {_FOR_PROMPT} THEN images.safety_reason ELSE given.reason END AS reason,
            CASE WHEN NOT {_FOR_PROMPT} THEN images.safety_scores END AS scores
        FROM given JOIN images ON images.id = given.image AND images.key = given.key
        JOIN jobs ON jobs.id = images.job_id
        WHERE jobs.batch_id + 0 = :batch AND state = 'done' ORDER BY jobs.id FOR UPDATE OF jobs
    ), retracted AS (
        DELETE FROM images USING picked WHERE images.id = picked.image_id RETURNING images.*, picked.reason
    ), affected AS (
        UPDATE jobs SET state = 'blocked', finished_at = now(), error_kind = '{ErrorKind.SAFETY}', error_text = reason
        FROM picked WHERE jobs.id = picked.id RETURNING jobs.*, 'done' AS old_state, picked.scores,
            picked.quarantined, picked.image
    ), {COUNT_DELTAS}, {KEPT_IN_QUARANTINE}, {retracted_events("i.reason")},
    {more_job_events(EventKind.BLOCKED, BLOCKED_DETAIL, "(SELECT count(*) FROM event_log) > 0")}, {outdating()}
    SELECT id FROM affected
""")

# Of blocked jobs whose files lie in quarantine; the caller has stored them under the keys of their rows. Of the row's
# columns, those change that follow from the policy; no later job may reuse the image as one made under the former.
_RESTORE = text(f"""
    WITH {_BLOCKED_SINCE}, picked AS (
        SELECT jobs.id, q.image FROM blocked JOIN jobs USING (id)
        JOIN quarantined_images q ON {in_quarantine()} AND {is_judged_by_scores_alone("q.image")}
    ), restored AS (
        SELECT g.* FROM picked, jsonb_to_record(picked.image || jsonb_build_object(
            'id', picked.id, 'safety_verdict', 'safe', 'safety_reason', NULL, 'inputs_sha256', NULL, 'versions',
            ((picked.image -> 'versions') - CAST(:unrecorded AS text[])) || CAST(:recorded AS jsonb))) AS g (
            {given_record()})
    ), affected AS (
        UPDATE jobs SET state = 'done', finished_at = now(), error_kind = NULL, error_text = NULL
        FROM picked WHERE jobs.id = picked.id RETURNING jobs.*, 'blocked' AS old_state
    ), {COUNT_DELTAS}, {cluster_epochs.BEGUN}, stored AS (
        INSERT INTO images (epoch, {inserted_columns()})
        SELECT {cluster_epochs.WRITTEN}, {inserted_values()}
        FROM affected j JOIN restored g ON g.id = j.id JOIN lanes l ON l.id = j.lane_id
        ORDER BY j.id
    ), gone AS (
        DELETE FROM quarantined_images USING picked WHERE job_id = picked.id
    ), {outdating()}
    SELECT id FROM affected
""")

# With the seeds that they had: the image is the one that was judged.
_FREE_BLOCKED = text(f"""
    WITH {_BLOCKED_SINCE}, affected AS (
        UPDATE jobs SET state = 'queued', attempt = 0, not_before = now(), finished_at = NULL,
            error_kind = NULL, error_text = NULL
        FROM blocked WHERE jobs.id = blocked.id RETURNING jobs.*, 'blocked' AS old_state
    ), {COUNT_DELTAS}, {reopening("SELECT lane_id FROM affected")}, {outdating()}
    SELECT id FROM affected
""")

_NOTE_CLAIMS = text(f"""
    UPDATE batches SET settings = settings || '{{"{CLAIMS_TO_RELEASE}": true}}' WHERE id = :batch
""")

# What is rendered under an earlier safety policy; workers find their leases lost.
_RELEASE_CLAIMS = text(f"""
    WITH changed AS (
        UPDATE batches SET settings = settings - '{CLAIMS_TO_RELEASE}'
        WHERE id = :batch AND settings ? '{CLAIMS_TO_RELEASE}' RETURNING id
    ), picked AS (
        SELECT id FROM jobs WHERE batch_id = (SELECT id FROM changed) AND state = 'running' ORDER BY id FOR UPDATE
    ), affected AS (
        UPDATE jobs SET state = 'queued', attempt = attempt - 1, lease = NULL, lease_until = NULL,
            not_before = now()
        FROM picked WHERE jobs.id = picked.id RETURNING jobs.*, 'running' AS old_state
    ), {COUNT_DELTAS}
    SELECT id FROM affected
""")


class OvertakenError(NightmillError):
    """The batch isn't as it was judged: it got another safety policy, output or folder, or was archived."""


@dataclass(frozen=True)
class JudgedBatch:
    """A batch as it is judged: its safety policy (`jobs.policy.stored_policy.safety_of`), and where its files are."""

    id: BatchId
    safety: str
    output: str
    folder: str


@dataclass(frozen=True)
class BlockedImage:
    """An image row that a policy flags; `quarantined` is the key under which its file is kept, if it is."""

    image: int
    key: str
    reason: str
    quarantined: str | None = None


@dataclass(frozen=True)
class BlockedJob:
    """A job that has been blocked since a moment, which tells this block from a later one of the same job."""

    job: JobId
    blocked_at: datetime


def hold(connection: Connection, batch: JudgedBatch) -> None:
    """Keep the batch as it is until the end of the transaction. Raises OvertakenError if it has changed already.

    To be called before files are copied and jobs are locked.
    """
    if connection.execute(_HOLD, asdict(batch)).one_or_none() is None:
        raise OvertakenError("the batch was changed meanwhile")


def block_images(connection: Connection, batch: BatchId, images: Sequence[BlockedImage]) -> set[JobId]:
    """Delete image rows that the policy flags: done → blocked. Returns their jobs.

    Skips what was changed meanwhile. The caller holds the batch (`hold`), and deletes the files.
    """
    values = {
        "batch": batch,
        "records": json.dumps([asdict(image) for image in images]),
        "others": other_columns(),
        "keeps_file": False,
    }
    return {JobId(row.id) for row in connection.execute(_BLOCK_IMAGES, values)}


def restore_images(
    connection: Connection, batch: BatchId, jobs: Sequence[BlockedJob], recorded: Mapping[str, str]
) -> set[JobId]:
    """Insert the image rows of jobs whose files lie in quarantine: blocked → done. Returns the jobs.

    Skips jobs that were changed meanwhile, and images that aren't as they were rendered or that the prompt filter has
    flagged. `recorded` is what image rows note of the policy. The caller holds the batch (`hold`), has stored the files
    under the keys of their rows, while it held the jobs locked, and deletes those in quarantine.
    """
    values = _since(batch, jobs) | {"recorded": json.dumps(recorded), "unrecorded": list(SAFETY_KEYS)}
    return {JobId(row.id) for row in connection.execute(_RESTORE, values)}


def free_blocked(connection: Connection, batch: BatchId, jobs: Sequence[BlockedJob]) -> int:
    """Queue jobs again that the policy no longer blocks, with their seeds: blocked → queued.

    Returns their number; skips jobs that were changed meanwhile. The caller holds the batch (`hold`).
    """
    return len(connection.execute(_FREE_BLOCKED, _since(batch, jobs)).all())


def note_claims(connection: Connection, batch: BatchId) -> None:
    """Note that the claims of the batch are to be released, in the transaction that changes its policy."""
    connection.execute(_NOTE_CLAIMS, {"batch": batch})


def release_claims(engine: Engine, batch: BatchId) -> int:
    """Take all claimed jobs of a batch from their workers: running → queued, without charging the attempt.

    Does nothing unless `note_claims` was called since the last time. Returns the number of jobs.
    """
    return len(run(engine, _RELEASE_CLAIMS, {"batch": batch}))


def _since(batch: BatchId, jobs: Sequence[BlockedJob]) -> dict[str, object]:
    return {
        "batch": batch,
        "jobs": [each.job for each in jobs],
        "since": [each.blocked_at for each in jobs],
    }
