"""Feed events that a batch has ended, or has unfinished jobs again."""

from sqlalchemy import Engine, text

from jobs.db.cluster_epochs import BEGUN, WRITTEN
from jobs.db.engine import run
from jobs.feed.write_events import COLUMNS, ID
from jobs.queue.lane_counts_and_low_watermarks import end_lanes
from jobs.queue.sql_predicates import IS_LIVE
from jobs.states import EventKind, JobState

_COUNTS = f"""
    SELECT batch_id, jsonb_object_agg(state, total) FILTER (WHERE total > 0) AS counts,
        coalesce(max(total) FILTER (WHERE state = '{JobState.CANCELLED}'), 0) AS cancelled
    FROM (
        SELECT batch_id, state, sum(delta) AS total FROM job_counts WHERE batch_id IN (SELECT id FROM marked)
        GROUP BY 1, 2) AS t
    GROUP BY batch_id"""

# It was opened and has ended while nobody looked, such as while no scheduler ran.
_HAS_ENDED_AGAIN = "batches.ended_at < (SELECT max(ended_at) FROM lanes WHERE batch_id = batches.id)"

# Derived from the lanes rather than written by what ends or reopens them: whichever version of nightmill did that, and
# wherever it was interrupted, the event is written once. One statement: its snapshot, taken before it has a transaction
# id, sees the images of the batch, so that the event comes after them in the feed.
_RECORD = text(f"""
    WITH changed AS (
        SELECT id, false AS is_live FROM batches
        WHERE (ended_at IS NULL OR {_HAS_ENDED_AGAIN})
          AND NOT EXISTS (SELECT FROM lanes WHERE batch_id = batches.id AND {IS_LIVE})
        UNION ALL
        SELECT id, true FROM batches
        WHERE ended_at IS NOT NULL AND id IN (SELECT batch_id FROM lanes WHERE {IS_LIVE})
    ), free AS (
        SELECT batches.id, is_live FROM batches JOIN changed ON changed.id = batches.id
        -- Once more, of the row as others may have left it meanwhile.
        WHERE (ended_at IS NULL) <> is_live OR NOT is_live AND {_HAS_ENDED_AGAIN}
        FOR NO KEY UPDATE OF batches SKIP LOCKED
    ), marked AS (
        UPDATE batches SET ended_at = CASE WHEN NOT is_live THEN greatest(now(), (
            SELECT max(ended_at) FROM lanes WHERE batch_id = batches.id)) END
        FROM free WHERE batches.id = free.id
        RETURNING batches.*, is_live
    ), counted AS ({_COUNTS}), {BEGUN}, event_log AS (
        INSERT INTO events ({COLUMNS})
        SELECT {ID}, {WRITTEN}, '{EventKind.BATCH}', m.id, m.name, NULL, NULL, NULL, NULL, NULL, jsonb_build_object(
            'state', CASE WHEN is_live THEN 'queued' WHEN cancelled_at IS NOT NULL AND cancelled > 0 THEN 'cancelled'
                ELSE 'done' END,
            'counts', coalesce(counts, '{{}}'), 'rows', rows, 'rejected', rejected)
        FROM marked m LEFT JOIN counted ON counted.batch_id = m.id ORDER BY m.id
    )
    SELECT id FROM marked
""")


def record_batch_events(engine: Engine) -> int:
    """Write an event for each batch that has ended, or was opened again, since the last call; returns their number."""
    end_lanes(engine)
    return len(run(engine, _RECORD, {}))
