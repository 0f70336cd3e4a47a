"""`nightmill workers`: which workers there are, what each is doing, and which are drained."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import typer

from console.command_options import Json
from console.commands.operations.drain_workers import drain, undrain
from console.session import Session, session
from console.terminal.output import duration, note, print_json, print_table
from jobs.db.engine import database_time
from jobs.queue.worker_drains import Drain, drains
from jobs.queue.worker_registry import DRAINED, Worker
from jobs.queue.worker_registry import workers as all_workers
from jobs.states import DrainKind

COLUMNS = (
    *("host", "worker", "pool", "device", "state", "since"),
    *("batch", "model", "images/s", "warm models", "version"),
)

workers = typer.Typer(
    help="Workers and what each is doing; drain them.",
    invoke_without_command=True,
    add_completion=False,
)
workers.command()(drain)
workers.command()(undrain)


@workers.callback()
def list_workers(context: typer.Context, as_json: Json = False) -> None:
    """Workers: starting, idle, busy, draining, drained, unhealthy, lost; `drain` takes them out of work."""
    if context.invoked_subcommand:
        return
    with session() as open_session:
        _show(open_session, as_json)


def _show(open_session: Session, as_json: bool) -> None:
    found, drained = all_workers(open_session.engine), drains(open_session.engine)
    empty = [one for one in drained if not any(one.covers(worker.name) for worker in found)]
    if as_json:
        print_json([_report(worker, drained) for worker in found] + [_report_empty(one) for one in empty])
        return
    now = database_time(open_session.engine)
    print_table(COLUMNS, [_row(worker, now) for worker in found] + [_row_of_empty(one, now) for one in empty])
    for text in _notes(found, drained):
        note(text)


def _notes(found: Sequence[Worker], drained: Sequence[Drain]) -> Iterator[str]:
    for worker in found:
        if worker.reason and worker.drained_since is None:
            yield f"worker {worker.name} is unhealthy: {worker.reason}"
        if worker.version is None and any(one.covers(worker.name) for one in drained):
            yield f"worker {worker.name} is of a version that doesn't look for drains: it goes on until it is stopped"
    for one in drained:
        why = f": {one.reason}" if one.reason else ""
        since = f"{one.since.astimezone():%Y-%m-%d %H:%M}"
        yield f"{one.kind} {one.target} is drained since {since} by {one.drained_by}{why}"
    if not found:
        yield "no worker; `nightmill worker` starts one, `nightmill up` starts everything"


def _report(worker: Worker, drained: Sequence[Drain]) -> dict[str, Any]:
    return worker.report() | {"drains": [one.report() for one in drained if one.covers(worker.name)]}


def _report_empty(drain: Drain) -> dict[str, Any]:
    """Report a drain of which there is no worker as one that has a name only if it is a worker's."""
    is_host = drain.kind is DrainKind.HOST
    return {
        "worker": None if is_host else drain.target,
        "host": drain.target if is_host else drain.target.rpartition(":")[0],
        "state": DRAINED,
        "since": drain.since.isoformat(),
        "drains": [drain.report()],
    }


def _row(worker: Worker, now: datetime) -> tuple[object, ...]:
    return (
        worker.host,
        worker.name,
        worker.pool,
        worker.device,
        worker.shown_state,
        _ago(worker.shown_since, now),
        worker.batch or "",
        worker.model or "",
        f"{worker.images_per_s:.2f}",
        ", ".join(worker.warm_models),
        worker.version,
    )


def _row_of_empty(drain: Drain, now: datetime) -> tuple[object, ...]:
    report = _report_empty(drain)
    return report["host"], report["worker"] or "none", "", "", DRAINED, _ago(drain.since, now), *("",) * 5


def _ago(moment: datetime, now: datetime) -> str:
    return duration((now - moment).total_seconds())
