"""Commands that change a batch's jobs: pause, resume, cancel, retry."""

from typing import Annotated, Any

import typer

from console.command_options import Batch, Json, one_of
from console.session import Session, session
from console.terminal.output import (
    note,
    plural,
    print_json,
)
from console.terminal.progress import summary
from jobs.batches import actions
from jobs.batches.status import BatchStatus
from jobs.errors import UsageError
from jobs.states import RETRYABLE, ErrorKind


def pause(batch: Batch, as_json: Json = False) -> None:
    """Stop claiming jobs of a batch; workers finish the device batch that they are at."""
    change_batch(batch, as_json, lambda s, found: actions.pause(s.engine, found.id))


def resume(batch: Batch, as_json: Json = False) -> None:
    """Go on with a paused batch."""
    change_batch(batch, as_json, lambda s, found: actions.resume(s.engine, found.id))


def cancel(batch: Batch, as_json: Json = False) -> None:
    """End all jobs of a batch that aren't finished; finished images stay."""
    change_batch(batch, as_json, lambda s, found: actions.cancel(s.engine, found.id))


def retry(
    batch: Batch,
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
    queued: list[int] = []

    def queue(open_session: Session, found: BatchStatus) -> None:
        if retracted:
            queued.append(actions.retry_retracted(open_session.engine, found.id))
        else:
            queued.append(actions.retry(open_session.engine, found.id, states, kind, same_seed=same_seed))

    change_batch(batch, as_json, queue)
    note(f"{plural(queued[0], 'job')} queued again")


def change_batch(batch: str, as_json: bool, change: Any) -> None:
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        change(open_session, found)
        after = actions.status(open_session.engine, batch)
    if as_json:
        print_json(after.report())
    else:
        note(f"{after.name} is {after.state}: {summary(after)}")
