"""Renames a batch: its rows, exports and events say the new name from then on, its files stay where they are."""

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import IntegrityError

from jobs.batches.status import BatchStatus
from jobs.db.engine import transact
from jobs.errors import UsageError
from jobs.feed.write_events import Event, add_event
from jobs.states import EventKind

# A batch that takes its first name again has the folder of its name, as one that was never renamed.
_RENAME = text("""
    UPDATE batches SET name = :name, folder = nullif(coalesce(folder, name), :name)
    WHERE id = :batch AND NOT EXISTS (
        SELECT FROM batches AS other WHERE other.id <> :batch AND :name IN (other.name, other.folder))
    RETURNING id
""")
_OUTDATE = text("UPDATE export_shards SET generation = generation + 1 WHERE batch_id = :batch")
# Only exports of this batch alone have its name; `--name` may be another's.
_EXPORTS = text("""
    UPDATE exports SET name = :name
    WHERE name = :old AND id IN (SELECT export_id FROM export_shards WHERE batch_id = :batch)
      AND NOT EXISTS (SELECT FROM export_shards AS other WHERE other.export_id = exports.id AND batch_id <> :batch)
""")


def rename(engine: Engine, batch: BatchStatus, name: str) -> None:
    """Give an ended batch another name. Exports are written anew by the next `export`, as their rows have the name.

    `name` must be valid for a batch. Raises UsageError if it is taken, by a batch or as the folder of one, and while
    jobs of the batch are unfinished.
    """
    if batch.remaining:
        raise UsageError(
            f"batch {batch.name} has {batch.remaining:,} jobs that haven't ended: wait, or `nightmill cancel` it first"
        )
    try:
        is_free = transact(engine, lambda connection: _rename(connection, batch, name))
    except IntegrityError:  # somebody was quicker
        is_free = False
    if not is_free:
        raise UsageError(
            f"the name {name!r} is that of a batch, or was the first one of a batch, whose folder has it"
        )


def _rename(connection: Connection, batch: BatchStatus, name: str) -> bool:
    if connection.execute(_RENAME, {"batch": batch.id, "name": name}).one_or_none() is None:
        return False
    connection.execute(_OUTDATE, {"batch": batch.id})
    connection.execute(_EXPORTS, {"batch": batch.id, "old": batch.name, "name": name})
    add_event(connection, Event(EventKind.BATCH, batch.id, name, detail={"renamed_from": batch.name}))
    return True
