"""The content of `_SUCCESS`: the files of an export, counts, manifests, models and versions."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from sqlalchemy import Engine, text

from jobs.batches.accepted_image_quotas import shortfall
from jobs.batches.actions import BatchStatus, status
from jobs.db.engine import run
from jobs.exports.records import Export, ShardRecord
from jobs.exports.shard_rfc3161_time_stamps import timestamp_of
from jobs.images.where_expression import Condition, chosen_by
from jobs.job_dataclasses import BatchId
from jobs.outputs import export_inventory
from jobs.outputs.export_inventory import ExportPlace
from scheduler.export.columns_of_resumed_export import columns_of

_MODELS = """
    SELECT model, model_revision AS revision, model_digest AS digest, count(*) AS images
    FROM images i JOIN batches b ON b.id = batch_id
    WHERE batch_id = ANY (CAST(:batches AS bigint[])) AND {condition} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
_MANIFESTS = text("""
    SELECT name, manifest, manifest_sha256 FROM batches WHERE id = ANY (CAST(:batches AS bigint[])) ORDER BY id
""")


def success_record(
    engine: Engine,
    place: ExportPlace,
    export: Export,
    shards: Sequence[ShardRecord],
    files: Sequence[dict[str, Any]],
    table: dict[str, Any] | None = None,
) -> bytes:
    """Return the record; `files` are those of the whole dataset, `table` is what a table format reports."""
    batches = batches_of(shards)
    found = [status(engine, str(batch)) for batch in batches]
    values = {"batches": batches}
    return export_inventory.record_of(
        place,
        [*shard_files(shards), *files],
        export=export.id,
        batches=[dict(row._mapping) for row in run(engine, _MANIFESTS, values)],
        format=export.format,
        options=dict(export.options),
        complete=all(shard.is_current for shard in shards),
        images=sum(shard.images for shard in shards),
        counts=_summed(found),
        rejected=sum(batch.rejected for batch in found),
        short=_short(engine, batches),
        cursor=_first_cursor(shards),
        exported_at=datetime.now(UTC).isoformat(timespec="seconds"),
        nightmill=version("nightmill"),
        models=_models(engine, batches, chosen_by(export.options.get("where"))),
        shards=[shard_report(shard) for shard in shards],
        **columns_report(export),
        **({} if table is None else {"table": table}),
    )


def _models(engine: Engine, batches: Sequence[BatchId], condition: Condition) -> list[dict[str, Any]]:
    """Return the models of the images that meet a condition, with how many images of each."""
    query = text(_MODELS.format(condition=condition.sql))
    return [dict(row._mapping) for row in run(engine, query, {"batches": batches, **condition.values})]


def _short(engine: Engine, batches: Sequence[BatchId]) -> dict[str, int] | None:
    """Return what the batches lack of their targets; None if none has a target, or their jobs are archived."""
    lacking = [found.report() for batch in batches if (found := shortfall(engine, batch)) is not None]
    return {key: sum(each[key] for each in lacking) for key in lacking[0]} if lacking else None


def _summed(batches: Sequence[BatchStatus]) -> dict[str, int]:
    return {state: sum(batch.counts[state] for batch in batches) for state in batches[0].counts}


def _first_cursor(shards: Sequence[ShardRecord]) -> str | None:
    """Return the smallest cursor: a reader of the feed who goes on from it misses no image that no shard holds."""
    cursors = [shard.cursor for shard in shards if shard.cursor is not None]
    return min(cursors, key=lambda cursor: [int(part) for part in cursor.split("-")], default=None)


def columns_report(export: Export) -> dict[str, Any]:
    """Return what records tell of the columns, of formats without a table: `further_columns` are in no file."""
    found = columns_of(export)
    return {} if found is None else {"columns": found.kept, "further_columns": found.further}


def shard_report(shard: ShardRecord) -> dict[str, Any]:
    """Return what records tell of a shard; `timestamp` is there if it has one."""
    stamp = timestamp_of(shard)
    return {
        "number": shard.number,
        "version": shard.version,
        "sealed": shard.is_current,
        "images": shard.images,
        "counts": dict(shard.counts),
        "cursor": shard.cursor,
        "files": [file["name"] for file in shard.files],
        **({} if stamp is None else {"timestamp": dict(stamp)}),
    }


def shard_files(shards: Sequence[ShardRecord]) -> list[dict[str, Any]]:
    """Return what records tell of the shards' files, of those of several shards once."""
    found = {file["name"]: file for shard in shards for file in shard.files}
    return [
        {name: value for name, value in file.items() if name != "content_type"} for file in found.values()
    ]


def batches_of(shards: Sequence[ShardRecord]) -> list[BatchId]:
    """Return the batches of shards in their order."""
    return list(dict.fromkeys(shard.batch_id for shard in shards))
