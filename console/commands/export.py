"""`nightmill export`: write batches' image rows, and their images, as a dataset."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.command_options import Json
from console.export_with_progress import (
    export_options,
    export_with_progress,
    request_beside_images,
    summed_up_copies,
)
from console.session import Session, session
from console.terminal.output import note, plural, print_json, print_line
from jobs.batches import actions
from jobs.errors import UsageError
from jobs.exports.records import File
from jobs.storage.key_layout import is_copy
from scheduler.export.export_options import GivenOptions
from scheduler.export.export_request import ExportRequest
from scheduler.export.exporters import format_names
from scheduler.export.open_export import found_there

if TYPE_CHECKING:
    from scheduler.export.run_export import Exported

MOST_SHOWN = 100


def _known(format: str) -> str:
    if format not in format_names():
        raise typer.BadParameter(f"{format!r} is not one of {', '.join(map(repr, format_names()))}")
    return format


def export(
    batches: Annotated[list[str], typer.Argument(metavar="BATCH...", help="names or numbers of batches")],
    to: Annotated[
        str | None, typer.Option(help="folder or s3://…; default: beside the images of the batch")
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help=f"of the files: {', '.join(format_names())}", callback=_known)
    ] = "parquet",
    name: Annotated[str | None, typer.Option(help="of the dataset; default: the batch's")] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="NAME,…", help="of the rows, in this order; default: all")
    ] = None,
    meta_columns: Annotated[
        str | None,
        typer.Option(
            metavar="KEY:TYPE,…",
            help="columns of meta and their types (string, long, double, boolean); default: found",
        ),
    ] = None,
    partition_by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN,…",
            help="parquet: folders by meta.KEY, date or other columns: label=fox/date=2026-11-29/",
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help='only these images: "accepted and clip_score > 25"'),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME=SHARE,…", help="hf: train=.9,val=.1, by the rows' ids")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="hf: parquet (images in the files; the default) or imagefolder")
    ] = None,
    embed_images: Annotated[
        bool, typer.Option("--embed-images", help="jsonl, csv: the images, in base64")
    ] = False,
    copy_images: Annotated[
        bool, typer.Option("--copy-images", help="csv, jsonl, parquet: the image files, too, as _images/…")
    ] = False,
    catalog: Annotated[
        str | None,
        typer.Option(metavar="NAME|URI", help="iceberg: as pyiceberg knows it; default: nightmill's own"),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(metavar="NAMESPACE.NAME", help="iceberg: in the catalog; default: the dataset's"),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="write while the batch renders, until all is sealed")
    ] = False,
    require_complete: Annotated[
        bool, typer.Option("--require-complete", help="write nothing unless all jobs have ended")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="delete files there that have the names of an export's")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="write files of the export anew that you have changed since")
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="write all of it, with the columns that later versions have added")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write batches' image rows as a dataset, with `_SUCCESS` last; the same again writes what has changed."""
    given = GivenOptions(
        columns, meta_columns, partition_by, where, split, layout, embed_images, copy_images, catalog, table
    )
    with session() as open_session:
        request = _request(
            open_session, batches, to, format_, name, given, overwrite=overwrite, replace=replace
        )
        request = dataclasses.replace(request, anew=anew)
        remaining = sum(batch.remaining for batch in request.batches)
        if require_complete and remaining and not follow:
            note(f"{remaining:,} jobs of {request.dataset} are not finished: nothing is exported")
            raise typer.Exit(1)
        if overwrite:
            _announce(open_session, request)
        done = export_with_progress(open_session, request, follow=follow)
        remaining = sum(actions.status(open_session.engine, str(b.id)).remaining for b in request.batches)
    if as_json:
        print_json(_report(request, done, remaining))
        return
    shown = [file for file in done.files if not is_copy(file["name"])]
    for file in shown[:MOST_SHOWN]:
        print_line(f"{_place(request, file)}\t{_size(file)}")
    if copies := summed_up_copies(done.files):
        note(f"{copies} in {request.store.uri}/_images")
    if (more := len(shown) - MOST_SHOWN) > 0:
        note(f"and {more:,} files more: `nightmill exports show {done.id}`, or --json")
    if remaining:
        note(f"{plural(remaining, 'job')} of {request.dataset} not finished: export again later, or --follow")


def _request(
    open_session: Session,
    batches: list[str],
    to: str | None,
    format: str,
    name: str | None,
    given: GivenOptions,
    *,
    overwrite: bool,
    replace: bool,
) -> ExportRequest:
    found = [actions.status(open_session.engine, batch) for batch in dict.fromkeys(batches)]
    if len({batch.id for batch in found}) < len(found):
        raise UsageError("a batch is named twice")
    if to is None:
        if len(found) > 1 or name is not None:
            raise UsageError(
                "several batches as one dataset, or one with a --name, need a place of their own: --to"
            )
        return request_beside_images(
            open_session, found[0], format, given, overwrite=overwrite, replace=replace
        )
    store = open_session.store(to)
    options = export_options(open_session, found, format, given, (store.uri, ""), name)
    return ExportRequest(
        found, format, store, name=name or "", options=options, overwrite=overwrite, replace=replace
    )


def _report(request: ExportRequest, done: "Exported", remaining: int) -> dict[str, Any]:
    return {
        "export": done.id,
        "batch": request.dataset,
        "batches": [batch.name for batch in request.batches],
        "format": request.format,
        "folder": request.store.locate(request.prefix.rstrip("/")) if request.prefix else request.store.uri,
        "images": done.images,
        "shards": done.shards,
        "complete": done.is_complete,
        "remaining": remaining,
        "unfit": done.unfit,
        "unstamped": done.unstamped,
        "further_columns": done.further_columns,
        "files": [_place(request, file) for file in done.files],
        "index": [_place(request, file) for file in done.index],
    }


def _place(request: ExportRequest, file: File) -> str:
    return request.store.locate(request.prefix + file["name"])


def _size(file: File) -> str:
    rows = "" if file["rows"] is None else f"{file['rows']} rows\t"
    return f"{rows}{file['bytes']} bytes"


def _announce(open_session: Session, request: ExportRequest) -> None:
    """Name the files that an export with `--overwrite` deletes, and those that stay beside it."""
    there = found_there(open_session.engine, request)
    for name in there.in_the_way:
        note(f"deleting {request.store.locate(request.prefix + name)}")
    for name in there.others:
        note(
            f"{request.store.uri}/{request.prefix}{name} stays: readers of the folder may take it for a part of the "
            "export"
        )
