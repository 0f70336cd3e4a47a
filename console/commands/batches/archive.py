"""`nightmill archive`: drop the jobs of ended batches and keep their images."""

from typing import Annotated

import typer

from console.command_options import DontAsk, Json, seconds
from console.session import session
from console.terminal.confirm import ask
from console.terminal.output import counted, note, plural, print_json, print_line
from console.terminal.progress import counting
from jobs.batches import actions
from jobs.batches.drop_jobs_and_delete_batches import archive as archive_batch
from jobs.batches.drop_jobs_and_delete_batches import ended_before
from jobs.batches.status import BatchStatus
from jobs.errors import UsageError


def archive(
    batch: Annotated[str | None, typer.Argument(help="name or number of a batch")] = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="all batches that ended this long ago: 30d, 12h")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="with --older-than: drop nothing, say what would go")
    ] = False,
    yes: DontAsk = False,
    as_json: Json = False,
) -> None:
    """Drop the jobs of an ended batch and keep its counts, image rows and files; nothing of it can be queued again."""
    age_s = seconds("--older-than", older_than, needs_unit=True)
    if (batch is None) == (age_s is None):
        raise UsageError("name a batch, or say --older-than AGE for all that ended that long ago")
    if batch is not None and dry_run:
        raise UsageError("--dry-run goes with --older-than")
    if batch is not None:
        _archive_one(batch, yes, as_json)
    elif age_s is not None:
        _archive_older(age_s, dry_run, yes, as_json)


def _archive_one(batch: str, yes: bool, as_json: bool) -> None:
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


def _archive_older(age_s: float, dry_run: bool, yes: bool, as_json: bool) -> None:
    with session() as open_session:
        ids = ended_before(open_session.engine, age_s)
        chosen = [found for found in actions.statuses(open_session.engine) if found.id in ids] if ids else []
        jobs = {found.name: sum(found.counts.values()) for found in chosen}
        if chosen and not (yes or dry_run):
            ask(f"drops the jobs of {plural(len(chosen), 'batch', 'batches')} ({', '.join(jobs)})")
        for found in [] if dry_run else chosen:
            try:
                with counting(f"archiving {found.name}", jobs[found.name], "jobs") as tell:
                    jobs[found.name] = archive_batch(open_session.engine, found, tell)
            except UsageError as error:  # somebody has queued jobs of it again meanwhile
                del jobs[found.name]
                note(str(error))
    _print_older([found for found in chosen if found.name in jobs], jobs, dry_run, as_json)


def _print_older(archived: list[BatchStatus], jobs: dict[str, int], dry_run: bool, as_json: bool) -> None:
    if as_json:
        listed = [{"batch": found.id, "name": found.name, "jobs": jobs[found.name]} for found in archived]
        print_json({"dry_run": dry_run, "jobs": sum(jobs.values()), "batches": listed})
        return
    for found in archived:
        print_line(f"{found.name}\t{jobs[found.name]} jobs")
    verb = "would be archived" if dry_run else "archived"
    note(f"{plural(len(archived), 'batch', 'batches')} {verb}, {sum(jobs.values()):,} jobs")
