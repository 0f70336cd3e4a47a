"""Archiving and deletion of batches, in chunks, so that each statement is short and claims continue meanwhile.

An interrupted call is resumed by calling the function again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, TextClause, text

from jobs.batches.delete_files import delete_files
from jobs.batches.status import BatchStatus
from jobs.db.engine import run, transact
from jobs.errors import UsageError
from jobs.exports import records
from jobs.feed.write_events import Event, add_event
from jobs.outputs.ownership import owner_of
from jobs.queue.sql_predicates import HAS_OPEN_JOBS
from jobs.states import FINISHED, OPEN, EventKind, JobState, sql_list
from jobs.storage.open import ObjectStore

CHUNK = 5_000

# The lock and transactions that queue jobs of the batch again wait for each other. The mark is a separate statement, so
# that it sees the jobs that they have queued.
_LOCK = text("SELECT id FROM batches WHERE id = :batch FOR NO KEY UPDATE")
_MARK = text(f"""
    UPDATE batches SET archived_at = coalesce(archived_at, now()) WHERE id = :batch AND NOT EXISTS (
        SELECT FROM lanes WHERE batch_id = :batch AND (
            {HAS_OPEN_JOBS} OR ended_at > now() - make_interval(secs => CAST(:ended_before_s AS float))))
    RETURNING id
""")
_OPEN_JOBS = text(f"""
    SELECT count(*) AS n FROM lanes JOIN jobs ON lane_id = lanes.id
    WHERE lanes.batch_id = :batch AND state IN ({sql_list(OPEN)})
""")

_CHOSEN = """
    chosen AS (
        SELECT id, ordinal, "index" FROM jobs WHERE batch_id = :batch AND (ordinal, "index") > (:ordinal, :index)
        ORDER BY batch_id, ordinal, "index" LIMIT :limit
    )"""
_GONE = f"""
    gone AS (
        DELETE FROM jobs USING chosen WHERE jobs.id = chosen.id AND state IN ({sql_list(FINISHED)})
    ), history AS (
        DELETE FROM attempts USING chosen WHERE job_id = chosen.id
    )"""

# Each chunk starts after the last key of the one before; from the beginning, it would scan the deleted rows again.
_JOBS = text(f"""
    WITH {_CHOSEN}, {_GONE}
    SELECT id, ordinal, "index" FROM chosen ORDER BY ordinal, "index"
""")

# What `reconcile` needs of jobs that have no image row.
_ARCHIVE = text(f"""
    WITH {_CHOSEN}, ended AS (
        INSERT INTO archived_jobs (batch_id, ordinal, "index", row_id, job_id, replaced_by, state, attempt, error_kind,
            error_text, meta)
        SELECT batch_id, jobs.ordinal, jobs."index", row_id, jobs.id, (
                SELECT made.id FROM jobs AS made WHERE made.replaces = jobs.id),
            state, attempt, error_kind, error_text, meta
        FROM jobs JOIN chosen USING (id) WHERE state IN ({sql_list(FINISHED)}) AND state <> '{JobState.DONE}'
        ON CONFLICT (batch_id, ordinal, "index") DO NOTHING
    ), {_GONE}
    SELECT id, ordinal, "index" FROM chosen ORDER BY ordinal, "index"
""")


def _by_place(table: str) -> TextClause:
    """Return the statement that deletes a chunk of a table's rows in the order of the manifest."""
    return text(f"""
    WITH chosen AS (
        SELECT id, ordinal, "index" FROM {table} WHERE batch_id = :batch AND (ordinal, "index") > (:ordinal, :index)
        ORDER BY batch_id, ordinal, "index" LIMIT :limit
    ), gone AS (
        DELETE FROM {table} USING chosen WHERE {table}.id = chosen.id
    )
    SELECT id, ordinal, "index" FROM chosen ORDER BY ordinal, "index"
    """)


def _by_id(table: str) -> TextClause:
    """Return the statement that deletes a chunk of a table's rows in the order of their ids, in place of ordinals."""
    return text(f"""
    WITH chosen AS (
        SELECT id FROM {table} WHERE batch_id = :batch AND id > :ordinal AND :index <= 0
        ORDER BY batch_id, id LIMIT :limit
    ), gone AS (
        DELETE FROM {table} USING chosen WHERE {table}.id = chosen.id
    )
    SELECT id, id AS ordinal, 0 AS "index" FROM chosen ORDER BY id
    """)


