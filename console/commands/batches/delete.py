"""`nightmill delete`: take ended batches out of the tables."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import typer

from console.command_options import DontAsk, Json
from console.command_options_from_dataclass import takes
from console.session import Session
from console.several_batches.batch_selection_options import BatchSelection, batches_said
from console.several_batches.change_each_batch import BatchCommand, change_batches
from console.terminal.output import counted, note, plural
from console.terminal.progress import counting
from jobs.batches.drop_jobs_and_delete_batches import delete as delete_batch
from jobs.batches.drop_jobs_and_delete_batches import why_not_ended
from jobs.batches.status import BatchStatus
from jobs.suggest_names_and_shorten_lists import some_of
from scheduler.export.tables.drop_tables import drop_tables_beside_images


@takes(BatchSelection)
def delete(
    selection: BatchSelection,
    files: Annotated[
        bool, typer.Option("--files", help="their images, exports and contact sheets too")
    ] = False,
    yes: DontAsk = False,
    as_json: Json = False,
) -> None:
    """Forget ended batches: jobs, image rows, rejected rows, and with --files images, exports, contact sheets."""
    command = BatchCommand(
        done="deleted",
        change=partial(_delete, files=files, ended_before_s=selection.filter().ended_before_s),
        can=lambda _: True,
        why_not=why_not_ended,
        question=lambda chosen: f"deletes {_said(chosen, selection, files)}",
    )
    change_batches(selection, command, as_json=as_json, yes=yes)


def _delete(
    open_session: Session, found: BatchStatus, *, files: bool, ended_before_s: float | None
) -> dict[str, Any]:
    store = open_session.batch_store(found) if files else None
    with counting(f"deleting {found.name}", None, "rows") as tell:
        rows = delete_batch(
            open_session.engine,
            found,
            store,
            tell,
            before_files=lambda files: drop_tables_beside_images(open_session.engine, files, found),
            ended_before_s=ended_before_s,
        )
    stayed = list(store.names(found.folder)) if store else []
    note(f"{_one(found, files)} deleted")
    if stayed:
        note(
            f"{plural(len(stayed), 'file')} not written by nightmill left in {found.output}: {some_of(stayed, 5)}"
        )
    return {"batch": found.id, "name": found.name, "deleted_rows": rows, "files": files, "stayed": stayed}


def _said(chosen: Sequence[BatchStatus], selection: BatchSelection, files: bool) -> str:
    if selection.is_one:
        return _one(chosen[0], files)
    return batches_said(chosen) + (" and their files" if files else "")


def _one(found: BatchStatus, files: bool) -> str:
    what = f"{found.name} ({counted(found.counts) or 'no jobs'})"
    return f"{what} and its files in {found.output}/{found.folder}" if files else what
