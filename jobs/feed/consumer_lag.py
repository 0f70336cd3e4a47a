"""How far consumers are behind the feed, and which transaction holds the feed back."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, text

from jobs.db import cluster_epochs
from jobs.db.engine import run
from jobs.feed.consumers import READERS, READS

_AFTER = """(t.epoch, t.xid, t.id) > (c.epoch, c.xid, c."position")
    AND (c.batch_id IS NULL OR t.batch_id = c.batch_id)"""

# `ready`: rows that the feed shows; the others are there and wait for an older transaction.
_CONSUMERS = text(f"""
    WITH edge AS MATERIALIZED (
        SELECT {cluster_epochs.CURRENT} AS epoch, pg_snapshot_xmin(pg_current_snapshot()) AS xmin
    )
    SELECT c.name, c.epoch || '-' || c.xid || '-' || c."position" AS cursor, c.kinds, b.name AS batch, c.created_at,
        c.acknowledged_at, behind.rows, behind.held_back, extract(epoch FROM now() - behind.since) AS seconds,
        (SELECT pid FROM pg_locks WHERE {READS.format(number="c.id")} LIMIT 1) AS reader_pid
    FROM consumers c LEFT JOIN batches b ON b.id = c.batch_id CROSS JOIN edge CROSS JOIN LATERAL (
        SELECT count(*) AS rows, min(created_at) AS since,
            count(*) FILTER (WHERE (unread.epoch, unread.xid) >= (edge.epoch, edge.xmin)) AS held_back
        FROM (
            SELECT t.epoch, t.xid, t.created_at FROM images t WHERE {_AFTER} AND 'image' = ANY (c.kinds)
            UNION ALL
            SELECT t.epoch, t.xid, t.created_at FROM events t WHERE {_AFTER} AND t.kind = ANY (c.kinds)
        ) AS unread) AS behind
    ORDER BY c.name
""")

# The feed stops before the oldest transaction that has written and not ended. Transactions that only read, and
# replication slots, hold back the cleaning of tables and not the feed.
_HOLDER = text("""
    WITH edge AS MATERIALIZED (SELECT pg_snapshot_xmin(pg_current_snapshot())::xid AS xmin)
    SELECT 'transaction' AS kind, pid, usename::text AS "user", application_name AS application,
        client_addr::text AS host, datname::text AS database, state, xact_start AS since, NULL AS name
    FROM pg_stat_activity JOIN edge ON backend_xid = xmin WHERE pid <> pg_backend_pid()
    UNION ALL
    SELECT 'prepared transaction', NULL, owner::text, NULL, NULL, database::text, NULL, prepared, gid
    FROM pg_prepared_xacts JOIN edge ON transaction = xmin
""")


def consumers(engine: Engine) -> list[dict[str, Any]]:
    """Return all consumers by name, with `rows` and `seconds` that they are behind.

    `seconds` is the age of the oldest row that isn't read; `held_back` of the rows wait for an older transaction.
    """
    rows = run(engine, _CONSUMERS, {"readers": READERS})
    return [dict(row._mapping) | {"seconds": float(row.seconds or 0)} for row in rows]


def holder(engine: Engine) -> Mapping[str, Any] | None:
    """Return the oldest transaction that has written and not ended, which the feed waits for; None if there is none.

    Whoever may not see other users' activity (`pg_read_all_stats`) is told neither user nor application.
    """
    rows = run(engine, _HOLDER, {})
    return dict(rows[0]._mapping) if rows else None
