"""Work at a batch until it has ended: by workers that are up, or by some that are started for it."""

import shlex
import time
from functools import partial
from typing import Any

from console.broker_problems_while_waiting import BrokerCheck
from console.process_control import background_up
from console.process_control.stop_by_signal import Stopped
from console.process_control.supervisor import ProcessGroup, group
from console.run_statistics import effort
from console.session import Session
from console.several_batches.watch_until_still import current_status
from console.terminal.output import note
from console.terminal.progress import watching
from jobs.batches.actions import BatchStatus
from jobs.db.engine import database_time
from jobs.settings import Settings
from jobs.states import BatchState
from jobs.storage.open import check_writable

POLL_S = 0.25

_STOPPING = "stopping: what isn't finished goes back to the queue, and the same command goes on from there"
_UP_GO_ON = "no longer waiting: the workers that are up go on with it; `nightmill pause {name}` holds it"
NO_WORKER_UP = (
    "no worker is up any more; `nightmill up --workers 1` starts one, and so does the same `run` again"
)


def work_at(open_session: Session, status: BatchStatus, asked: int | None) -> dict[str, Any]:
    """Wait until a batch has ended, with `asked` workers of one's own (None: those that are up, or one).

    Returns the figures of what was done, for the report; `waiting` says why it was given up, if it was.
    """
    workers = _default_workers(open_session) if asked is None else asked
    since = database_time(open_session.engine)
    _check_services(open_session, status)
    with group(open_session.settings, workers) as members:
        try:
            waited_for = _wait(open_session, status, members, needs_up=asked is None and workers == 0)
        except Stopped:
            note(_STOPPING if workers else _UP_GO_ON.format(name=shlex.quote(status.name)))
            raise
        memory = members.memory.report()
    made = open_session.patiently(lambda: effort(open_session.engine, status.id, since))
    seconds = max(made.seconds, 1e-3)
    return {
        "rendered": made.images - made.reused,
        "reused": made.reused,
        "rendering_s": round(seconds, 1),
        "rendered_per_s": round((made.images - made.reused) / seconds, 3),
        "drawing_share": round(made.drawing_share, 3),
        "peak_memory": memory,
        "waiting": waited_for,
    }


def starts_workers(settings: Settings, workers: int | None) -> bool:
    """Whether `work_at` will start workers, if it is asked for so many."""
    return bool(workers) if workers is not None else not has_up_workers(settings)


def _check_services(open_session: Session, status: BatchStatus) -> None:
    """Check the store and Redis, and report what would otherwise make workers wait silently or jobs fail."""
    from scheduler.check_redis import check_redis  # noqa: PLC0415 - its libraries take time to import

    check_writable(open_session.claimed_store(status))
    broker = check_redis(open_session.settings)
    if broker.startswith("built-in"):
        note(f"no valkey-server or redis-server found: using the {broker}")


def _wait(open_session: Session, status: BatchStatus, members: ProcessGroup, *, needs_up: bool) -> str | None:
    """Wait until the batch has ended; return the reason if waiting was given up since no worker can continue.

    With `needs_up`, the run has no workers of its own and relies on those that are up.
    """
    going_at = time.monotonic()
    broker = BrokerCheck(open_session.settings)
    with watching(sum(status.counts.values())) as watch:
        while status.remaining and status.state not in (BatchState.PAUSED, BatchState.CANCELLED):
            time.sleep(POLL_S)
            members.keep_alive()
            status = open_session.patiently(partial(current_status, open_session.engine, status))
            told = background_up.report(open_session.settings)
            members.memory.look(told.worker_pids if told else ())
            is_idle = status.waiting is None and not status.counts["running"]
            if needs_up and is_idle and not has_up_workers(open_session.settings):
                status = status._replace(waiting=NO_WORKER_UP)
            watch.show(status)
            broker.look(status)
            if status.waiting is None:
                going_at = time.monotonic()
            elif time.monotonic() > going_at + open_session.settings.give_up_s:
                return status.waiting
    return None


def has_up_workers(settings: Settings) -> bool:
    """Whether an `up` runs that keeps workers; one of an earlier version doesn't say, and has some as a rule."""
    told = background_up.report(settings)
    return told is not None and told.workers != 0


def _default_workers(open_session: Session) -> int:
    if not has_up_workers(open_session.settings):
        if background_up.running(open_session.settings) is not None:
            note("what is up has no workers: this run starts one of its own")
        return 1
    note("the workers that are up do the work")
    for said in background_up.settings_without_effect(open_session.settings):
        note(said)
    return 0
