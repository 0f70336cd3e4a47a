"""`nightmill archive`: drop the jobs of an ended batch and keep its images."""

from console.command_options import Batch, DontAsk, Json
from console.session import session
from console.terminal.confirm import ask
from console.terminal.output import counted, note, print_json
from console.terminal.progress import counting
from jobs.batches import actions
from jobs.batches.drop_jobs_and_delete_batches import archive as archive_batch


def archive(batch: Batch, yes: DontAsk = False, as_json: Json = False) -> None:
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
