"""Run a simulated night: submit, scale, take machines away, and record what happened."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import Engine, text

from bench.autoscaling.night_scenario import BEGIN, Batch, Night, clock
from bench.autoscaling.simulated_clock import Clock
from bench.autoscaling.simulated_workers import Timeline, Worker
from bench.backlog import open_backlog
from jobs.db.engine import run
from jobs.queue import transitions
from jobs.queue.lane_counts_and_low_watermarks import end_lanes
from jobs.queue.tenants import set_tenant
from jobs.queue.worker_pools import set_pool
from scheduler.advance_time_windows import move_windows

_SUBMITTED = text("""
    UPDATE batches SET created_at = now(), deadline = :deadline, opens_at = :opens, closes_at = :closes,
        "window" = :window, priority = :priority WHERE id = :batch RETURNING id
""")
_OWNED = text("UPDATE lanes SET tenant = :tenant WHERE id = :lane RETURNING id")
_SEEN = text("UPDATE workers SET seen_at = now(), started_at = least(started_at, now()) RETURNING name")
_LEFT = text("""
    SELECT batch_id, sum(delta) FILTER (WHERE state IN ('queued', 'running')) AS unfinished FROM job_counts GROUP BY 1
""")
_WANTED = text("SELECT nightmill_wanted_workers('default', now()) AS wanted")

Scaler = Callable[[Engine], int]


def by_the_function(engine: Engine) -> int:
    """Return what `nightmill_wanted_workers` says."""
    return int(run(engine, _WANTED, {})[0].wanted)


@dataclass(frozen=True)
class Tick:
    """The state at one adjustment: workers by what they do, those wanted, and each batch's unfinished images.

    `needed` is a bound that is computed from the night's plan alone: so many workers, all of them at the batch whose
    deadline presses most, would finish it just in time.
    """

    at: datetime
    wanted: int
    starting: int
    idle: int
    busy: int
    needed: int
    left: dict[str, int]

    @property
    def workers(self) -> int:
        """Workers that were started and not stopped."""
        return self.starting + self.idle + self.busy


@dataclass
class Record:
    """What happened in a night."""

    ticks: list[Tick] = field(default_factory=list)
    finished: dict[str, datetime] = field(default_factory=dict)
    killed: list[tuple[datetime, int]] = field(default_factory=list)
    stopped_busy: int = 0
    begun_when_stopped: int = 0

    def late(self, night: Night) -> dict[str, float]:
        """Return the batches that missed their deadlines, by how many minutes; infinite for those not finished."""
        found = {}
        for batch in night.batches:
            if batch.deadline and self.finished.get(
                batch.name, datetime.max.replace(tzinfo=BEGIN.tzinfo)
            ) > clock(batch.deadline):
                end = self.finished.get(batch.name)
                found[batch.name] = (end - clock(batch.deadline)).total_seconds() / 60 if end else math.inf
        return found

    def too_few(self, cap: int) -> list[Tick]:
        """Return the times at which a deadline needed more workers than were wanted, and the limit allowed them."""
        return [tick for tick in self.ticks if tick.wanted < min(tick.needed, cap)]


class Simulation:
    """A night on an empty database; `scaler` decides how many workers there are to be."""

    def __init__(self, engine: Engine, night: Night, scaler: Scaler = by_the_function, seed: int = 0) -> None:
        self.record = Record()
        self._engine, self._night, self._scaler = engine, night, scaler
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._timeline = Timeline(BEGIN, Clock(engine))
        self._workers: list[Worker] = []
        self._image_s: dict[int, float] = {}
        self._batches: dict[int, Batch] = {}
        self._started = 0

    def run(self) -> Record:
        """Run from BEGIN until the night ends."""
        set_pool(
            self._engine, "default", start_s=2 * self._night.start_s, max_workers=self._night.max_workers
        )
        for tenant, weight in self._night.weights.items():
            set_tenant(self._engine, tenant, weight=weight)
        for batch in self._night.batches:
            self._timeline.at(clock(batch.comes), partial(self._submit, batch))
        for moment in self._night.kills:
            self._timeline.at(clock(moment), self._kill_one)
        self._timeline.after(0, self._tick)
        self._timeline.run_until(clock(self._night.ends))
        return self.record

    def run_on(self, end: datetime) -> Record:
        """Go on from where the night ended."""
        self._timeline.run_until(end)
        return self.record

    def _submit(self, batch: Batch) -> None:
        backlog = open_backlog(self._engine, batch.name, "/output")
        opens, closes = map(clock, batch.window) if batch.window else (None, None)
        values = {
            "batch": backlog.batch,
            "deadline": batch.deadline and clock(batch.deadline),
            "opens": opens,
            "closes": closes,
            "window": batch.window and f"{batch.window[0]}-{batch.window[1]} UTC",
            "priority": batch.priority,
        }
        run(self._engine, _SUBMITTED, values)
        run(self._engine, _OWNED, {"tenant": batch.tenant, "lane": backlog.lane})
        backlog.fill(batch.images)
        self._image_s[backlog.lane] = batch.image_s
        self._batches[backlog.batch] = batch

    def _kill_one(self) -> None:
        busy = [worker for worker in self._workers if worker.jobs]
        if busy:
            worker = self._random.choice(busy)
            self.record.killed.append((self._timeline.now, worker.kill()))
            self._workers.remove(worker)

    def _tick(self) -> None:
        run(self._engine, _SEEN, {})
        move_windows(self._engine)
        if self.record.killed:
            transitions.rescue(self._engine)
        left = {
            self._batches[row.batch_id].name: int(row.unfinished or 0) for row in run(self._engine, _LEFT, {})
        }
        for name, unfinished in left.items():
            if not unfinished and name not in self.record.finished:
                self.record.finished[name] = self._timeline.now
                end_lanes(self._engine)
        wanted = self._scaler(self._engine)
        self._scale(wanted)
        self._note(wanted, left)
        self._timeline.after(self._night.tick_s, self._tick)

    def _scale(self, wanted: int) -> None:
        """Start or stop workers at once; as in Kubernetes, chance says which are stopped, but those not ready go first.

        Not ready are those that start, and those that have been idle for a minute (`/readyz/busy`).
        """
        while len(self._workers) < min(wanted, self._night.max_workers):
            self._started += 1
            worker = Worker(self._engine, self._timeline, f"host-{self._started}:1", self._image_s)
            worker.start(self._night.start_s)
            self._workers.append(worker)
        surplus = len(self._workers) - wanted
        order = sorted(self._workers, key=lambda worker: (worker.is_busy(), self._random.random()))
        for worker in order[: max(0, surplus)]:
            self.record.stopped_busy += bool(worker.jobs)
            self.record.begun_when_stopped += worker.stop()
            self._workers.remove(worker)

    def _note(self, wanted: int, left: dict[str, int]) -> None:
        ready = [worker for worker in self._workers if worker.is_ready]
        busy = sum(bool(worker.jobs) for worker in ready)
        self.record.ticks.append(
            Tick(
                self._timeline.now,
                wanted,
                len(self._workers) - len(ready),
                len(ready) - busy,
                busy,
                max((self._needed(batch, left) for batch in self._batches.values()), default=0),
                left,
            )
        )

    def _needed(self, batch: Batch, left: dict[str, int]) -> int:
        now, unfinished = self._timeline.now, left.get(batch.name, 0)
        if not batch.deadline or not unfinished:
            return 0
        if batch.window and not clock(batch.window[0]) <= now < clock(batch.window[1]) - timedelta(minutes=5):
            return 0
        seconds = (clock(batch.deadline) - now).total_seconds()
        return math.ceil(unfinished * batch.image_s / seconds) if seconds > 0 else self._night.max_workers
