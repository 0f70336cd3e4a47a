"""SQL conditions shared by several statements: whether a batch or lane is open, live or has work."""

UNMEASURED_S = 120  # assumed time for a device batch, model loading included, until a worker has measured it

# The lane's batch is not paused, cancelled or archived, and its window stays open long enough to render and deliver a
# device batch. Needs `lanes` and `batches`.
IS_OPEN = f"""
    paused_at IS NULL AND cancelled_at IS NULL AND archived_at IS NULL
    AND (batches.not_before IS NULL OR batches.not_before <= now())
    AND (opens_at IS NULL OR (
        opens_at <= now() AND now() + make_interval(secs => coalesce(batch_s, {UNMEASURED_S})) < closes_at))"""

# Where the files of a batch are below its output. Needs `batches`.
FOLDER = "coalesce(folder, name) AS folder"

# The lane may still have unfinished jobs; ended lanes are skipped. Needs `lanes`.
IS_LIVE = "lanes.ended_at IS NULL"

# The lane has queued or running jobs. Needs `lanes`.
HAS_OPEN_JOBS = """(
    (SELECT jobs.id FROM jobs WHERE lane_id BETWEEN lanes.id AND lanes.id AND state = 'queued'
       AND jobs.not_before IS NULL AND jobs.id > low_watermark
     ORDER BY lane_id, jobs.id LIMIT 1) IS NOT NULL
    OR (SELECT jobs.id FROM jobs WHERE lane_id BETWEEN lanes.id AND lanes.id AND state = 'queued'
          AND jobs.not_before IS NOT NULL
        ORDER BY lane_id, jobs.not_before, jobs.id LIMIT 1) IS NOT NULL
    OR lanes.id IN (SELECT lane_id FROM jobs WHERE state = 'running'))"""

# Jobs may be claimed that never were before; until then only the canary's jobs are. Needs `batches`.
IS_PAST_CANARY = "(canary = 0 OR canary_verdict IS NOT NULL)"

# A due job of the batch's canary, found by its row number: all other jobs of the batch may be due too, and are many.
# Needs `jobs`. Placeholders: the batch, its canary size, the lane (`+ 0` keeps the planner from an index on lane_id).
IS_AHEAD = """
    jobs.batch_id = {} AND ordinal BETWEEN 0 AND {} - 1 AND lane_id + 0 = {} AND state = 'queued'
    AND jobs.not_before <= now()"""

# The lane has a job that can be claimed now. Needs `lanes` and `batches`. The ORDER BY of an index and the range of
# one lane keep the planner from choosing the primary key and reading all finished jobs.
HAS_WORK = f"""CASE WHEN {IS_PAST_CANARY} THEN (
        SELECT jobs.id FROM jobs WHERE lane_id BETWEEN lanes.id AND lanes.id AND state = 'queued'
          AND jobs.not_before IS NULL AND jobs.id > low_watermark
        ORDER BY lane_id, jobs.id LIMIT 1) IS NOT NULL
    OR (
        SELECT jobs.id FROM jobs WHERE lane_id BETWEEN lanes.id AND lanes.id AND state = 'queued'
          AND jobs.not_before <= now()
        ORDER BY lane_id, jobs.not_before, jobs.id LIMIT 1) IS NOT NULL
    ELSE (
        SELECT jobs.id FROM jobs WHERE {IS_AHEAD.format("batches.id", "canary", "lanes.id")}
        ORDER BY jobs.batch_id, ordinal, "index" LIMIT 1) IS NOT NULL
    END"""

# The target of a drain is the worker, or its host. Needs `kind` and `target`. Placeholder: the worker's name.
IS_TARGET = "CASE kind WHEN 'host' THEN starts_with({0}, target || ':') ELSE target = {0} END"

# An operator has drained the worker, or its host: it takes no jobs. Placeholder: the worker's name.
IS_DRAINED = f"EXISTS (SELECT FROM worker_drains WHERE {IS_TARGET})"

# The same for a row of `workers`. Those of a version that doesn't look for drains go on, and count as available.
IS_DRAINED_WORKER = f"(workers.version IS NOT NULL AND {IS_DRAINED.format('workers.name')})"


def in_quarantine(job: str = "jobs") -> str:
    """Return whether the file of a blocked job's image is kept: the row of `quarantined_images q` is of its last block.

    `job` is the name of the job in the statement.
    """
    return f"q.job_id = {job}.id AND {job}.state = 'blocked' AND {job}.finished_at = q.blocked_at"


def reopening(which: str) -> str:
    """Return the CTE `reopened`, for statements that queue jobs: it clears `ended_at` of the jobs' lanes.

    `which` is a query for the lane ids; they are locked in order. Lanes that haven't ended are written to as well:
    otherwise a concurrent transaction that doesn't see the new jobs yet could end the lane.
    """
    return f"""
    reopened AS (
        UPDATE lanes SET ended_at = NULL FROM (
            SELECT id FROM lanes WHERE id IN ({which}) ORDER BY id FOR NO KEY UPDATE) AS found
        WHERE lanes.id = found.id
    )"""
