"""Finds which keys the `meta` of batches' rows have, and a type that has room for all values of each."""

from collections.abc import Collection, Sequence

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.job_dataclasses import BatchId
from scheduler.export.export_options import MetaType

MOST = 100
"""Keys that become columns: the most frequent ones. The column `meta` has all."""

_KEY_BYTES = 200

# Whole numbers of up to 15 digits are exact as doubles, the next ones fit into 64 bits. Archived batches have no jobs.
_KINDS = text("""
    WITH rows AS (
        SELECT meta FROM jobs WHERE batch_id = ANY (CAST(:batches AS bigint[]))
        UNION ALL
        SELECT meta FROM images i WHERE batch_id = ANY (CAST(:batches AS bigint[]))
            AND NOT EXISTS (SELECT FROM jobs WHERE jobs.batch_id = i.batch_id)
    ), found AS (
        SELECT key, json_typeof(value) AS type, CASE json_typeof(value) WHEN 'number' THEN value::text END AS number
        FROM rows, json_each(meta) WHERE octet_length(key) <= :key_bytes
    )
    SELECT key, count(*) AS n, array_agg(DISTINCT CASE
        WHEN number IS NULL THEN type
        WHEN number ~ '[.eE]' THEN 'double'
        WHEN length(number) <= 15 THEN 'short'
        WHEN length(number) <= 18 THEN 'long'
        WHEN length(ltrim(number, '-')) = 19 AND ltrim(number, '-') < '9' COLLATE "C" THEN 'long'
        ELSE 'huge' END) AS kinds
    FROM found WHERE type <> 'null' GROUP BY key ORDER BY n DESC, key LIMIT :most
""")

_FITTING: Sequence[tuple[Collection[str], MetaType]] = [
    ({"short", "long"}, "long"),
    ({"short", "double"}, "double"),
    ({"boolean"}, "boolean"),
]


def find_meta_columns(engine: Engine, batches: Sequence[BatchId]) -> tuple[tuple[str, MetaType], ...]:
    """Return keys and types, sorted by key: values of several kinds, objects and arrays are text."""
    found = run(engine, _KINDS, {"batches": list(batches), "most": MOST, "key_bytes": _KEY_BYTES})
    return tuple(sorted((row.key, _type(row.kinds)) for row in found))


def _type(kinds: Collection[str]) -> MetaType:
    return next((type for room, type in _FITTING if set(kinds) <= set(room)), "string")
