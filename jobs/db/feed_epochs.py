"""Epochs of the feed: transaction ids order what one database cluster has written, epochs order clusters.

Ids of transactions start anew in another cluster. After a dump and restore, a fail-over or a restore to a point in
time, rows that are written then would sort among, or before, those that readers have passed. So each row carries the
epoch in which it was written, and the first write, or command, in another cluster begins the next one.
"""

from sqlalchemy import Engine, text

from jobs.db.engine import run

# A cluster is told by what initdb gave it, and by its timeline, which changes where one that was restored, or a
# standby, begins to write.
_CLUSTER = """(
    SELECT system_identifier || '/' || greatest(timeline_id, min_recovery_end_timeline)
    FROM pg_control_system(), pg_control_checkpoint(), pg_control_recovery())"""

# A new epoch where the last one is another cluster's: with no row else.
BEGUN = f"""
    begun AS (
        INSERT INTO feed_epochs (id, cluster)
        SELECT coalesce(max(id) + 1, 0), {_CLUSTER} FROM feed_epochs
        HAVING (array_agg(cluster ORDER BY id DESC))[1] IS DISTINCT FROM {_CLUSTER}
        ON CONFLICT (id) DO UPDATE SET cluster = excluded.cluster RETURNING id
    )"""

# For writers, in a statement that has BEGUN.
WRITTEN = "(SELECT coalesce((SELECT id FROM begun), (SELECT max(id) FROM feed_epochs)))"

# For readers: that in which this cluster writes, or will.
CURRENT = f"""(
    SELECT coalesce(max(id) + CASE WHEN (array_agg(cluster ORDER BY id DESC))[1] = {_CLUSTER} THEN 0 ELSE 1 END, 0)
    FROM feed_epochs)"""

_BEGIN = text(f"WITH {BEGUN} SELECT id FROM begun")
_IS_HERE = text(f"SELECT (array_agg(cluster ORDER BY id DESC))[1] = {_CLUSTER} AS is_here FROM feed_epochs")


def came_from_elsewhere(engine: Engine) -> bool:
    """Whether the last epoch is another cluster's: after a restore, until the next write or command begins one."""
    return run(engine, _IS_HERE, {})[0].is_here is False  # None: there is no epoch yet


def begin_epoch(engine: Engine) -> int | None:
    """Begin the next epoch if the database came from another cluster; its number, None where it goes on."""
    if run(engine, _IS_HERE, {})[0].is_here:  # asked first, for a server that one can only read from
        return None
    found = run(engine, _BEGIN, {})
    return found[0].id if found else None
