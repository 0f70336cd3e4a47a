"""Commands that change batches' jobs: pause, resume, cancel, retry."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from console.command_options import DontAsk, Json, one_of
from console.options_from_dataclass import takes
from console.session import Session
from console.several_batches.change_each import BatchCommand, change_batches, has_open_jobs
from console.several_batches.selection_options import BatchSelection, batches_said
from console.terminal.output import note, plural
from console.terminal.progress import summary
from jobs.batches import actions
from jobs.batches.status import BatchStatus, status_by_id
from jobs.errors import UsageError
from jobs.states import RETRYABLE, BatchState, ErrorKind, JobState


@takes(BatchSelection)
def pause(selection: BatchSelection, as_json: Json = False) -> None:
    """Stop claiming jobs of batches; workers finish the device batch that they are at."""

    def apply(open_session: Session, found: BatchStatus) -> dict[str, Any]:
        actions.pause(open_session.engine, found.id)
        return told_state(open_session, found, as_json)

    def can(found: BatchStatus) -> bool:
        return has_open_jobs(found) and found.state != BatchState.CANCELLED

    change_batches(selection, BatchCommand(done="paused", change=apply, can=can), as_json=as_json)


@takes(BatchSelection)
def resume(selection: BatchSelection, as_json: Json = False) -> None:
    """Go on with paused batches."""

    def apply(open_session: Session, found: BatchStatus) -> dict[str, Any]:
        actions.resume(open_session.engine, found.id)
        return told_state(open_session, found, as_json)

    def can(found: BatchStatus) -> bool:
        return found.state == BatchState.PAUSED

    change_batches(selection, BatchCommand(done="resumed", change=apply, can=can), as_json=as_json)


@takes(BatchSelection)
def cancel(selection: BatchSelection, yes: DontAsk = False, as_json: Json = False) -> None:
    """End all jobs of batches that aren't finished; finished images stay. Asks if that is more than one batch."""

    def apply(open_session: Session, found: BatchStatus) -> dict[str, Any]:
        actions.cancel(open_session.engine, found.id)
        return told_state(open_session, found, as_json)

    command = BatchCommand(
        done="cancelled",
        change=apply,
        question=lambda chosen: (
            f"ends the unfinished jobs of {batches_said(chosen)}" if len(chosen) > 1 else None
        ),
        is_for_good=False,
    )
    change_batches(selection, command, as_json=as_json, yes=yes)


@takes(BatchSelection)
def retry(
    selection: BatchSelection,
    only: Annotated[
        str | None, typer.Option(metavar="WHICH", help="failed, blocked, cancelled, or a kind of error")
    ] = None,
    error: Annotated[
        str | None, typer.Option(metavar="KIND", help="only jobs that ended with this error")
    ] = None,
    same_seed: Annotated[
        bool, typer.Option("--same-seed", help="render blocked images from the same noise again")
    ] = False,
    retracted: Annotated[
        bool, typer.Option("--retracted", help="jobs whose images were retracted, and no others")
    ] = False,
    as_json: Json = False,
) -> None:
    """Queue jobs again that ended without an image, with all their attempts; blocked ones with new seeds."""
    if retracted and (only or error or same_seed):
        raise UsageError("--retracted goes without --only, --error and --same-seed: the seeds stay")
    if only is not None:
        one_of("--only", only, (*RETRYABLE, *ErrorKind))
        if only not in RETRYABLE:
            error, only = error or only, None
    states = RETRYABLE if only is None else (one_of("--only", only, RETRYABLE),)
    kind = error and one_of("--error", error, tuple(ErrorKind))

    def queue(open_session: Session, found: BatchStatus) -> int:
        if retracted:
            return actions.retry_retracted(open_session.engine, found.id)
        return actions.retry(open_session.engine, found.id, states, kind, same_seed=same_seed)

    wanted = (JobState.RETRACTED,) if retracted else states
    _retry(selection, queue, lambda found: any(found.counts[state] for state in wanted), as_json)


def _retry(
    selection: BatchSelection,
    queue: Callable[[Session, BatchStatus], int],
    has_jobs_for_it: Callable[[BatchStatus], bool],
    as_json: bool,
) -> None:
    def apply(open_session: Session, found: BatchStatus) -> dict[str, Any]:
        queued = queue(open_session, found)
        report = told_state(open_session, found, as_json)
        note(f"{plural(queued, 'job')} queued again")
        return report

    def can(found: BatchStatus) -> bool:
        return found.archived_at is None and has_jobs_for_it(found)

    change_batches(selection, BatchCommand(done="tried again", change=apply, can=can), as_json=as_json)


def told_state(open_session: Session, batch: BatchStatus, as_json: bool) -> dict[str, Any]:
    """Tell where a batch that was changed stands, unless as JSON, and return its report."""
    after = status_by_id(open_session.engine, batch.id)
    if not as_json:
        note(f"{after.name} is {after.state}: {summary(after)}")
    return after.report()
