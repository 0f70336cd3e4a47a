"""`nightmill archive`: drop the jobs of ended batches and keep their images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import typer

from console.command_options import DontAsk, Json
from console.command_options_from_dataclass import takes
from console.session import Session
from console.several_batches.batch_selection_options import BatchSelection, batches_said
from console.several_batches.change_each_batch import BatchCommand, change_batches
from console.terminal.output import counted, note
from console.terminal.progress import counting
from jobs.batches.drop_jobs_and_delete_batches import archive as archive_batch
from jobs.batches.drop_jobs_and_delete_batches import why_not_ended
from jobs.batches.status import BatchStatus, status_by_id


@dataclass(frozen=True, kw_only=True)
class ArchiveSelection(BatchSelection):
    """The batches to archive; the age may be given by the option's former name."""

    ended_before: Annotated[
        str | None,
        typer.Option(
            "--ended-before", "--older-than", metavar="AGE", help="that ended this long ago: 30d, 12h"
        ),
    ] = None


@takes(ArchiveSelection)
def archive(selection: ArchiveSelection, yes: DontAsk = False, as_json: Json = False) -> None:
    """Drop ended batches' jobs and keep counts, image rows and files; nothing of them can be queued again."""
    command = BatchCommand(
        done="archived",
        change=partial(_archive, ended_before_s=selection.filter().ended_before_s),
        can=lambda _: True,
        has_jobs=True,
        why_not=why_not_ended,
        question=lambda chosen: f"drops the jobs of {_said(chosen, selection)}",
    )
    change_batches(selection, command, as_json=as_json, yes=yes)


def _archive(open_session: Session, found: BatchStatus, *, ended_before_s: float | None) -> dict[str, Any]:
    with counting(f"archiving {found.name}", sum(found.counts.values()), "jobs") as tell:
        jobs = archive_batch(open_session.engine, found, tell, ended_before_s=ended_before_s)
    note(f"{found.name} is archived: {jobs:,} jobs dropped, {found.counts['done']:,} images stay")
    return status_by_id(open_session.engine, found.id).report() | {"archived_jobs": jobs}


def _said(chosen: Sequence[BatchStatus], selection: BatchSelection) -> str:
    if selection.is_one:
        return f"{chosen[0].name} ({counted(chosen[0].counts) or 'no jobs'})"
    return batches_said(chosen)
