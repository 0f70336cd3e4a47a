"""Claims of shards: one writer at a time, by a lease; a shard is sealed by one guarded statement.

A writer claims a shard, reads its rows, writes the files locally, and stages them: the statement compares what was read
with what there is. Then it puts the files in place and publishes them. The table names every file that may be in place.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from jobs.db import cluster_epochs
from jobs.db.engine import run, transact
from jobs.errors import NightmillError
from jobs.exports.delete_unreferenced_files import lock_files
from jobs.exports.records import IS_OUTDATED, File
from jobs.exports.renewed_lease import renewed
from jobs.images.row_serialisation import copied
from jobs.images.where_expression import chosen_by
from jobs.job_dataclasses import BatchId
from jobs.states import OPEN, sql_list

LEASE_S = 60.0

_RANGE = "batch_id = s.batch_id AND ordinal >= s.first_ordinal AND ordinal < s.end_ordinal"

# Backwards: jobs are rendered in the order of their rows, so that the last ones are the last that end. (EXISTS would
# drop the order.)
_HAS_OPEN_JOBS = f"""(
    SELECT jobs.id FROM jobs WHERE jobs.{_RANGE} AND state IN ({sql_list(OPEN)})
    ORDER BY jobs.batch_id DESC, ordinal DESC, "index" DESC LIMIT 1) IS NOT NULL"""

# Of an export of accepted images: some of the shard's have no verdict yet.
_AWAITS_VERDICTS = f"""EXISTS (
    SELECT FROM exports WHERE exports.id = s.export_id AND options ? 'awaits_verdicts' AND EXISTS (
        SELECT FROM images WHERE images.{_RANGE}
          AND NOT EXISTS (SELECT FROM image_acceptance WHERE image_id = images.id)))"""
_IS_OPEN = f"({_HAS_OPEN_JOBS} OR {_AWAITS_VERDICTS})"

# Ids of image rows only grow: no deletion or insertion leaves both figures as they were.
_FINGERPRINT = f"(SELECT count(*) || '/' || coalesce(max(images.id), 0) FROM images WHERE images.{_RANGE})"

_CLAIM = text(f"""
    WITH picked AS (
        SELECT export_id, number FROM export_shards s
        WHERE export_id = :export AND number > :after AND {IS_OUTDATED}
          AND (lease_until IS NULL OR lease_until < now()) AND (:unfinished OR NOT {_IS_OPEN})
        ORDER BY number LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    UPDATE export_shards s SET lease = :lease, lease_until = now() + make_interval(secs => :lease_s)
    FROM picked WHERE s.export_id = picked.export_id AND s.number = picked.number
    RETURNING s.export_id, s.number, s.batch_id, s.first_ordinal, s.end_ordinal, s.generation, s.version, s.is_sealed,
        s.files, s.pending, s.lease, (SELECT count(*) FROM export_shards WHERE export_id = :export) AS count
""")

_MINE = "export_id = :export AND number = :number AND lease = :lease"
_EXTEND = text(f"""
    UPDATE export_shards SET lease_until = now() + make_interval(secs => :lease_s) WHERE {_MINE} RETURNING number
""")
_RELEASE = text(f"UPDATE export_shards SET lease = NULL, lease_until = NULL WHERE {_MINE} RETURNING number")

_FACTS = text(f"""
    SELECT {_FINGERPRINT} AS fingerprint, {_IS_OPEN} AS is_open,
        (SELECT options ->> 'where' FROM exports WHERE id = :export) AS condition,
        {cluster_epochs.CURRENT} || '-' || pg_snapshot_xmin(pg_current_snapshot()) || '-0' AS cursor,
        (SELECT coalesce(jsonb_object_agg(state, n), '{{}}') FROM (
            SELECT state, count(*) AS n FROM jobs WHERE jobs.{_RANGE} GROUP BY state) AS counted) AS counts
    FROM export_shards s WHERE export_id = :export AND number = :number
""")

_STAGE = text(f"""
    UPDATE export_shards s SET pending = CAST(:files AS jsonb)
    WHERE {_MINE} AND generation = :generation
      AND (NOT :is_sealed OR {_FINGERPRINT} = :fingerprint AND NOT {_IS_OPEN})
    RETURNING number
""")

_NEXT_VERSION = "version + CASE WHEN version = 0 OR files <> pending THEN 1 ELSE 0 END"
_PUBLISH = text(f"""
    UPDATE export_shards SET files = pending, pending = NULL, written_generation = :generation, is_sealed = :is_sealed,
        version = {_NEXT_VERSION}, columns_version = CASE
            WHEN (SELECT columns FROM exports WHERE id = :export) IS NOT DISTINCT FROM CAST(:columns AS jsonb)
            THEN {_NEXT_VERSION} ELSE 0 END,
        images = :images, counts = CAST(:counts AS jsonb), cursor = :cursor, written_at = now(),
        lease = NULL, lease_until = NULL
    WHERE {_MINE} RETURNING version
""")


class ShardLostError(NightmillError):
    """The shard's rows changed while it was written, or another writer has claimed it; the files were not put there."""


@dataclass(frozen=True)
class ClaimedShard:
    """A shard that this process may write until its lease runs out."""

    export_id: int
    number: int
    batch_id: BatchId
    first_ordinal: int
    end_ordinal: int
    generation: int
    version: int
    is_sealed: bool
    files: Sequence[File]
    pending: Sequence[File] | None
    lease: UUID
    count: int

    @property
    def key(self) -> dict[str, object]:
        """The parameters of statements that a claim's holder may execute."""
        return {"export": self.export_id, "number": self.number, "lease": self.lease}


@dataclass(frozen=True)
class ShardSnapshot:
    """What was read of a shard, all at one moment; `counts` are its jobs by state.

    `is_open`: not to be sealed, as jobs are unfinished or images not judged. `condition`: what its images had to meet.
    """

    fingerprint: str
    is_open: bool
    condition: str | None
    cursor: str
    counts: dict[str, int]


def claim_shard(engine: Engine, export: int, after: int, *, unfinished: bool) -> ClaimedShard | None:
    """Claim the first outdated shard behind the number `after`; None if there is none that is free.

    Shards with unfinished jobs are passed over unless `unfinished`.
    """
    values = {
        "export": export,
        "after": after,
        "unfinished": unfinished,
        "lease": uuid4(),
        "lease_s": LEASE_S,
    }
    rows = run(engine, _CLAIM, values)
    return ClaimedShard(**rows[0]._mapping) if rows else None


def read_shard(engine: Engine, shard: ClaimedShard, rows: Path) -> ShardSnapshot:
    """Write the shard's image rows to a local file, as CSV (`jobs.images.row_serialisation.copied`).

    The file lets images be read afterwards, for minutes, without an open transaction.
    """
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        facts = connection.execute(_FACTS, shard.key).one()
        _spool(connection, shard, rows, facts.condition)
    return ShardSnapshot(**facts._mapping)


def _spool(connection: Connection, shard: ClaimedShard, rows: Path, where: str | None) -> None:
    chosen = chosen_by(where)
    query = text(f"""
        i.batch_id = :batch AND i.ordinal >= :first AND i.ordinal < :end AND {chosen.sql} ORDER BY i.ordinal, i.index
    """)
    values = {
        "batch": shard.batch_id,
        "first": shard.first_ordinal,
        "end": shard.end_ordinal,
        **chosen.values,
    }
    condition = str(query.compile(dialect=connection.dialect))
    with rows.open("wb") as file, copied(connection, condition, values) as chunks:
        file.writelines(chunks)


def stage(engine: Engine, shard: ClaimedShard, snapshot: ShardSnapshot, files: Sequence[File]) -> None:
    """Note the files that are about to be put in place. Raises ShardLostError if the shard has changed since."""
    values: dict[str, Any] = shard.key | {
        "files": json.dumps(list(files)),
        "generation": shard.generation,
        "is_sealed": not snapshot.is_open,
        "fingerprint": snapshot.fingerprint,
    }

    def work(connection: Connection) -> bool:
        lock_files(connection, shard.export_id)
        return connection.execute(_STAGE, values).one_or_none() is not None

    if not transact(engine, work):
        raise ShardLostError(f"shard {shard.number} changed while it was written")


def publish(
    connection: Connection, shard: ClaimedShard, snapshot: ShardSnapshot, images: int, columns: Sequence[str]
) -> int:
    """Name the staged files as the shard's, and end the claim; returns their version. Raises ShardLostError.

    `columns` are those that they were written with (none: their format has a table); if the export has got others
    since, the shard is to be written again.
    """
    values: dict[str, Any] = shard.key | {
        "columns": json.dumps(list(columns)) if columns else None,
        "generation": shard.generation,
        "is_sealed": not snapshot.is_open,
        "images": images,
        "counts": json.dumps(snapshot.counts or {"done": images}),  # an archived batch has no jobs
        "cursor": snapshot.cursor,
    }
    version = connection.execute(_PUBLISH, values).scalar_one_or_none()
    if version is None:
        raise ShardLostError(f"shard {shard.number} was claimed by another writer")
    return int(version)


def release(engine: Engine, shard: ClaimedShard) -> None:
    """End a claim without having written the shard."""
    run(engine, _RELEASE, shard.key)


@contextmanager
def kept(engine: Engine, shard: ClaimedShard) -> Iterator[None]:
    """Renew the claim while the block runs; release it if the block raises."""
    try:
        with renewed(lambda: run(engine, _EXTEND, shard.key | {"lease_s": LEASE_S}), LEASE_S):
            yield
    except BaseException:
        with suppress(SQLAlchemyError):  # it runs out
            release(engine, shard)
        raise
