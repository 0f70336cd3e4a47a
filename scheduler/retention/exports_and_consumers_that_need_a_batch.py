"""Who still needs the rows of a batch that is to be deleted: exports that are written, and readers of the feed."""

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.exports.records import IS_OUTDATED, being_written
from jobs.job_dataclasses import BatchId

# An export of several batches deletes the files of one that is gone when it is next finished.
_LIVE_EXPORTS = text(f"""
    SELECT e.id, e.name, EXISTS (
            SELECT FROM export_shards s WHERE s.export_id = e.id AND s.batch_id <> :batch) AS has_others
    FROM exports e
    WHERE e.is_live AND EXISTS (SELECT FROM export_shards s WHERE s.export_id = e.id AND s.batch_id = :batch) AND (
        EXISTS (SELECT FROM export_shards s WHERE s.export_id = e.id AND (s.batch_id <> :batch OR {IS_OUTDATED}))
        OR e.finished_at IS NULL
        OR e.finished_at < (SELECT max(written_at) FROM export_shards s WHERE s.export_id = e.id))
    ORDER BY e.id LIMIT 1
""")  # noqa: S608 - constants

_AFTER = '(t.epoch, t.xid, t.id) > (c.epoch, c.xid, c."position")'
_CONSUMERS = text(f"""
    SELECT c.name FROM consumers c
    WHERE (c.batch_id IS NULL OR c.batch_id = :batch) AND (
        'image' = ANY (c.kinds) AND EXISTS (SELECT FROM images t WHERE t.batch_id = :batch AND {_AFTER})
        OR EXISTS (SELECT FROM events t WHERE t.batch_id = :batch AND t.kind = ANY (c.kinds) AND {_AFTER}))
    ORDER BY c.name LIMIT 1
""")  # noqa: S608 - constants


def who_needs(engine: Engine, batch: BatchId) -> str | None:
    """Return who would lose something if the batch's rows were deleted now; None: nobody."""
    if (written := being_written(engine, batch)) is not None:
        return f"it is being exported ({written})"
    for export in run(engine, _LIVE_EXPORTS, {"batch": batch}):
        what = "holds other batches, too" if export.has_others else "isn't complete"
        return f"the live export {export.id} ({export.name}) {what}: `nightmill exports stop {export.id}` ends it"
    for consumer in run(engine, _CONSUMERS, {"batch": batch}):
        return (
            f"the consumer {consumer.name} hasn't read all of it: `nightmill consumers --remove {consumer.name}`, "
            "if it isn't going to"
        )
    return None
