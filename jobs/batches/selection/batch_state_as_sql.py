"""The state of a batch as an SQL expression, and the counts of its jobs that it depends on."""

from jobs.states import OPEN, BatchState, JobState

COUNTS = ", ".join(
    f"CAST(coalesce(sum(delta) FILTER (WHERE state = '{state}'), 0) AS bigint) AS {state}"
    for state in JobState
)
"""Selects a column for each job state from `job_counts`."""


def state_sql(batch: str, counts: str) -> str:
    """Return the expression of a batch's state; its counts are null, or columns named like the job states.

    Both arguments are aliases: of a row of `batches`, and of what COUNTS selects.
    """
    n = {state: f"coalesce({counts}.{state}, 0)" for state in JobState}
    remaining = " + ".join(n[state] for state in OPEN)
    cancelled = f"{batch}.cancelled_at IS NOT NULL AND {remaining} + {n[JobState.CANCELLED]} > 0"
    return f"""CASE WHEN {cancelled} THEN '{BatchState.CANCELLED}'
            WHEN {remaining} = 0 THEN '{BatchState.DONE}'
            WHEN {batch}.paused_at IS NOT NULL THEN '{BatchState.PAUSED}'
            WHEN {n[JobState.RUNNING]} > 0 THEN '{BatchState.RUNNING}' ELSE '{BatchState.QUEUED}' END"""
