"""Canaries: run a batch's first rows first, and the rest only if the share that fails or is blocked stays in bounds.

The canary's jobs get a `not_before`, like jobs that return to the queue. No other job of the batch is claimed before
the verdict (`jobs.queue.sql_predicates.IS_PAST_CANARY`).
"""

from sqlalchemy import Connection, Engine, text

from jobs.db.engine import run
from jobs.job_dataclasses import BatchId
from jobs.states import OPEN, WITH_ERROR, sql_list

_SEND_AHEAD = text("""
    UPDATE jobs SET not_before = now() FROM batches
    WHERE batches.id = :batch AND batch_id = batches.id AND ordinal BETWEEN 0 AND canary - 1 AND state = 'queued'
""")

_JUDGE = text(f"""
    WITH tried AS (
        SELECT batches.id, canary_bound, sent, bad, on_their_way FROM batches CROSS JOIN LATERAL (
            SELECT count(*) AS sent, count(*) FILTER (WHERE state IN ({sql_list(WITH_ERROR)})) AS bad,
                count(*) FILTER (WHERE state IN ({sql_list(OPEN)})) AS on_their_way
            FROM jobs WHERE batch_id = batches.id AND ordinal BETWEEN 0 AND canary - 1 AND replaces IS NULL) AS jobs
        WHERE canary > 0 AND canary_verdict IS NULL AND cancelled_at IS NULL
    ), judged AS (
        SELECT id, bad > canary_bound * sent AS is_stopped,
            format('canary: %s of the first %s jobs failed or were blocked, more than %s %%', bad, sent,
                round(CAST(100 * canary_bound AS numeric), 1)) AS why
        FROM tried WHERE bad > canary_bound * sent OR on_their_way = 0
    )
    UPDATE batches SET canary_verdict = CASE WHEN is_stopped THEN 'stopped' ELSE 'passed' END,
        paused_at = CASE WHEN is_stopped THEN coalesce(paused_at, now()) ELSE paused_at END,
        stopped_because = CASE WHEN is_stopped THEN why END
    FROM judged WHERE batches.id = judged.id AND canary_verdict IS NULL RETURNING batches.id
""")


def send_ahead(connection: Connection, batch: BatchId) -> None:
    """Make the canary jobs of a batch that is being ingested due now; without a canary this does nothing."""
    connection.execute(_SEND_AHEAD, {"batch": batch})


def judge(engine: Engine) -> int:
    """Set the verdict of canaries whose jobs have all ended, or too many of whose jobs failed or were blocked.

    Returns the number of verdicts.
    """
    return len(run(engine, _JUDGE, {}))
