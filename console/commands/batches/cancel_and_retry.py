"""`nightmill cancel` and `nightmill retry`: end what isn't finished; queue again what has no image."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from console.command_options import DontAsk, Json, one_of
from console.command_options_from_dataclass import takes
from console.session import Session
from console.several_batches.batch_selection_options import BatchSelection, batches_said
from console.several_batches.change_each_batch import BatchCommand, change_batches, told_state
from console.terminal.output import note, plural
from jobs.batches import actions
from jobs.batches.status import BatchStatus
from jobs.errors import UsageError
from jobs.queue import transitions
from jobs.states import RETRYABLE, ErrorKind, JobState


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
            if error not in (None, only):
                raise UsageError(f"--only {only} and --error {error}: say one kind of error")
            error, only = only, None
    states = RETRYABLE if only is None else (one_of("--only", only, RETRYABLE),)
    kind = error and one_of("--error", error, tuple(ErrorKind))

    def queue(open_session: Session, found: BatchStatus) -> int:
        if retracted:
            return actions.retry_retracted(open_session.engine, found.id)
        return actions.retry(open_session.engine, found.id, states, kind, same_seed=same_seed)

    def count(open_session: Session, found: BatchStatus) -> int:
        if retracted:
            return found.counts[JobState.RETRACTED]
        return transitions.count_to_retry(open_session.engine, found.id, states, kind)

    _retry(selection, queue, count, as_json)


def _retry(
    selection: BatchSelection,
    queue: Callable[[Session, BatchStatus], int],
    count: Callable[[Session, BatchStatus], int],
    as_json: bool,
) -> None:
    def apply(open_session: Session, found: BatchStatus) -> dict[str, Any]:
        queued = queue(open_session, found)
        report = told_state(open_session, found, as_json)
        note(f"{plural(queued, 'job')} queued again")
        return report

    def can(found: BatchStatus) -> bool:
        return found.archived_at is None

    def why_not(found: BatchStatus) -> str | None:
        return None if found.archived_at is None else actions.why_archived(found.name)

    command = BatchCommand(done="tried again", change=apply, can=can, why_not=why_not, count=count)
    change_batches(selection, command, as_json=as_json)
