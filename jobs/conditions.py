"""Conditions that several statements share: when a batch and a lane may be worked at."""

UNMEASURED_S = (
    120  # what a device batch is taken to need, model loading included, until a worker has measured it
)

# A lane of a batch that nobody has paused or cancelled, and that stays open long enough for a device batch to be
# rendered and delivered. Of `lanes` and `batches`.
IS_OPEN = f"""
    paused_at IS NULL AND cancelled_at IS NULL AND (batches.not_before IS NULL OR batches.not_before <= now())
    AND (opens_at IS NULL OR (
        opens_at <= now() AND now() + make_interval(secs => coalesce(batch_s, {UNMEASURED_S})) < closes_at))"""

# Whether jobs may be claimed that never were; a canary's jobs, which are due ones, go ahead of them. Of `batches`.
IS_PAST_CANARY = "(canary = 0 OR canary_verdict IS NOT NULL)"

# A lane that has something to claim now. Of `lanes` and `batches`. Asked for the first in an index's order, and by a
# range of one lane: otherwise the planner may take the primary key for a good way, and read all that is done.
HAS_WORK = f"""(
    {IS_PAST_CANARY} AND (
        SELECT jobs.id FROM jobs WHERE lane_id BETWEEN lanes.id AND lanes.id AND state = 'queued'
          AND jobs.not_before IS NULL AND jobs.id > floor
        ORDER BY lane_id, jobs.id LIMIT 1) IS NOT NULL
    OR (
        SELECT jobs.id FROM jobs WHERE lane_id BETWEEN lanes.id AND lanes.id AND state = 'queued'
          AND jobs.not_before <= now()
        ORDER BY lane_id, jobs.not_before, jobs.id LIMIT 1) IS NOT NULL)"""
