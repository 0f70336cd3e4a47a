"""`nightmill export`: write a batch's image rows as files."""

from typing import Annotated

import typer

from console.command_options import Batch, Json
from console.export_with_progress import export_rows
from console.session import session
from console.terminal.output import note, print_json, print_line
from jobs.batches import actions
from jobs.outputs.export_inventory import Found
from jobs.storage.open import ObjectStore
from scheduler.export.exporters import format_names
from scheduler.export.metadata_export import found_there


def _known(format: str) -> str:
    if format not in format_names():
        raise typer.BadParameter(f"{format!r} is not one of {', '.join(map(repr, format_names()))}")
    return format


def export(
    batch: Batch,
    to: Annotated[
        str | None, typer.Option(help="folder or s3://…; default: export/ beside the images")
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help=f"of the files: {', '.join(format_names())}", callback=_known)
    ] = "parquet",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="delete files there that have the names of an export's")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a batch's image rows as files, with `_SUCCESS` last."""
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        store = open_session.store(to) if to else open_session.claimed_store(found)
        prefix = "" if to else f"{found.name}/export/"
        if overwrite:
            _announce(store, prefix, found_there(open_session.engine, found, store, prefix))
        files = export_rows(open_session.engine, found, format_, store, prefix, overwrite=overwrite)
    places = [store.locate(prefix + file.name) for file in files]
    if as_json:
        images = sum(file.rows for file in files)
        told = {"batch": found.name, "format": format_, "images": images, "remaining": found.remaining}
        print_json(told | {"files": places})
        return
    for place, file in zip(places, files, strict=True):
        print_line(f"{place}\t{file.rows} rows\t{file.bytes} bytes")
    if found.remaining:
        note(f"{found.remaining:,} jobs of {found.name} are not finished: export again later")


def _announce(store: ObjectStore, prefix: str, there: Found) -> None:
    """Name the files that an export with `--overwrite` deletes, and those that stay beside it."""
    for name in there.in_the_way:
        note(f"deleting {store.locate(prefix + name)}")
    for name in there.others:
        note(f"{store.uri}/{prefix}{name} stays: readers of the folder may take it for a part of the export")
