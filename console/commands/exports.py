"""`nightmill exports`: the exports there are, how far they are, and which are written while batches render."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from console.command_options import DontAsk, Json
from console.commands.check_export import check_export
from console.export_with_progress import further_columns, summed_up_copies
from console.session import Session, session
from console.terminal.confirm import ask
from console.terminal.output import note, print_json, print_table
from jobs.batches import actions
from jobs.db.engine import transact
from jobs.errors import UsageError
from jobs.exports import records
from jobs.exports.progress import Progress, progress_of
from jobs.exports.records import Export, File
from jobs.storage.key_layout import is_copy

exports = typer.Typer(
    help="The exports there are, and how far they are.",
    invoke_without_command=True,
    add_completion=False,
)

MOST_OF_REASON = 60

exports.command("check")(check_export)

Number = Annotated[int, typer.Argument(metavar="EXPORT", help="number of the export, as `exports` shows it")]


@exports.callback()
def list_exports(
    context: typer.Context,
    batch: Annotated[str | None, typer.Option(help="only those that hold this batch")] = None,
    as_json: Json = False,
) -> None:
    """Exports with their place, sealed shards and images; `show EXPORT` lists the shards."""
    if context.invoked_subcommand:
        return
    with session() as open_session:
        wanted = actions.status(open_session.engine, batch).id if batch else None
        found = [_report(open_session, export) for export in records.exports_of(open_session.engine, wanted)]
    if as_json:
        print_json(found)
        return
    columns = ("number", "dataset", "format", "sealed", "images", "state", "place")
    print_table(columns, [_cells(export) for export in found])


@exports.command()
def show(export: Number, as_json: Json = False) -> None:
    """The shards of an export: rows, version, whether it is sealed, images, files."""
    with session() as open_session:
        found = _get(open_session, export)
        shards = records.shards_of(open_session.engine, found.id)
        report = _report(open_session, found) | _columns(found)
    told: list[dict[str, Any]] = [
        {
            "number": shard.number,
            "batch": shard.batch_id,
            "rows": [shard.first_ordinal, shard.end_ordinal - 1],
            "version": shard.version,
            "sealed": shard.is_current,
            "images": shard.images,
            "counts": shard.counts,
            "cursor": shard.cursor,
            "written_at": shard.written_at and shard.written_at.isoformat(),
            "files": shard.files,
        }
        for shard in shards
    ]
    if as_json:
        print_json(report | {"shard_list": told})
        return
    if found.error is not None:
        note(f"waits: {found.error}")
    if report.get("further_columns"):
        note(further_columns(report["further_columns"]))
    print_table(
        ("shard", "rows", "version", "state", "images", "files"),
        [
            (
                shard["number"],
                "{:,} to {:,}".format(*shard["rows"]),
                shard["version"] or "",
                "sealed" if shard["sealed"] else "written" if shard["version"] else "waits",
                f"{shard['images']:,}",
                _names(shard["files"]),
            )
            for shard in told
        ],
    )


@exports.command()
def live(export: Number, as_json: Json = False) -> None:
    """Let schedulers write the export's shards as soon as their jobs have ended, and again when they change."""
    _set_live(export, as_json, is_live=True)


@exports.command()
def stop(export: Number, as_json: Json = False) -> None:
    """Let schedulers write it no more; `nightmill export` goes on with it."""
    _set_live(export, as_json, is_live=False)


@exports.command()
def forget(export: Number, yes: DontAsk = False, as_json: Json = False) -> None:
    """Forget an export; its files stay, and are nobody's from then on."""
    with session() as open_session:
        found = _get(open_session, export)
        if not yes:
            ask(f"forgets the export {found.id} of {found.name}; its files in {found.place} stay")
        transact(open_session.engine, lambda connection: records.delete(connection, found.id))
        report = _report(open_session, found)
    if as_json:
        print_json(report)
    else:
        note(f"forgot export {found.id}; its files stay in {found.place}")


def _columns(export: Export) -> dict[str, Any]:
    from scheduler.export.success_record import columns_report  # noqa: PLC0415 - imports pyarrow

    return columns_report(export)


def _names(files: Sequence[File]) -> str:
    named = [file["name"] for file in files if not is_copy(file["name"])]
    copies = summed_up_copies(files)
    return ", ".join([*named, *([copies] if copies else [])])


def _set_live(export: int, as_json: bool, *, is_live: bool) -> None:
    with session() as open_session:
        found = _get(open_session, export)
        records.make_live(open_session.engine, found.id, is_live=is_live)
        report = _report(open_session, _get(open_session, export))
    if as_json:
        print_json(report)
    else:
        writers = (
            "schedulers write what changes" if is_live else "`nightmill export` alone writes what changes"
        )
        note(f"export {found.id} of {found.name} is {report['state']}; {writers}")


def _get(open_session: Session, export: int) -> Export:
    found = records.get(open_session.engine, export)
    if found is None:
        raise UsageError(f"there is no export {export}: `nightmill exports` lists those there are")
    return found


def _report(open_session: Session, export: Export) -> dict[str, Any]:
    progress = progress_of(open_session.engine, export.id)
    return {
        "export": export.id,
        "name": export.name,
        "format": export.format,
        "options": dict(export.options),
        "place": export.place,
        "state": _state(export, progress),
        "is_live": export.is_live,
        "shards": progress.shards,
        "sealed": progress.sealed,
        "images": progress.images,
        "finished_at": export.finished_at and export.finished_at.isoformat(),
        "error": export.error,
    }


def _state(export: Export, progress: Progress) -> str:
    if progress.is_complete and export.finished is not None:
        return "complete"
    if export.error is not None:
        return "waiting"
    return "live" if export.is_live else "incomplete"


def _short(reason: str) -> str:
    """Return the beginning of a reason, which a table has room for; `exports show` and --json have all of it."""
    return reason if len(reason) <= MOST_OF_REASON else reason[:MOST_OF_REASON] + "…"


def _cells(export: dict[str, Any]) -> tuple[object, ...]:
    state = f"{export['state']}: {_short(export['error'])}" if export["error"] else export["state"]
    sealed = f"{export['sealed']:,} of {export['shards']:,}"
    return (
        export["export"],
        export["name"],
        export["format"],
        sealed,
        f"{export['images']:,}",
        state,
        export["place"],
    )