_DELETED = (_JOBS, _by_place("images"), _by_id("rejects"), _by_place("archived_jobs"), _by_id("events"))

_BATCH = text("DELETE FROM batches WHERE id = :batch RETURNING id")


def archive(
    engine: Engine,
    batch: BatchStatus,
    on_rows: Callable[[int], None] = lambda _: None,
    *,
    ended_before_s: float | None = None,
) -> int:
    """Delete the jobs and attempts of an ended batch, keeping counts, image rows, and how the other jobs ended.

    Refuses, by UsageError, one that has unfinished jobs or ended less than `ended_before_s` seconds ago. Returns the
    number of jobs. Export, feed and verification of an archived batch work as before; its jobs can't be
    queued again.
    """
    _mark(engine, batch, ended_before_s)
    return _in_chunks(engine, _ARCHIVE, batch.id, on_rows)


def delete(
    engine: Engine,
    batch: BatchStatus,
    files: ObjectStore | None = None,
    on_rows: Callable[[int], None] = lambda _: None,
    before_files: Callable[[ObjectStore], None] = lambda _: None,
    by: str | None = None,
    *,
    ended_before_s: float | None = None,
) -> int:
    """Delete an ended batch: jobs, image rows, rejects and, if `files` is given, its files in that store.

    Refuses, by UsageError, one that has unfinished jobs, ended less than `ended_before_s` seconds ago, or is being
    exported.
    `before_files` drops what names them elsewhere; the event says `by` what it was deleted, if that was no person.
    Returns the number of rows deleted. Files are deleted first: a row without its file can be detected, a file without
    a row can't. Files in the batch's folder that nightmill did not write are kept. Raises ForeignOutputError if the
    folder belongs to another installation.
    """
    if files is not None:
        owner_of(engine, files, batch.id, batch.folder)
    if (export := records.being_written(engine, batch.id)) is not None:
        raise UsageError(f"batch {batch.name} is being exported ({export}): wait until that has ended")
    _mark(engine, batch, ended_before_s)
    if files is not None:
        before_files(files)
        delete_files(engine, files, batch)
    gone = 0
    for statement in _DELETED:
        gone += _in_chunks(engine, statement, batch.id, partial(_report_total, on_rows, gone))
    transact(engine, partial(_delete_batch, batch, by))
    return gone


def _delete_batch(batch: BatchStatus, by: str | None, connection: Connection) -> None:
    records.remove_batch(connection, batch.id)
    if connection.execute(_BATCH, {"batch": batch.id}).one_or_none() is not None:
        detail = {"counts": batch.counts, "output": batch.output} | ({"by": by} if by else {})
        add_event(connection, Event(EventKind.DELETED, batch.id, batch.name, detail=detail))


def _mark(engine: Engine, batch: BatchStatus, ended_before_s: float | None) -> None:
    """Mark the batch as archived, which prevents claims and retries; UsageError if it hasn't ended so long ago."""
    values = {"batch": batch.id, "ended_before_s": ended_before_s}

    def mark(connection: Connection) -> bool:
        connection.execute(_LOCK, {"batch": batch.id})
        return connection.execute(_MARK, values).one_or_none() is not None

    if not transact(engine, mark):
        remaining = run(engine, _OPEN_JOBS, {"batch": batch.id})[0].n
        again = f"batch {batch.name} was queued again and has ended since"
        raise UsageError(_has_open_jobs(batch, remaining) if remaining else again)


def why_not_ended(batch: BatchStatus) -> str | None:
    """Return why the batch can't be archived or deleted yet, as it stood; None if it can."""
    return _has_open_jobs(batch, batch.remaining) if batch.remaining else None


def _has_open_jobs(batch: BatchStatus, remaining: int) -> str:
    return (
        f"batch {batch.name} has {remaining:,} jobs that haven't ended: wait, or `nightmill cancel` it first"
    )


def _report_total(on_rows: Callable[[int], None], before: int, rows: int) -> None:
    on_rows(before + rows)


def _in_chunks(engine: Engine, statement: TextClause, batch: int, on_rows: Callable[[int], None]) -> int:
    total, place = 0, {"ordinal": -1, "index": -(2**31)}
    while rows := run(engine, statement, {"batch": batch, "limit": CHUNK} | place):
        last: Any = rows[-1]
        place = {"ordinal": last.ordinal, "index": last.index}
        total += len(rows)
        on_rows(total)
    return total
