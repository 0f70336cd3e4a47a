"""`nightmill delete`: take an ended batch out of the tables."""

from typing import Annotated

import typer

from console.command_options import Batch, DontAsk, Json
from console.session import session
from console.terminal.confirm import ask
from console.terminal.output import counted, note, print_json
from console.terminal.progress import counting
from jobs.batches import actions
from jobs.batches.drop_jobs_and_delete_batches import delete as delete_batch
from scheduler.export.tables.drop_tables import drop_tables_beside_images


def delete(
    batch: Batch,
    files: Annotated[bool, typer.Option("--files", help="its images, export and contact sheet too")] = False,
    yes: DontAsk = False,
    as_json: Json = False,
) -> None:
    """Forget an ended batch: jobs, image rows, rejected rows, and with --files its images, export, contact sheet."""
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        what = f"{found.name} ({counted(found.counts) or 'no jobs'})"
        if files:
            what += f" and its files in {found.output}/{found.folder}"
        if not yes:
            ask(f"deletes {what}")
        store = open_session.batch_store(found) if files else None
        with counting("deleting", None, "rows") as tell:
            rows = delete_batch(
                open_session.engine,
                found,
                store,
                tell,
                before_files=lambda files: drop_tables_beside_images(open_session.engine, files, found),
            )
        stayed = list(store.names(found.folder)) if store else []
    if as_json:
        print_json(
            {"batch": found.id, "name": found.name, "deleted_rows": rows, "files": files, "stayed": stayed}
        )
    note(f"{what} deleted")
    if stayed:
        note(f"{len(stayed):,} files that nightmill didn't write stay in {found.output}: {_some(stayed)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
