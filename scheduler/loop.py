"""The scheduler's main loop and its list of periodic tasks."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from jobs.batches import accepted_image_quotas, actions
from jobs.batches.evaluate_accept_condition import AcceptanceJudge
from jobs.batches.record_batch_end_events import record_batch_events
from jobs.db.engine import run
from jobs.errors import ServiceError
from jobs.monitoring import metrics
from jobs.process_lifecycle import SignalSafeEvent
from jobs.queue import canary_rollout, fair_share, transitions
from jobs.queue.lane_counts_and_low_watermarks import raise_low_watermarks
from jobs.queue.sum_usage import forget_usage
from jobs.rate_limited_log import RateLimitedLog
from jobs.settings import Settings
from scheduler.advance_time_windows import move_windows
from scheduler.forget_lost_workers import LostWorkers
from scheduler.send_wakeups import Dispatcher
from scheduler.unfinished_and_late_uploads import ROUND_S, ImageSweeper, sweep_uploads
from scheduler.webhooks.webhook_thread import start_webhooks

log = logging.getLogger(__name__)

AWAY_S = 1.0
"""If PostgreSQL doesn't answer for longer than this, beyond the time between two queries, it was unavailable."""


@dataclass
class PeriodicTask:
    """A function that is called every `every_s` seconds."""

    name: str
    every_s: float
    do: Callable[[], int]
    due: float = field(default=0.0)
    repeated: RateLimitedLog = field(default_factory=lambda: RateLimitedLog(log))

    def run_if_due(self) -> None:
        """Run the task if it is due; errors are logged, and the next run tries again."""
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + self.every_s
        try:
            if done := self.do():
                log.debug("%s: %d", self.name, done)
        except (SQLAlchemyError, ServiceError) as error:
            reason = str(error).splitlines()[0]
            self.repeated.tell(reason, f"{self.name}: {reason}")
        except Exception:
            log.exception("%s", self.name)


def periodic_tasks(settings: Settings, engine: Engine, dispatcher: Dispatcher) -> list[PeriodicTask]:
    """Return all tasks of a scheduler; several schedulers may run them at once."""
    sweeper, later = ImageSweeper(settings, engine), time.monotonic() + 600
    rescuer = Rescuer(engine, settings.lease_s)
    return [
        PeriodicTask("jobs rescued from dead workers", rescuer.every_s, rescuer.rescue),
        PeriodicTask("wake-ups sent", settings.tick_s, dispatcher.top_up),
        PeriodicTask("windows moved", 1, lambda: move_windows(engine)),
        PeriodicTask("canaries judged", 1, lambda: canary_rollout.judge(engine)),
        PeriodicTask("images judged", 1, AcceptanceJudge(engine).judge),
        PeriodicTask("replacements queued", 5, lambda: accepted_image_quotas.make_up(engine)),
        PeriodicTask("low watermarks raised", 5, lambda: raise_low_watermarks(engine)),
        PeriodicTask("batches ended", 5, lambda: record_batch_events(engine)),
        PeriodicTask("job counts folded", 10, lambda: actions.fold_job_counts(engine)),
        PeriodicTask(
            "time slices of dead workers forgotten", 3600, lambda: fair_share.forget_time_slices(engine)
        ),
        PeriodicTask("old usage forgotten", 86_400, lambda: forget_usage(engine), later),
        PeriodicTask("workers forgotten", 60, LostWorkers(engine).forget),
        PeriodicTask("stale uploads aborted", 3600, lambda: sweep_uploads(settings, engine), later),
        PeriodicTask("batches to sweep", ROUND_S, sweeper.begin, later),
        PeriodicTask("unreferenced objects swept", 1, sweeper.step),
    ]


def run_duties(
    settings: Settings,
    engine: Engine,
    stopping: SignalSafeEvent,
    on_task: Callable[[], object] = lambda: None,
) -> None:
    """Run the periodic tasks until `stopping` is set; `on_task` is called before each."""
    dispatcher = Dispatcher(settings, engine)
    todo = periodic_tasks(settings, engine, dispatcher)
    end_webhooks = start_webhooks(settings, stopping)
    while not stopping.is_set():
        for task in todo:
            if stopping.is_set():
                break  # while PostgreSQL is away, each task takes seconds
            on_task()
            task.run_if_due()
        stopping.wait(max(0.01, min(task.due for task in todo) - time.monotonic()))
    dispatcher.close()
    end_webhooks()


class Rescuer:
    """Queues jobs with expired leases again, but waits after an outage of PostgreSQL: workers may still renew them.

    An outage is detected by the time since PostgreSQL last answered here, whichever task had to wait for it.
    """

    def __init__(self, engine: Engine, lease_s: float) -> None:
        self.every_s = min(1.0, lease_s / 2)
        self._engine, self._lease_s = engine, lease_s
        self._answered: float | None = None
        self._waits_until = 0.0

    def rescue(self) -> int:
        """Rescue all jobs with expired leases; returns how many, 0 while workers are given time after an outage."""
        run(self._engine, text("SELECT 1"), {})
        before, self._answered = self._answered, time.monotonic()
        was_away = before is not None and self._answered > before + self.every_s + AWAY_S
        if was_away and self._answered > self._waits_until + self._lease_s:
            self._waits_until = self._answered + self._lease_s
            log.warning("PostgreSQL was away: workers have %.0f s to renew their leases", self._lease_s)
        return rescue_all(self._engine) if self._answered >= self._waits_until else 0


def rescue_all(engine: Engine) -> int:
    """Rescue until no expired lease is left; returns the number of jobs."""
    total = 0
    while rescued := transitions.rescue(engine):
        metrics.RESCUED_JOBS.add(rescued)
        log.warning("%d jobs were claimed by workers that have stopped; they are queued again", rescued)
        total += rescued
    return total
