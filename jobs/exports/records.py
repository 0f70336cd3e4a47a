"""Exports in the database: create, find, list and delete them, and give them shards for all rows of their batches."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, text

from jobs.db.engine import run
from jobs.job_dataclasses import BatchId

_HAS_OTHER_COLUMNS = """(
    s.columns_version <> s.version
    AND EXISTS (SELECT FROM exports WHERE exports.id = s.export_id AND exports.columns IS NOT NULL))"""

IS_OUTDATED = (
    f"(s.written_generation IS DISTINCT FROM s.generation OR NOT s.is_sealed OR {_HAS_OTHER_COLUMNS})"
)
"""Whether the shard `s` has to be written, now or once its jobs have ended."""

File = Mapping[str, Any]
"""A file of an export: name (its path in the export's folder), bytes, sha256, rows, content_type."""

_COLUMNS = """
    exports.id, installation, exports.name, output, prefix, format, options, shard_rows, is_live,
    exports.created_at, replaced, files, finished, finished_at, is_complete, error,
    superseded, timestamps_missing, columns"""

_AT = text(f"SELECT {_COLUMNS} FROM exports WHERE output = :output AND prefix = :prefix")
_BY_ID = text(f"SELECT {_COLUMNS} FROM exports WHERE id = :id")
_ALL = text(f"""
    SELECT {_COLUMNS} FROM exports
    WHERE CAST(:batch AS bigint) IS NULL
       OR EXISTS (SELECT FROM export_shards WHERE export_id = exports.id AND batch_id = :batch)
    ORDER BY id
""")
_CREATE = text(f"""
    INSERT INTO exports (installation, name, output, prefix, format, options, shard_rows, is_live, replaced, columns)
    VALUES (:installation, :name, :output, :prefix, :format, CAST(:options AS jsonb), :shard_rows, :is_live,
        CAST(:replaced AS jsonb), CAST(:columns AS jsonb))
    RETURNING {_COLUMNS}
""")
# Live exports that have something to write. The last condition is of one whose writer died before it was finished.
_DUE = text(f"""
    SELECT {_COLUMNS} FROM exports
    WHERE is_live AND installation = :installation AND (
        EXISTS (SELECT FROM export_shards s WHERE s.export_id = exports.id AND {IS_OUTDATED})
        OR finished_at IS NULL
        OR :stamps AND timestamps_missing > 0
        OR finished_at < (SELECT max(written_at) FROM export_shards WHERE export_id = exports.id))
    ORDER BY id
""")
_OUTDATED = text(f"""
    SELECT {_COLUMNS} FROM exports
    WHERE NOT is_live AND finished IS NOT NULL AND EXISTS (
        SELECT FROM export_shards s WHERE s.export_id = exports.id AND s.batch_id = ANY (:batches) AND {IS_OUTDATED})
    ORDER BY id
""")
# Between two shards and while it is finished, no lease says so.
_BEING_WRITTEN = text("""
    SELECT e.id, e.name FROM exports e
    WHERE NOT e.is_live AND EXISTS (SELECT FROM export_shards WHERE export_id = e.id AND batch_id = :batch)
      AND EXISTS (
        SELECT FROM export_shards WHERE export_id = e.id AND (
            lease_until > now()
            OR written_at > coalesce(e.finished_at, '-infinity') AND written_at > now() - interval '10 min'))
    ORDER BY e.id LIMIT 1
""")
_NOTE_ERROR = text("UPDATE exports SET error = :error WHERE id = :id RETURNING id")
_MAKE_LIVE = text("UPDATE exports SET is_live = :is_live WHERE id = :id RETURNING id")

# A batch has a shard even if it has no rows. Where rows were dropped, ordinals go beyond their number. Numbers of new
# shards go on after those of all batches.
_ADD_SHARDS = text("""
    INSERT INTO export_shards (export_id, number, batch_id, first_ordinal, end_ordinal)
    SELECT e.id, before.n + row_number() OVER (ORDER BY first) - 1, b.id, first, first + e.shard_rows
    FROM exports e, batches b,
        (SELECT coalesce(max(number) + 1, 0) AS n FROM export_shards WHERE export_id = :export) AS before,
        LATERAL generate_series(0, greatest(
            b.rows - 1,
            (SELECT max(ordinal) FROM jobs WHERE batch_id = b.id),
            (SELECT max(ordinal) FROM images WHERE batch_id = b.id), 0), e.shard_rows) AS first
    WHERE e.id = :export AND b.id = :batch AND NOT EXISTS (
        SELECT FROM export_shards WHERE export_id = e.id AND batch_id = b.id AND first_ordinal = first)
    RETURNING number
""")
_BATCHES = text("""
    SELECT batch_id FROM export_shards WHERE export_id = :export GROUP BY batch_id ORDER BY min(number)
""")
_SHARDS = text(f"""
    SELECT number, batch_id, first_ordinal, end_ordinal, generation, written_generation, version, is_sealed, files,
        pending, images, counts, cursor, written_at, lease_until > now() AS is_leased, timestamp,
        {_HAS_OTHER_COLUMNS} AS has_other_columns
    FROM export_shards s WHERE export_id = :export AND (CAST(:number AS integer) IS NULL OR number = :number)
    ORDER BY number
""")

_FILES_OF_BATCH = text("""
    SELECT export_id, jsonb_path_query_array(jsonb_agg(files || coalesce(pending, '[]')), '$[*][*]') AS files
    FROM export_shards WHERE batch_id = :batch GROUP BY export_id
""")
_REPLACED = text("SELECT replaced, superseded FROM exports WHERE id = :id FOR UPDATE")
_NOTE_REPLACED = text("""
    UPDATE exports SET replaced = CAST(:replaced AS jsonb), superseded = CAST(:superseded AS jsonb) WHERE id = :id
""")
_FINISH_AGAIN = text("UPDATE exports SET finished = NULL WHERE id = :id")
_NOTE_COLUMNS = text("""
    WITH noted AS (
        UPDATE exports SET columns = CAST(:columns AS jsonb) WHERE id = :id AND columns IS NULL RETURNING id
    )
    UPDATE export_shards SET columns_version = version FROM noted WHERE export_id = noted.id RETURNING number
""")
# What is being written is written again, too: its generation is another one then.
_BEGIN_ANEW = text(f"""
    WITH outdated AS (UPDATE export_shards SET generation = generation + 1 WHERE export_id = :id)
    UPDATE exports SET columns = CAST(:columns AS jsonb), finished = NULL WHERE id = :id RETURNING {_COLUMNS}
""")
_OUTDATE_NAMED = text("""
    UPDATE export_shards SET generation = generation + 1
    WHERE export_id = :id AND EXISTS (
        SELECT FROM jsonb_array_elements(files || coalesce(pending, '[]')) AS file
        WHERE file ->> 'name' = ANY (CAST(:names AS text[])))
""")
_DELETE_SHARDS = text("DELETE FROM export_shards WHERE batch_id = :batch")
_DELETE_EMPTY = text("""
    DELETE FROM exports WHERE NOT EXISTS (SELECT FROM export_shards WHERE export_id = exports.id)
""")


@dataclass(frozen=True)
class Export:
    """An export as stored. `finished` is the digest of the shards that `_SUCCESS` names; None: not written yet."""

    id: int
    installation: UUID
    name: str
    output: str
    prefix: str
    format: str
    options: Mapping[str, Any]
    shard_rows: int
    is_live: bool
    created_at: datetime
    replaced: Mapping[str, str]
    files: Sequence[File]
    finished: str | None
    finished_at: datetime | None
    is_complete: bool
    error: str | None
    superseded: Sequence[File]
    """Further files like those in `replaced`, by name and sha256: a name may have several digests."""
    timestamps_missing: int
    columns: Sequence[str] | None
    """Names of those of its files; None: not noted yet, or its format has a table."""

    @property
    def place(self) -> str:
        """The URI or path of its folder."""
        return f"{self.output.rstrip('/')}/{self.prefix}".rstrip("/")

    @property
    def former(self) -> dict[str, set[str]]:
        """SHA-256, by name, of files that an export here may have put there and that no shard names."""
        found = {name: {sha256} for name, sha256 in self.replaced.items()}
        for file in self.superseded:
            found.setdefault(file["name"], set()).add(file["sha256"])
        return found


@dataclass(frozen=True)
class ShardRecord:
    """A shard as stored; `pending` are files that may have been put in place of `files`.

    `timestamp` may be of files of an earlier version (`jobs.exports.shard_rfc3161_time_stamps`).
    """

    number: int
    batch_id: BatchId
    first_ordinal: int
    end_ordinal: int
    generation: int
    written_generation: int | None
    version: int
    is_sealed: bool
    files: Sequence[File]
    pending: Sequence[File] | None
    images: int
    counts: Mapping[str, int]
    cursor: str | None
    written_at: datetime | None
    is_leased: bool | None
    timestamp: Mapping[str, str] | None
    has_other_columns: bool
    """Whether the files were written by a nightmill that didn't know the export's columns."""

    @property
    def is_current(self) -> bool:
        """Whether the files hold what the image rows say, and will as long as nothing is queued again or retracted."""
        is_written = self.is_sealed and self.written_generation == self.generation
        return is_written and not self.has_other_columns


def find_at(connection: Connection, output: str, prefix: str) -> Export | None:
    """Return the export at a place; None if there is none."""
    row = connection.execute(_AT, {"output": output, "prefix": prefix}).one_or_none()
    return _export(row) if row else None


def get(engine: Engine, export: int) -> Export | None:
    """Return an export; None if it was deleted."""
    rows = run(engine, _BY_ID, {"id": export})
    return _export(rows[0]) if rows else None


def exports_of(engine: Engine, batch: BatchId | None = None) -> list[Export]:
    """Return the exports that hold a batch, or all of them, oldest first."""
    return [_export(row) for row in run(engine, _ALL, {"batch": batch})]


def create(
    connection: Connection,
    *,
    installation: UUID,
    name: str,
    place: tuple[str, str],
    format: str,
    options: Mapping[str, Any],
    shard_rows: int,
    is_live: bool,
    replaced: Mapping[str, str],
    columns: Sequence[str],
) -> Export:
    """Store a new export at a place (output, prefix), without shards.

    `replaced`: SHA-256 by name of files there that it replaces. `columns`: the names of those that its files get; none:
    its format has a table.
    """
    output, prefix = place
    values = {
        "installation": installation,
        "name": name,
        "output": output,
        "prefix": prefix,
        "format": format,
        "options": json.dumps(dict(options)),
        "shard_rows": shard_rows,
        "is_live": is_live,
        "replaced": json.dumps(dict(replaced)),
        "columns": json.dumps(list(columns)) if columns else None,
    }
    return _export(connection.execute(_CREATE, values).one())


def add_shards(connection: Connection, export: int, batches: Sequence[BatchId]) -> int:
    """Add the shards that rows of the batches need and that aren't there; returns their number."""
    return sum(
        len(connection.execute(_ADD_SHARDS, {"export": export, "batch": batch}).all()) for batch in batches
    )


def live_exports(engine: Engine, installation: UUID, *, stamps: bool = False) -> list[Export]:
    """Return this installation's live exports that have shards to write now or later, or are to be finished.

    With `stamps` also those that lack time stamps.
    """
    return [_export(row) for row in run(engine, _DUE, {"installation": installation, "stamps": stamps})]


def outdated_exports(engine: Engine, batches: Sequence[BatchId]) -> list[Export]:
    """Return the finished exports that aren't as the batches' rows are now, and that no scheduler writes."""
    return [_export(row) for row in run(engine, _OUTDATED, {"batches": list(batches)})]


def being_written(engine: Engine, batch: BatchId) -> str | None:
    """Return the number and name of an export of the batch that a person writes now; None if there is none."""
    for row in run(engine, _BEING_WRITTEN, {"batch": batch}):
        return f"export {row.id}, {row.name}"
    return None


def note_error(engine: Engine, export: int, error: str | None) -> None:
    """Store why an export's shards can't be written at present; None: they can."""
    run(engine, _NOTE_ERROR, {"id": export, "error": error})


def note_columns(engine: Engine, export: int, columns: Sequence[str]) -> None:
    """Store which columns the files of an export have, those that are there, too; what is stored stays."""
    run(engine, _NOTE_COLUMNS, {"id": export, "columns": json.dumps(list(columns))})


def begin_anew(connection: Connection, export: Export, columns: Sequence[str]) -> Export:
    """Have all shards of an export written again, with other columns (none: its format has a table); returns it."""
    values = {"id": export.id, "columns": json.dumps(list(columns)) if columns else None}
    return _export(connection.execute(_BEGIN_ANEW, values).one())


def add_shards_of(connection: Connection, batch: BatchId) -> int:
    """Add shards for rows that were added to a batch to all exports that hold it; returns their number."""
    found = connection.execute(
        text("SELECT DISTINCT export_id FROM export_shards WHERE batch_id = :batch ORDER BY 1"),
        {"batch": batch},
    )
    return sum(add_shards(connection, export, [batch]) for export in found.scalars().all())


def make_live(engine: Engine, export: int, *, is_live: bool) -> None:
    """Let schedulers write the shards of an export, or stop them."""
    run(engine, _MAKE_LIVE, {"id": export, "is_live": is_live})


def batches_of(connection: Connection, export: int) -> list[BatchId]:
    """Return the batches of an export in their order."""
    return [BatchId(row.batch_id) for row in connection.execute(_BATCHES, {"export": export})]


def shards_of(engine: Engine, export: int, number: int | None = None) -> list[ShardRecord]:
    """Return the shards of an export in order, or the one of a number."""
    return [ShardRecord(**row._mapping) for row in run(engine, _SHARDS, {"export": export, "number": number})]


def recorded_digests(engine: Engine, export: Export) -> dict[str, set[str]]:
    """Return the SHA-256 of what this installation may have written, by name in the export's folder."""
    known = export.former
    groups = [export.files]
    for shard in shards_of(engine, export.id):
        groups += [shard.files, shard.pending or []]
    for file in chain.from_iterable(groups):
        known.setdefault(file["name"], set()).add(file["sha256"])
    return known


def note_replaced(connection: Connection, export: int, files: Sequence[File]) -> None:
    """Note files of this installation that lie, or may lie, at the export's place and don't belong to it."""
    found = connection.execute(_REPLACED, {"id": export}).one_or_none()
    if found is None:  # deleted meanwhile
        return
    replaced, superseded = found
    for file in files:
        name, sha256 = file["name"], file["sha256"]
        other = {"name": name, "sha256": sha256}
        if replaced.setdefault(name, sha256) != sha256 and other not in superseded:
            superseded.append(other)
    values = {"replaced": json.dumps(replaced), "superseded": json.dumps(superseded)}
    connection.execute(_NOTE_REPLACED, {"id": export, **values})


def finish_again(connection: Connection, export: int, left: Sequence[File]) -> None:
    """Have an export finished again; `left` are files that may lie at its place and don't belong to it."""
    note_replaced(connection, export, left)
    connection.execute(_FINISH_AGAIN, {"id": export})


def note_files_of_replaced_export(connection: Connection, gone: Export, files: Sequence[File]) -> None:
    """Let the export that has replaced one delete what a writer of that one has put there since, when it finishes.

    Its shards with files of these names are written again: theirs may have been overwritten.
    """
    now = find_at(connection, gone.output, gone.prefix)
    if now is not None and now.id != gone.id:
        finish_again(connection, now.id, files)
        connection.execute(_OUTDATE_NAMED, {"id": now.id, "names": [file["name"] for file in files]})


def move_exports(connection: Connection, batch: BatchId, output: str, target: str, folder: str) -> None:
    """Let the exports in a batch's folder belong to another output, where all their shards are to be written."""
    statement = text("""
        WITH moved AS (
            UPDATE exports SET output = :target, finished = NULL, finished_at = NULL, files = '[]', replaced = '{}',
                superseded = '[]'
            WHERE output = :output AND starts_with(prefix, :folder) AND EXISTS (
                SELECT FROM export_shards WHERE export_id = exports.id AND batch_id = :batch)
            RETURNING id
        )
        UPDATE export_shards SET written_generation = NULL, is_sealed = false, files = '[]', pending = NULL,
            lease = NULL, lease_until = NULL
        FROM moved WHERE export_id = moved.id
    """)
    connection.execute(statement, {"batch": batch, "output": output, "target": target, "folder": folder})


def remove_batch(connection: Connection, batch: BatchId) -> None:
    """Take a batch that is being deleted out of all exports.

    An export of others beside it goes on without it: its files are deleted when that export is next finished.
    """
    for held in connection.execute(_FILES_OF_BATCH, {"batch": batch}).all():
        finish_again(connection, held.export_id, held.files)
    for statement in (_DELETE_SHARDS, _DELETE_EMPTY):
        connection.execute(statement, {"batch": batch})


def delete(connection: Connection, export: int) -> None:
    """Delete an export and its shards from the database; its files stay."""
    connection.execute(text("DELETE FROM exports WHERE id = :id"), {"id": export})


def _export(row: Row[Any]) -> Export:
    return Export(**row._mapping)
