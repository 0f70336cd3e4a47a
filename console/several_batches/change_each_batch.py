"""Runs a command on one batch or several: asks once, goes on where a batch refuses, and tells what became of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from console.session import Session, session
from console.several_batches.batch_selection_options import BatchSelection, batches_said
from console.terminal.confirm import ask
from console.terminal.output import counted, note, plural, print_json, print_line
from console.terminal.progress import summary
from jobs.batches.status import BatchStatus, status_by_id
from jobs.errors import NightmillError, UsageError
from jobs.job_dataclasses import BatchId


def has_open_jobs(batch: BatchStatus) -> bool:
    """Whether a batch has unfinished jobs."""
    return batch.remaining > 0


@dataclass(frozen=True, kw_only=True)
class BatchCommand:
    """What a command does to each batch."""

    done: str
    """What the batch is then, as in: 3 batches archived."""
    change: Callable[[Session, BatchStatus], dict[str, Any]]
    """Changes one batch, tells of it, and returns what `--json` prints."""
    can: Callable[[BatchStatus], bool] = has_open_jobs
    """Whether filters and --all choose the batch."""
    why_not: Callable[[BatchStatus], str | None] = lambda _: None
    """Why a dry run expects that the batch is refused."""
    question: Callable[[Sequence[BatchStatus]], str | None] = lambda _: None
    """What has to be confirmed; completes "this …"."""
    is_for_good: bool = True
    """Whether what is asked about can't be undone."""
    count: Callable[[Session, BatchStatus], int] | None = None
    """How many jobs of the batch it concerns, if that isn't told by their states: filters and --all leave out none."""
    has_jobs: bool = False
    """Whether filters and --all leave out archived batches."""
    finish: Callable[[Session, Sequence[BatchStatus]], None] = lambda _, __: None
    """Called with the chosen batches when all are done, or told by a dry run."""


def change_batches(
    selection: BatchSelection, command: BatchCommand, *, as_json: bool, yes: bool = False
) -> None:
    """Do to the chosen batches what the command does; exit code 1 if one of several refuses.

    Every name is looked up before the first batch is changed. A single named batch that refuses raises its error.
    """
    selection.check()
    with session() as open_session:
        chosen = selection.choose(open_session.engine, command.can, has_jobs=command.has_jobs)
        is_counted = selection.dry_run or not selection.batches
        jobs = _count(open_session, chosen, command) if is_counted else {}
        if not selection.batches:
            chosen = [each for each in chosen if jobs[each.id] != 0]
        if selection.all_:
            chosen = _possible(chosen, command)
        if selection.dry_run:
            _tell_plan(chosen, jobs, selection, command, as_json)
            command.finish(open_session, chosen)
            return
        if selection.is_one and (reason := command.why_not(chosen[0])) is not None:
            raise UsageError(reason)
        question = command.question(chosen) if chosen and not yes else None
        if question is not None:
            ask(question, is_for_good=command.is_for_good)
        reports = [_change(open_session, each, selection, command) for each in chosen]
        command.finish(open_session, chosen)
    refused = sum(1 for report in reports if report.get("error"))
    if as_json:
        print_json(reports[0] if selection.is_one else reports)
    if not selection.is_one:
        _tell_sum(len(reports) - refused, refused, command)
    if refused:
        raise typer.Exit(1)


def _count(
    open_session: Session, chosen: Sequence[BatchStatus], command: BatchCommand
) -> dict[BatchId, int | None]:
    """Return how many jobs of each batch the command concerns; None: those of its states, all of them."""
    return {each.id: command.count and command.count(open_session, each) for each in chosen}


def _possible(chosen: Sequence[BatchStatus], command: BatchCommand) -> list[BatchStatus]:
    """Leave out the batches that would refuse, and tell how many: --all means those that this can be done to."""
    reasons = [(each, command.why_not(each)) for each in chosen]
    left = [reason for _, reason in reasons if reason is not None]
    if left:
        note(f"{plural(len(left), 'batch is', 'batches are')} left out, such as: {left[0]}")
    return [each for each, reason in reasons if reason is None]


def _change(
    open_session: Session, batch: BatchStatus, selection: BatchSelection, command: BatchCommand
) -> dict[str, Any]:
    try:
        report = command.change(open_session, batch)
    except NightmillError as error:
        if selection.is_one:
            raise
        note(f"{batch.name}: {error}")
        return {"batch": batch.id, "name": batch.name, "error": str(error)}
    return report if selection.is_one else report | {"error": None}


def _tell_sum(done: int, refused: int, command: BatchCommand) -> None:
    if not done and not refused:
        note(f"no batch is chosen, so none is {command.done}")
        return
    more = f", {refused:,} refused" if refused else ""
    note(f"{plural(done, 'batch', 'batches')} {command.done}{more}")


def _tell_plan(
    chosen: Sequence[BatchStatus],
    jobs: Mapping[BatchId, int | None],
    selection: BatchSelection,
    command: BatchCommand,
    as_json: bool,
) -> None:
    reasons = {each.id: command.why_not(each) for each in chosen}
    if as_json:
        plans = [_plan(each, jobs[each.id], reasons[each.id]) for each in chosen]
        print_json(plans[0] if selection.is_one else plans)
    else:
        for each in chosen:
            reason, count = reasons[each.id], jobs[each.id]
            would = f"refused: {reason}" if reason else each.state
            told = counted(each.counts) or "no jobs"
            print_line(f"{each.name}\t{would}\t{told if count is None else plural(count, 'job')}")
    willing = [each for each in chosen if reasons[each.id] is None]
    said = batches_said(willing) if willing else "no batch"
    total = sum(jobs[each.id] or 0 for each in willing)
    of_jobs = f", {plural(total, 'job')}" if command.count and willing else ""
    note(f"would be {command.done}: {said}{of_jobs}")


def _plan(batch: BatchStatus, jobs: int | None, reason: str | None) -> dict[str, Any]:
    return {
        "batch": batch.id,
        "name": batch.name,
        "state": batch.state,
        "counts": batch.counts,
        "dry_run": True,
        "error": reason,
    } | ({} if jobs is None else {"jobs": jobs})


def told_state(open_session: Session, batch: BatchStatus, as_json: bool) -> dict[str, Any]:
    """Tell where a batch that was changed stands, unless as JSON, and return its report."""
    after = status_by_id(open_session.engine, batch.id)
    if not as_json:
        note(f"{after.name} is {after.state}: {summary(after)}")
    return after.report()
