"""Export a batch's image rows, as `export` and `run` do, with a progress counter."""

from sqlalchemy import Engine

from console.terminal.progress import counting
from jobs.batches.actions import BatchStatus
from jobs.storage.open import ObjectStore
from scheduler.export.metadata_export import ExportedFile, export


def export_rows(
    engine: Engine,
    batch: BatchStatus,
    format: str,
    store: ObjectStore,
    prefix: str,
    *,
    overwrite: bool = False,
) -> list[ExportedFile]:
    """Write the batch's image rows to the store and return the files; errors are those of the export."""
    with counting("exporting") as tell:
        count = iter(range(1, 10**12))
        return export(engine, batch, format, store, prefix, lambda _: tell(next(count)), overwrite=overwrite)
