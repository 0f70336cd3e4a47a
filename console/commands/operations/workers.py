"""`nightmill workers`: which workers there are, and what each is doing."""

from datetime import UTC, datetime

from console.command_options import Json
from console.session import session
from console.terminal.output import duration, note, print_json, print_table
from jobs.queue.worker_registry import Worker
from jobs.queue.worker_registry import workers as all_workers


def workers(as_json: Json = False) -> None:
    """Workers with their pool, device and state: starting, idle, busy, draining, unhealthy, lost."""
    with session() as open_session:
        found = all_workers(open_session.engine)
    if as_json:
        print_json([worker.report() for worker in found])
        return
    columns = ("worker", "pool", "device", "state", "since", "batch", "model", "warm models")
    print_table(columns, [_row(worker) for worker in found])
    for worker in found:
        if worker.reason:
            note(f"worker {worker.name} is unhealthy: {worker.reason}")
    if not found:
        note("no worker; `nightmill worker` starts one, `nightmill up` starts everything")


def _row(worker: Worker) -> tuple[object, ...]:
    since = duration((datetime.now(UTC) - worker.shown_since).total_seconds())
    warm = ", ".join(worker.warm_models)
    return (
        worker.name,
        worker.pool,
        worker.device,
        worker.shown_state,
        since,
        worker.batch or "",
        worker.model or "",
        warm,
    )
