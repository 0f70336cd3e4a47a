"""Deletes files of an export that no shard names any more, where several shards may name the same file."""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, Engine, text

from jobs.db.engine import transact
from jobs.exports.records import File

_AT_ONCE = 100
"""Files that are deleted while no shard can be staged."""

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('files of export ' || CAST(:export AS text), 0))")
_NAMED = text("""
    SELECT DISTINCT file ->> 'name' AS name
    FROM export_shards, jsonb_array_elements(files || coalesce(pending, '[]')) AS file
    WHERE export_id = :export AND file ->> 'name' = ANY (CAST(:names AS text[]))
""")


def lock_files(connection: Connection, export: int) -> None:
    """Let no one else stage files of the export, or delete some, until the transaction ends.

    Who stages a file and finds it in place doesn't write it: whoever deletes it then must have seen that it is named.
    """
    connection.execute(_LOCK, {"export": export})


def delete_unnamed(
    engine: Engine, export: int, files: Sequence[File], delete: Callable[[File], object]
) -> None:
    """Delete those of the files that no shard of the export has, or is about to put in place."""
    for start in range(0, len(files), _AT_ONCE):
        part = files[start : start + _AT_ONCE]

        def work(connection: Connection, part: Sequence[File] = part) -> None:
            lock_files(connection, export)
            values = {"export": export, "names": [file["name"] for file in part]}
            named = set(connection.execute(_NAMED, values).scalars())
            for file in part:
                if file["name"] not in named:
                    delete(file)

        transact(engine, work)
