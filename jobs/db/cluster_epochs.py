"""Epochs of the feed: transaction ids order the rows written by one database cluster, epochs order the clusters.

Transaction ids start again in another cluster. After a dump and restore, a fail-over or a point-in-time recovery, new
rows would sort among, or before, those that readers have already read. Therefore each row has the epoch in which it was
written, and the first write, or command, in another cluster begins the next epoch.
"""

from sqlalchemy import Engine, text

from jobs.db.engine import run

# A cluster is identified by its system identifier, set by initdb, and its timeline, which changes when a restored
# cluster or a standby begins to write.
_CLUSTER = """(
    SELECT system_identifier || '/' || greatest(timeline_id, min_recovery_end_timeline)
    FROM pg_control_system(), pg_control_checkpoint(), pg_control_recovery())"""

# Inserts a new epoch if the last one belongs to another cluster; otherwise the CTE has no row.
BEGUN = f"""
    begun AS (
        INSERT INTO feed_epochs (id, cluster)
        SELECT coalesce(max(id) + 1, 0), {_CLUSTER} FROM feed_epochs
        HAVING (array_agg(cluster ORDER BY id DESC))[1] IS DISTINCT FROM {_CLUSTER}
        ON CONFLICT (id) DO UPDATE SET cluster = excluded.cluster RETURNING id
    )"""

# The epoch for writers, in a statement that includes BEGUN.
WRITTEN = "(SELECT coalesce((SELECT id FROM begun), (SELECT max(id) FROM feed_epochs)))"

# The epoch for readers: the one in which this cluster writes, or will write next.
CURRENT = f"""(
    SELECT coalesce(max(id) + CASE WHEN (array_agg(cluster ORDER BY id DESC))[1] = {_CLUSTER} THEN 0 ELSE 1 END, 0)
    FROM feed_epochs)"""

_BEGIN = text(f"WITH {BEGUN} SELECT id FROM begun")
_IS_HERE = text(f"SELECT (array_agg(cluster ORDER BY id DESC))[1] = {_CLUSTER} AS is_here FROM feed_epochs")


def came_from_elsewhere(engine: Engine) -> bool:
    """Whether the last epoch belongs to another cluster: after a restore, until a write or command begins a new one."""
    return run(engine, _IS_HERE, {})[0].is_here is False  # None: there is no epoch yet


def begin_epoch(engine: Engine) -> int | None:
    """Begin the next epoch if the database came from another cluster; returns its number, None if none was begun."""
    if run(engine, _IS_HERE, {})[0].is_here:  # checked first, to support read-only servers
        return None
    found = run(engine, _BEGIN, {})
    return found[0].id if found else None
