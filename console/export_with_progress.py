"""Export batches, as `export`, `run` and `submit` do, with a progress counter."""

from collections.abc import Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

from console.session import Session
from console.terminal.output import note, plural
from console.terminal.progress import counting
from jobs.batches.actions import BatchStatus, status
from jobs.exports import records
from jobs.exports.records import Export, File
from jobs.exports.shard_claims import LEASE_S
from jobs.job_dataclasses import BatchId
from jobs.storage.key_layout import SIDECAR, export_folder, is_copy
from jobs.storage.open import ObjectStore
from scheduler.export.export_options import ExportOptions, GivenOptions
from scheduler.export.export_request import ExportRequest, dataset_name
from scheduler.export.exporters import exporter_of
from scheduler.export.open_export import open_export
from scheduler.export.rfc3161_time_stamps.authority_client import TimeStampAuthority

if TYPE_CHECKING:
    from scheduler.export.rows.unfit_values import Report
    from scheduler.export.run_export import Exported


def check_formats(formats: Sequence[str] | None) -> None:
    """Raise UsageError if one of the formats that a batch is to be exported in isn't there."""
    for name in formats or ():
        exporter_of(name)


def open_live_exports(open_session: Session, batch: BatchStatus, formats: Sequence[str]) -> None:
    """Let schedulers export a batch in these formats beside its images, while it renders."""
    for name in dict.fromkeys(formats):
        opened = open_export(open_session.engine, request_beside_images(open_session, batch, name))
        records.make_live(open_session.engine, opened.id, is_live=True)
        note(f"{batch.name} is exported as {name} while it renders: `nightmill exports --batch {batch.name}`")


def exports_beside_images(open_session: Session, batch: BatchStatus) -> dict[str, Export]:
    """Return the exports in the batch's folder by their formats."""
    found = records.exports_of(open_session.engine, batch.id)
    return {
        export.format: export
        for export in found
        if export.prefix == export_folder(batch.folder, export.format)
    }


def update_beside_images(open_session: Session, batch: BatchStatus, formats: Sequence[str]) -> dict[str, str]:
    """Write exports in these formats into the batch's folder, with the options of the one that is there, if any.

    Returns where they are, by format.
    """
    there, places = exports_beside_images(open_session, batch), {}
    for name in dict.fromkeys(formats):
        options = ExportOptions.model_validate(there[name].options) if name in there else None
        request = request_beside_images(open_session, batch, name, options=options)
        export_with_progress(open_session, request)
        places[name] = request.store.locate(request.prefix.rstrip("/"))
    return places


def request_beside_images(
    open_session: Session,
    batch: BatchStatus,
    format: str,
    given: GivenOptions | None = None,
    *,
    options: ExportOptions | None = None,
    overwrite: bool = False,
    replace: bool = False,
) -> ExportRequest:
    """Return the request for an export into the batch's own folder, which is claimed. Raises ForeignOutputError.

    Its options are `options`, or else follow from those given.
    """
    store, prefix = open_session.claimed_store(batch), export_folder(batch.folder, format)
    if options is None:
        options = export_options(open_session, [batch], format, given or GivenOptions(), (store.uri, prefix))
    return ExportRequest(
        [batch], format, store, prefix, options=options, overwrite=overwrite, replace=replace
    )


def export_options(
    open_session: Session,
    batches: Sequence[BatchStatus],
    format: str,
    given: GivenOptions,
    place: tuple[str, str],
    name: str | None = None,
) -> ExportOptions:
    """Return the options of an export to a place: the URI of a store and a prefix. Raises UsageError.

    `name` is the dataset's, if it isn't the batches'.
    """
    from scheduler.export.parse_export_options import parse_export_options  # noqa: PLC0415 - imports pyarrow

    ids = [batch.id for batch in batches]
    dataset = name or dataset_name(batches)
    return parse_export_options(open_session.engine, ids, format, given, place, dataset)


def export_with_progress(
    open_session: Session, request: ExportRequest, *, follow: bool = False
) -> "Exported":
    """Write the export and return what it holds; errors are those of `scheduler.export.run_export.export`."""
    from scheduler.export.run_export import export  # noqa: PLC0415 - imports pyarrow

    authority = TimeStampAuthority.of_settings(open_session.settings)
    with counting("exporting", things="images") as tell:
        rows, changed = 0, dict[str, bool]()

        def on_rows(more: int) -> None:
            nonlocal rows
            rows += more
            tell(rows)

        @cache  # told once
        def on_wait() -> None:
            note(
                "another process is writing the rest of it: waiting for that, or, if the process is gone, for "
                f"the end of its claim, {LEASE_S:.0f} s at most"
            )

        done = export(
            open_session.engine,
            request,
            partial(_open_batch, open_session),
            on_rows,
            follow=follow,
            models_dir=open_session.settings.models_dir,
            authority=authority,
            on_changed=changed.__setitem__,
            on_wait=on_wait,
        )
    for name, is_replaced in changed.items():
        now = (
            "written anew"
            if is_replaced
            else "left so: its checksum no longer fits; --replace writes it anew"
        )
        note(f"{request.store.locate(request.prefix + name)} had been changed, and was {now}")
    _tell_unfit(request, done.unfit)
    _tell_unstamped(request, done)
    if done.further_columns:
        note(f"export {done.id} {further_columns(done.further_columns)}")
    return done


def summed_up_copies(files: Sequence[File]) -> str:
    """Say how many copies of images are among the files of an export, and of manifests beside them; "" for none."""
    copies = {file["name"] for file in files if is_copy(file["name"])}
    manifests = sum(name.endswith(f".{SIDECAR}") for name in copies)
    beside = f" and {plural(manifests, 'manifest')} beside them" if manifests else ""
    return f"{plural(len(copies) - manifests, 'image file')}{beside}" if copies else ""


def further_columns(names: Sequence[str]) -> str:
    """Say of an export that this version knows columns that it was begun without."""
    return (
        f"keeps the columns that it was begun with: {', '.join(names)} {'is' if len(names) == 1 else 'are'} new since; "
        "`nightmill export … --anew` writes all of it again, with every column"
    )


def _tell_unfit(request: ExportRequest, unfit: "Report") -> None:
    """Say which columns have no room for values that are in the rows."""
    types = dict(request.options.meta_columns)
    for column, found in unfit.items():
        type_ = types.get(column.removeprefix("meta."), "double")
        row = found["row_id"] if found["row_id"] is not None else f"number {found['ordinal']}"
        note(
            f"{plural(found['values'], 'value')} of {column} not of its type, {type_}: null in the export; the first "
            f"is in row {row}. Columns of JSON, such as `meta`, have the value; --meta-columns gives other types"
        )


def _tell_unstamped(request: ExportRequest, done: "Exported") -> None:
    if done.unstamped and done.stamp_error:
        note(
            f"{plural(done.unstamped, 'shard')} of {request.dataset} without a time stamp: {done.stamp_error}; the "
            "same again asks for it once more"
        )


def _open_batch(open_session: Session, batch: BatchId) -> ObjectStore:
    return open_session.batch_store(status(open_session.engine, str(batch)))
