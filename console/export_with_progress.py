"""Export batches, as `export` and `run` do, with a progress counter."""

from functools import partial

from console.session import Session
from console.terminal.progress import counting
from jobs.batches.actions import BatchStatus, status
from jobs.job_dataclasses import BatchId
from jobs.storage.key_layout import export_folder
from jobs.storage.open import ObjectStore
from scheduler.export.export_options import ExportOptions
from scheduler.export.export_order import ExportOrder
from scheduler.export.run_export import Exported, export


def order_beside_images(
    open_session: Session, batch: BatchStatus, format: str, options: ExportOptions | None = None
) -> ExportOrder:
    """Return the order of an export into the batch's own folder, which is claimed. Raises ForeignOutputError."""
    return ExportOrder(
        [batch],
        format,
        open_session.claimed_store(batch),
        export_folder(batch.name, format),
        options=options or ExportOptions(),
    )


def export_with_progress(open_session: Session, order: ExportOrder, *, follow: bool = False) -> Exported:
    """Write the export and return what it holds; errors are those of `scheduler.export.run_export.export`."""
    with counting("exporting", things="images") as tell:
        rows = 0

        def on_rows(more: int) -> None:
            nonlocal rows
            rows += more
            tell(rows)

        return export(open_session.engine, order, partial(_open_batch, open_session), on_rows, follow=follow)


def _open_batch(open_session: Session, batch: BatchId) -> ObjectStore:
    return open_session.batch_store(status(open_session.engine, str(batch)))
