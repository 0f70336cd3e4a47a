"""Conditions that several statements share: when a batch and a lane may be worked at."""

UNMEASURED_S = (
    120  # what a device batch is taken to need, model loading included, until a worker has measured it
)

# A lane of a batch that nobody has paused, cancelled or archived, and that stays open long enough for a device batch
# to be rendered and delivered. Of `lanes` and `batches`.
IS_OPEN = f"""
    paused_at IS NULL AND cancelled_at IS NULL AND archived_at IS NULL
    AND (batches.not_before IS NULL OR batches.not_before <= now())
    AND (opens_at IS NULL OR (
        opens_at <= now() AND now() + make_interval(secs => coalesce(batch_s, {UNMEASURED_S})) < closes_at))"""

# A lane that may still have jobs to do: what ended long ago isn't looked at. Of `lanes`.
IS_LIVE = "lanes.ended_at IS NULL"

# A lane that has queued or running jobs. Of `lanes`.
HAS_OPEN_JOBS = """(
    (SELECT jobs.id FROM jobs WHERE lane_id BETWEEN lanes.id AND lanes.id AND state = 'queued'
       AND jobs.not_before IS NULL AND jobs.id > floor
     ORDER BY lane_id, jobs.id LIMIT 1) IS NOT NULL
    OR (SELECT jobs.id FROM jobs WHERE lane_id BETWEEN lanes.id AND lanes.id AND state = 'queued'
          AND jobs.not_before IS NOT NULL
        ORDER BY lane_id, jobs.not_before, jobs.id LIMIT 1) IS NOT NULL
    OR lanes.id IN (SELECT lane_id FROM jobs WHERE state = 'running'))"""

# Whether jobs may be claimed that never were; a canary's jobs, which are due ones, go ahead of them. Of `batches`.
IS_PAST_CANARY = "(canary = 0 OR canary_verdict IS NOT NULL)"

# A due job of a batch's first rows, found by its row, since all others of the batch may be due too and are many. Of
# `jobs`; the first to fill in is the batch, the second its canary, the third the lane, which no index should find.
IS_AHEAD = """
    jobs.batch_id = {} AND ordinal BETWEEN 0 AND {} - 1 AND lane_id + 0 = {} AND state = 'queued'
    AND jobs.not_before <= now()"""

# A lane that has something to claim now. Of `lanes` and `batches`. Asked for the first in an index's order, and by a
# range of one lane: otherwise the planner may take the primary key for a good way, and read all that is done.
HAS_WORK = f"""CASE WHEN {IS_PAST_CANARY} THEN (
        SELECT jobs.id FROM jobs WHERE lane_id BETWEEN lanes.id AND lanes.id AND state = 'queued'
          AND jobs.not_before IS NULL AND jobs.id > floor
        ORDER BY lane_id, jobs.id LIMIT 1) IS NOT NULL
    OR (
        SELECT jobs.id FROM jobs WHERE lane_id BETWEEN lanes.id AND lanes.id AND state = 'queued'
          AND jobs.not_before <= now()
        ORDER BY lane_id, jobs.not_before, jobs.id LIMIT 1) IS NOT NULL
    ELSE (
        SELECT jobs.id FROM jobs WHERE {IS_AHEAD.format("batches.id", "canary", "lanes.id")}
        ORDER BY jobs.batch_id, ordinal, "index" LIMIT 1) IS NOT NULL
    END"""


def reopening(which: str) -> str:
    """The CTE by which a statement that queues ended jobs again, or new ones, notes that their lanes have work.

    `which` selects the lanes' ids; they are locked in order. Lanes that haven't ended are written to as well:
    otherwise one that is being ended at this moment, by somebody who doesn't see the jobs yet, would stay so.
    """
    return f"""
    reopened AS (
        UPDATE lanes SET ended_at = NULL FROM (
            SELECT id FROM lanes WHERE id IN ({which}) ORDER BY id FOR NO KEY UPDATE) AS found
        WHERE lanes.id = found.id
    )"""
