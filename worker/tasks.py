"""The Celery task, and the setup and teardown of the child process that runs it.

The parent imports this module, too, but never renders: what only the child needs is imported when the child begins.
"""

import logging
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from billiard import current_process
from celery import shared_task
from celery.signals import worker_process_init, worker_process_shutdown

from jobs.celery_config import WAKEUP_TASK
from jobs.db.engine import connect, wait_while_away
from jobs.job_dataclasses import LaneId
from jobs.logs import log_context
from jobs.logs.prompt_masking import log_error_of_jobs
from jobs.logs.start_logging import start_logging
from jobs.process_lifecycle import SignalSafeEvent, stop_with_parent, without_collection
from jobs.settings import load_settings
from worker import celery_logging  # noqa: F401 - before Celery sets up logging in a child
from worker.liveness.progress_heartbeat import FOLDER, Heartbeat
from worker.monitoring.send_counts import CountSender

if TYPE_CHECKING:
    from worker.lanes.worker_context import WorkerContext

log = logging.getLogger(__name__)

_context: "WorkerContext | None" = None
_counts: CountSender | None = None


@shared_task(name=WAKEUP_TASK, ignore_result=True)
def process_lane(lane: int) -> None:
    """Run one time slice on the lane picked by fair-share scheduling. SIGTERM requests a graceful stop."""
    assert _context is not None
    if _context.settings.once and _context.heartbeat.has_worked():
        return  # the parent process is about to end this worker
    # Installed here and not in `begin`: the pool sets its own handlers after that.
    stop_on_sigterm(_context)
    with _context.heartbeat.at_work():
        taken = _follow(_context, LaneId(lane))
    if taken:
        _context.heartbeat.note_worked()
        log.info("%d jobs taken up", taken)
    if _context.health.must_restart:
        end()
        os._exit(0)  # the pool starts another process in its place


def _follow(context: "WorkerContext", lane: LaneId) -> int:
    """Run the time slice; an error that ends it is logged here, since Celery would log what it says of prompts."""
    from worker.lanes.worker_loop import follow  # noqa: PLC0415 - in the child alone

    try:
        return follow(context, lane)
    except Exception as error:
        log_error_of_jobs(log, "the time slice ended early", error)
        return 0


def stop_on_sigterm(context: "WorkerContext") -> None:
    """Make SIGTERM request a stop: at once while models are loading, else when the jobs in progress are done."""

    def stop(*_: object) -> None:
        context.stopping.set()
        context.model_cache.stop_loading()

    signal.signal(signal.SIGTERM, stop)


@worker_process_init.connect
def begin(**_: Any) -> None:
    """Set up the child: settings, connections, leases."""
    global _context, _counts  # noqa: PLW0603 - Celery passes nothing from here to the task
    with without_collection():
        import worker.lanes.worker_loop  # noqa: F401, PLC0415 - before the first message comes
        from worker.lanes.worker_context import WorkerContext  # noqa: PLC0415
        from worker.liveness.lease_keeper import LeaseKeeper  # noqa: PLC0415
        from worker.model_cache.cache import ModelCache  # noqa: PLC0415
        from worker.monitoring.job_traces import JobTraces  # noqa: PLC0415

    settings = load_settings()
    start_logging(settings.log_level, settings.log_format)
    signal.signal(
        signal.SIGHUP, signal.SIG_IGN
    )  # Celery has reset it; the parent process decides what it means
    stop_with_parent(os.getppid())
    index = getattr(current_process(), "index", 0)
    engine = connect(settings.database, pool_size=6)
    name = f"{socket.gethostname()}:{os.getpid()}"
    log_context.note(worker=name)
    leases = LeaseKeeper(engine, name, place_of(settings.device, index), settings.lease_s, settings.pool)
    heartbeat = Heartbeat.of_child(settings.stall_timeout_s)
    _context = WorkerContext(
        settings,
        engine,
        leases,
        ModelCache(settings, index),
        SignalSafeEvent(),
        name,
        heartbeat,
        _handover(index),
        JobTraces.by_environment() if settings.traces == "on" else JobTraces(),
    )
    wait_while_away(engine, _context.pause)
    leases.registration.take_over_drain()
    leases.on_renewal = _context.health.refresh
    leases.start()
    if settings.metrics_address is not None and (folder := os.environ.get(FOLDER)):
        _counts = CountSender(Path(folder))
        _counts.start()


def place_of(device: str, index: int) -> str:
    """Return which device of the host this is; of services with a GPU each, that is all by which they differ."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"{device}:{index} [{visible}]" if visible else f"{device}:{index}"


def _handover(index: int) -> Path | None:
    """Return the path of the file in which this process leaves its state for its replacement."""
    folder = os.environ.get(FOLDER)
    return Path(folder) / f"rest-{index}" if folder else None


@worker_process_shutdown.connect
def end(**_: Any) -> None:
    """Remove this worker from the table of workers, and send what it has counted."""
    if _counts is not None:
        _counts.stop()
    if _context is not None:
        _context.traces.close()
        _context.leases.stop()
        _context.engine.dispose()
