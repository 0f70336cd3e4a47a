"""Drops the tables of exports whose files are about to be deleted, with the batch or after it was moved."""

from sqlalchemy import Engine

from jobs.batches.status import BatchStatus
from jobs.exports import records
from jobs.exports.records import Export
from jobs.storage.base import ObjectStore
from models.optional_packages import require
from scheduler.export.export_options import ExportOptions
from scheduler.export.tables.export_table import ExportTable, TablePlace


def drop_tables_beside_images(engine: Engine, store: ObjectStore, batch: BatchStatus) -> None:
    """Drop the tables of the exports that lie in the batch's folder of this store, as the database says."""
    for export in records.exports_of(engine, batch.id):
        is_there = export.output == store.uri and export.prefix.startswith(f"{batch.folder}/")
        if is_there and (table := table_in_catalog(engine, store, export)) is not None:
            table.drop()


def table_in_catalog(engine: Engine, store: ObjectStore, export: Export) -> ExportTable | None:
    """Return the table of an export in a catalog, to drop it; None if its format has none.

    Raises MissingPackagesError without the extra.
    """
    if export.format != "iceberg":
        return None
    require("iceberg", f"the table of export {export.id} needs")
    from scheduler.export.tables.iceberg_table import IcebergTable  # noqa: PLC0415 - of an extra, and slow to import

    options = ExportOptions.model_validate(export.options)
    return IcebergTable(TablePlace(engine, store, export), options)
