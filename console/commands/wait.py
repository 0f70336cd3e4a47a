"""`nightmill wait`: wait for batches, and say by the exit code how they ended."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Any

import typer

from console.command_options import Json, seconds
from console.session import Session, session
from console.several_batches.watch_until_still import current_status, watch_until_still
from console.terminal.output import duration, plural, print_json, print_line
from jobs.batches import actions
from jobs.batches.accepted_image_quotas import shortfall
from jobs.batches.status import BatchStatus
from jobs.errors import UsageError
from jobs.job_dataclasses import BatchId
from jobs.states import BatchState


class Outcome(IntEnum):
    """How a batch ended, as the exit code."""

    DONE = 0
    FAILED = 1
    SHORT = 3
    LATE = 4
    PAUSED = 5
    TIMEOUT = 124


WORST_FIRST = (Outcome.TIMEOUT, Outcome.FAILED, Outcome.PAUSED, Outcome.SHORT, Outcome.LATE, Outcome.DONE)
"""Of several batches, the exit code is that of the first that one of them has."""


def wait(
    batches: Annotated[list[str], typer.Argument(metavar="BATCH...", help="names or numbers of batches")],
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help='end with exit code 124 after "8h"')
    ] = None,
    max_failed: Annotated[
        str, typer.Option(metavar="SHARE", help="of the jobs that may fail: 0, 2%, 0.02")
    ] = "0",
    max_blocked: Annotated[str, typer.Option(metavar="SHARE", help="of the jobs that may be blocked")] = "1",
    as_json: Json = False,
) -> None:
    """Wait until batches have ended or are paused: exit code 1 failed, 3 short, 4 late, 5 paused, 124 timeout."""
    bounds = {"failed": share("--max-failed", max_failed), "blocked": share("--max-blocked", max_blocked)}
    timeout_s = seconds("--timeout", timeout)
    with session() as open_session:
        engine = open_session.engine
        found = list({one.id: one for one in (actions.status(engine, name) for name in batches)}.values())
        ended, reasons = watch_until_still(
            open_session, lambda: [current_status(engine, one) for one in found], timeout_s=timeout_s
        )
        told = [_told(open_session, one, bounds, reasons) for one in ended]
    if as_json:
        print_json(told)
    else:
        for one in told:
            print_line(f"{one['name']}\t{one['outcome']}" + (f"\t{one['why']}" if one["why"] else ""))
    codes = {one["code"] for one in told}
    raise typer.Exit(next(code for code in WORST_FIRST if code in codes))


def share(option: str, given: str) -> float:
    """Return a share of all, written as 0.02 or 2%. Raises UsageError."""
    try:
        found = float(given.removesuffix("%")) / (100 if given.endswith("%") else 1)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise UsageError(f"{option} {given}: a share of the jobs, as in 0.02 or 2%")
    return found


def _told(
    open_session: Session, batch: BatchStatus, bounds: dict[str, float], reasons: Mapping[BatchId, str] | None
) -> dict[str, Any]:
    outcome, why = _outcome(open_session, batch, bounds, reasons)
    return {"outcome": outcome.name.lower(), "code": int(outcome), "why": why, **batch.report()}


def _outcome(
    open_session: Session, batch: BatchStatus, bounds: dict[str, float], reasons: Mapping[BatchId, str] | None
) -> tuple[Outcome, str]:
    if batch.state == BatchState.PAUSED:
        return Outcome.PAUSED, (reasons or {}).get(batch.id, "paused")
    if batch.remaining:
        return Outcome.TIMEOUT, f"{plural(batch.remaining, 'job')} not finished"
    if why := _failure(batch, bounds):
        return Outcome.FAILED, why
    lacking = shortfall(open_session.engine, batch.id)
    if lacking is not None and lacking.images:
        return Outcome.SHORT, f"the target is short by {plural(lacking.images, 'image')}"
    return (Outcome.DONE, "") if batch.late_s is None else (Outcome.LATE, f"{duration(batch.late_s)} late")


def _failure(batch: BatchStatus, bounds: dict[str, float]) -> str | None:
    if batch.state == BatchState.CANCELLED:
        return f"cancelled: {plural(batch.counts['cancelled'], 'job')}"
    jobs = sum(batch.counts.values())
    if batch.rejected and not jobs:
        return f"all of {plural(batch.rows, 'row')} rejected"
    beyond = (state for state, bound in bounds.items() if batch.counts[state] > bound * jobs)
    state = next(beyond, None)
    return state and f"{batch.counts[state]:,} of {plural(jobs, 'job')} {state}"
