"""The thread of the scheduler that looks for events and has messages sent, apart from all other tasks."""

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from jobs.db.engine import connect
from jobs.errors import ServiceError
from jobs.monitoring import metrics
from jobs.process_lifecycle import SignalSafeEvent
from jobs.queue.lane_counts_and_low_watermarks import end_lanes
from jobs.rate_limited_log import RateLimitedLog
from jobs.settings import Settings
from jobs.webhooks.deliveries import forget
from scheduler.webhooks.detect_events import Detector
from scheduler.webhooks.send_messages import Sender

log = logging.getLogger(__name__)

LOOK_S = 5.0
SEND_S = 1.0
_FORGET_S = 3600.0
_END_S = 2.0


def start_webhooks(settings: Settings, stopping: SignalSafeEvent) -> Callable[[], None]:
    """Start the thread, which ends when `stopping` is set; returns a function that waits for that, but not long.

    What is being sent then is left: once its lease has run out, another scheduler sends it, or this one when it is
    started again.
    """
    engine = connect(settings.database, pool_size=1)
    thread = threading.Thread(target=_run, args=(settings, engine, stopping), name="webhooks", daemon=True)
    thread.start()
    return lambda: thread.join(2 * _END_S)


def _run(settings: Settings, engine: Engine, stopping: SignalSafeEvent) -> None:
    detector, sender, repeated = (
        Detector(engine, settings),
        Sender(engine, settings.sendmail),
        RateLimitedLog(log),
    )
    steps: list[tuple[float, Callable[[], int]]] = [
        (LOOK_S, detector.look),
        (SEND_S, sender.round),
        (_FORGET_S, lambda: forget(engine)),
    ]
    due = [0.0] * len(steps)
    metrics.WEBHOOK_ATTEMPTS.add(0, "dead")  # so that the first one is seen as a change
    while not stopping.is_set():
        for number, (every_s, step) in enumerate(steps):
            if time.monotonic() >= due[number]:
                due[number] = time.monotonic() + every_s
                _try(step, repeated)
        stopping.wait(max(0.01, min(due) - time.monotonic()))
    # `run` stops its scheduler as soon as its batch has ended, and that is to be told.
    for last in (lambda: end_lanes(engine), detector.look, sender.round):
        if not _try(last, repeated):
            break
    sender.wait(_END_S)
    engine.dispose()


def _try(step: Callable[[], int], repeated: RateLimitedLog) -> bool:
    """Run a step; an error is logged. Returns whether there was none."""
    try:
        step()
    except (SQLAlchemyError, ServiceError) as error:
        reason = str(error).splitlines()[0]
        repeated.tell(reason, f"webhooks: {reason}")
    except Exception:
        log.exception("webhooks")
    else:
        return True
    return False
