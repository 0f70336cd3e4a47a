"""The columns that a Hive-partitioned export is divided by: their names, types and values in the names of folders."""

from collections.abc import Sequence

import pyarrow as pa
from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.errors import UsageError
from jobs.images.insert_and_public_columns import public_columns
from jobs.images.where_expression import ALL, VERDICTS, compile_condition
from jobs.job_dataclasses import BatchId
from jobs.storage.hive_folder_names import COLUMN, partition_folder
from scheduler.export.export_options import ExportOptions
from scheduler.export.image_arrow_schema import JSON_COLUMNS
from scheduler.export.rows.export_columns import ExportColumns, export_schema
from scheduler.export.rows.unfit_values import Report

MOST = 1_024
"""Partitions that an export may have: each shard has a file for each of its own."""
_MOST_BYTES = 800
"""Length of all folders' names together: keys of S3 have room for 1,024 bytes."""

_META = "meta."
_DERIVED = {
    "date": "(i.created_at AT TIME ZONE 'UTC')::date",
    "nsfw_content_detected": "(i.safety_verdict <> 'safe')",
}


class PartitionColumns:
    """Finds the folder of each image row by the options of an export. Raises UsageError for a value without room."""

    def __init__(self, options: ExportOptions) -> None:
        self._columns = ExportColumns(
            options.model_copy(update={"columns": options.partition_by, "partition_by": ()})
        )
        found = self._columns.schema
        self.schema = pa.schema([field.with_name(folder_column(options, field.name)) for field in found])
        """The columns as readers get them from the names of folders."""

    def folders(self, images: pa.RecordBatch) -> list[str]:
        """Return the folder of each image row, without a slash at its end: `label=fox/date=2026-11-29`."""
        columns = [column.to_pylist() for column in self._columns.of(images).columns]
        names = self.schema.names
        known: dict[tuple[object, ...], str] = {}
        folders = []
        for values in zip(*columns, strict=True):
            if values not in known:
                known[values] = _path(names, values)
            folders.append(known[values])
        return folders

    @property
    def unfit(self) -> Report:
        """The values that have no room in their column's type, whose rows are in the folder of null."""
        return self._columns.unfit.report

    def nowhere(self) -> str:
        """Return the folder of rows that have none of the columns."""
        return _path(self.schema.names, [None] * len(self.schema))


def folder_column(options: ExportOptions, name: str) -> str:
    """Return a column's name in the names of folders: `label` for `meta.label`, unless a column is called so."""
    short = name.removeprefix(_META)
    return name if short in export_schema(options).names else short


def check_partition_columns(options: ExportOptions) -> None:
    """Raise UsageError if the export can't be divided by these columns."""
    schema = export_schema(options)
    for name in options.partition_by:
        if name not in schema.names:
            hint = f": --meta-columns {name.removeprefix(_META)}:string" if name.startswith(_META) else ""
            raise UsageError(f"--partition-by: there is no column {name!r}{hint}")
        if schema.field(name).type == pa.timestamp("us", tz="UTC"):
            raise UsageError(f"--partition-by {name}: moments make too many partitions; take date")
        if name in JSON_COLUMNS or _sql(name) is None:
            raise UsageError(
                f"--partition-by {name}: take keys of meta, date, or columns of image rows with one value"
            )
        if not COLUMN.fullmatch(folder_column(options, name)):
            raise UsageError(
                f"--partition-by {name}: in the names of folders, columns have A-Z a-z 0-9 . _ - only, and begin with "
                "a letter or digit"
            )
    if len(set(options.partition_by)) < len(options.partition_by):
        raise UsageError("--partition-by names a column twice")
    if options.partition_by and not ExportColumns(options).schema.names:
        raise UsageError("--columns leaves the files no column beside those of --partition-by")


def check_number_of_partitions(engine: Engine, batches: Sequence[BatchId], options: ExportOptions) -> None:
    """Raise UsageError if the images that there are, and are exported, would be in too many partitions."""
    if not options.partition_by:
        return
    named = ", ".join(f"{_sql(name)} AS c{number}" for number, name in enumerate(options.partition_by))
    keys = {_parameter(name): name.removeprefix(_META) for name in options.partition_by}
    chosen = compile_condition(options.where, VERDICTS) if options.where else ALL
    query = f"""
        SELECT count(*) AS n FROM (
            SELECT DISTINCT {named} FROM images i JOIN batches b ON b.id = i.batch_id
            WHERE i.batch_id = ANY (CAST(:batches AS bigint[])) AND {chosen.sql}) AS found
    """  # noqa: S608 - of our own columns and parameters
    ((found,),) = run(engine, text(query), keys | {"batches": list(batches), **chosen.values})
    require_few_partitions(options, found, "the images")


def require_few_partitions(options: ExportOptions, count: int, what: str) -> None:
    """Raise UsageError if something has more partitions than an export may have."""
    if count > MOST:
        raise UsageError(
            f"--partition-by {','.join(options.partition_by)}: {what} would be in {count:,} partitions, and at most "
            f"{MOST:,} are written: take columns with fewer values"
        )


def _path(names: Sequence[str], values: Sequence[object]) -> str:
    path = "/".join(partition_folder(name, _text(value)) for name, value in zip(names, values, strict=True))
    if len(path) > _MOST_BYTES:
        raise UsageError(
            f"can't partition by {', '.join(names)}: the path {path[:60]}… has {len(path):,} bytes, and {_MOST_BYTES} "
            "have room; take fewer columns, or some with shorter values"
        )
    return path


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)


def _sql(name: str) -> str | None:
    """Return the SQL of a column of the image `i`; None for columns that nothing can be divided by."""
    if name.startswith(_META):
        return f"(i.meta ->> CAST(:{_parameter(name)} AS text))"
    return _DERIVED.get(name) or next((c.sql for c in public_columns() if c.name == name), None)


def _parameter(name: str) -> str:
    return "key_" + name.encode().hex()
