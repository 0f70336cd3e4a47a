"""State transitions of jobs by a new safety policy: done ↔ blocked, blocked → queued, running → queued."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, Engine, text

from jobs.db import cluster_epochs
from jobs.db.engine import run
from jobs.exports.mark_outdated_shards import outdating
from jobs.feed.write_events import more_job_events, retracted_events
from jobs.images.insert_and_public_columns import given_record, inserted_columns, inserted_values
from jobs.job_dataclasses import BatchId, JobId
from jobs.policy.stored_policy import SAFETY_KEYS, is_safety_of_batch
from jobs.queue.sql_predicates import in_quarantine, reopening
from jobs.queue.transitions import BLOCKED_DETAIL, COUNT_DELTAS, KEPT_IN_QUARANTINE
from jobs.states import ErrorKind, EventKind

# The batch, if it has not been archived and no other policy was given to it meanwhile.
_KEPT = f"""
    kept AS MATERIALIZED (
        SELECT id FROM batches WHERE id = :batch AND archived_at IS NULL AND {is_safety_of_batch(":safety")} FOR SHARE
    )"""

# Of `given`, the image rows that are still as they were read; their jobs keep the scores, by which they may be freed.
_BLOCK_IMAGES = text(f"""
    WITH {_KEPT}, given AS (
        SELECT * FROM jsonb_to_recordset(CAST(:records AS jsonb)) AS g (
            image bigint, key text, reason text, quarantined text)
    ), picked AS (
        SELECT jobs.id, images.id AS image_id, given.reason, images.safety_scores AS scores, quarantined,
            to_jsonb(images) AS image
        FROM given JOIN images ON images.id = given.image AND images.key = given.key
        JOIN jobs ON jobs.id = images.job_id
        WHERE jobs.batch_id = (SELECT id FROM kept) AND state = 'done' ORDER BY jobs.id FOR UPDATE OF jobs
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
    WITH {_KEPT}, picked AS (
        SELECT jobs.id, q.image FROM jobs JOIN quarantined_images q ON {in_quarantine()}
        WHERE jobs.id = ANY (CAST(:jobs AS bigint[])) AND jobs.batch_id = (SELECT id FROM kept)
        ORDER BY jobs.id FOR UPDATE OF jobs
    ), given AS (
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
        FROM affected j JOIN given g ON g.id = j.id JOIN lanes l ON l.id = j.lane_id
        ORDER BY j.id
    ), gone AS (
        DELETE FROM quarantined_images USING picked WHERE job_id = picked.id
    ), {outdating()}
    SELECT id FROM affected
""")

# With the seeds that they had: the image is the one that was judged.
_FREE_BLOCKED = text(f"""
    WITH {_KEPT}, picked AS (
        SELECT id FROM jobs
        WHERE id = ANY (CAST(:jobs AS bigint[])) AND batch_id = (SELECT id FROM kept) AND state = 'blocked'
        ORDER BY id FOR UPDATE
    ), affected AS (
        UPDATE jobs SET state = 'queued', attempt = 0, not_before = now(), finished_at = NULL,
            error_kind = NULL, error_text = NULL
        FROM picked WHERE jobs.id = picked.id RETURNING jobs.*, 'blocked' AS old_state
    ), {COUNT_DELTAS}, {reopening("SELECT lane_id FROM affected")}, {outdating()}
    SELECT id FROM affected
""")

# What is rendered under an earlier safety policy; workers find their leases lost.
_RELEASE_ALL = text(f"""
    WITH picked AS (
        SELECT id FROM jobs WHERE batch_id = :batch AND state = 'running' ORDER BY id FOR UPDATE
    ), affected AS (
        UPDATE jobs SET state = 'queued', attempt = attempt - 1, lease = NULL, lease_until = NULL,
            not_before = now()
        FROM picked WHERE jobs.id = picked.id RETURNING jobs.*, 'running' AS old_state
    ), {COUNT_DELTAS}
    SELECT id FROM affected
""")


@dataclass(frozen=True)
class BlockedImage:
    """An image row that a policy flags; `quarantined` is the key under which its file is kept, if it is."""

    image: int
    key: str
    reason: str
    quarantined: str | None = None


def block_images(
    connection: Connection, batch: BatchId, safety: str, images: Sequence[BlockedImage]
) -> set[JobId]:
    """Delete image rows that the policy flags: done → blocked. Returns their jobs.

    Skips what was changed meanwhile, and everything if the batch's policy is no longer `safety`
    (`jobs.policy.stored_policy.safety_of`). The caller deletes the files.
    """
    records = json.dumps([asdict(image) for image in images])
    values = {"batch": batch, "safety": safety, "records": records, "keeps_file": False}
    return {JobId(row.id) for row in connection.execute(_BLOCK_IMAGES, values)}


def restore_images(
    connection: Connection, batch: BatchId, safety: str, jobs: Sequence[JobId], recorded: Mapping[str, str]
) -> set[JobId]:
    """Insert the image rows of jobs whose files lie in quarantine: blocked → done. Returns the jobs.

    Skips like `block_images`. `recorded` is what image rows note of the policy. The caller has stored the files under
    the keys of their rows, while it held the jobs locked, and deletes those in quarantine.
    """
    values = {
        "batch": batch,
        "safety": safety,
        "jobs": list(jobs),
        "recorded": json.dumps(recorded),
        "unrecorded": list(SAFETY_KEYS),
    }
    return {JobId(row.id) for row in connection.execute(_RESTORE, values)}


def free_blocked(engine: Engine, batch: BatchId, safety: str, jobs: Sequence[JobId]) -> int:
    """Queue jobs again that the policy no longer blocks, with their seeds: blocked → queued.

    Returns their number; skips like `block_images`.
    """
    return len(run(engine, _FREE_BLOCKED, {"batch": batch, "safety": safety, "jobs": list(jobs)}))


def release_all(engine: Engine, batch: BatchId) -> int:
    """Take all claimed jobs of a batch from their workers: running → queued, without charging the attempt."""
    return len(run(engine, _RELEASE_ALL, {"batch": batch}))
