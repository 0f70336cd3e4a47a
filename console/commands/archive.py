"""`nightmill archive` and `nightmill delete`: remove ended batches from the database."""

from typing import Annotated

import typer

from console.command_options import Json
from console.commands.batches import Batch
from console.session import session
from console.terminal.confirm import ask
from console.terminal.output import counted, note, print_json
from console.terminal.progress import counting
from jobs.batches import actions
from jobs.batches.archive import archive as archive_batch
from jobs.batches.archive import delete as delete_batch

Yes = Annotated[bool, typer.Option("--yes", "-y", help="don't ask")]


def archive(batch: Batch, yes: Yes = False, as_json: Json = False) -> None:
    """Drop the jobs of an ended batch and keep its counts, image rows and files; nothing of it can be queued again."""
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        if not yes:
            ask(f"drops the jobs of {found.name} ({counted(found.counts) or 'no jobs'})")
        with counting("archiving", sum(found.counts.values()), "jobs") as tell:
            jobs = archive_batch(open_session.engine, found, tell)
        after = actions.status(open_session.engine, found.name)
    if as_json:
        print_json(after.report() | {"archived_jobs": jobs})
    note(f"{found.name} is archived: {jobs:,} jobs dropped, {found.counts['done']:,} images stay")


def delete(
    batch: Batch,
    files: Annotated[bool, typer.Option("--files", help="its images, export and contact sheet too")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Forget an ended batch: jobs, image rows, rejected rows, and with --files its images, export, contact sheet."""
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        what = f"{found.name} ({counted(found.counts) or 'no jobs'})"
        if files:
            what += f" and its files in {found.output}/{found.name}"
        if not yes:
            ask(f"deletes {what}")
        store = open_session.batch_store(found) if files else None
        with counting("deleting", None, "rows") as tell:
            rows = delete_batch(open_session.engine, found, store, tell)
        stayed = list(store.names(found.name)) if store else []
    if as_json:
        print_json(
            {"batch": found.id, "name": found.name, "deleted_rows": rows, "files": files, "stayed": stayed}
        )
    note(f"{what} deleted")
    if stayed:
        note(f"{len(stayed):,} files that nightmill didn't write stay in {found.output}: {_some(stayed)}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
