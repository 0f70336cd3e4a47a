"""Simulated workers: they pick, claim, complete and release through the queue's own functions."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count

from sqlalchemy import Engine, text

from bench.autoscaling.simulated_clock import Clock
from bench.backlog import image_of
from jobs.db.engine import run
from jobs.job_dataclasses import Job
from jobs.queue import fair_share, transitions
from jobs.queue.fair_share import TimeSlice
from jobs.queue.worker_registry import WorkerReport, forget_worker, report_worker
from jobs.states import WorkerActivity

CLAIM, LEAST_CLAIM, DEVICE_BATCH = 32, 8, 8
SLICE_S, LEASE_S, IDLE_LOOK_S = 60.0, 30.0, 15.0

_LEASE = text("""
    UPDATE jobs SET lease_until = now() + make_interval(secs => :s)
    WHERE worker = :name AND state = 'running' RETURNING id
""")
BUSY_S = 60.0
DAY_S = 86_400  # a lease that nothing renews, as its worker lives


class Timeline:
    """Events in the order of simulated time, at which the database's clock is set."""

    def __init__(self, begin: datetime, clock: Clock) -> None:
        self.now = begin
        self._clock = clock
        self._events: list[tuple[datetime, int, Callable[[], None]]] = []
        self._number = count()
        clock.set(begin)

    def at(self, moment: datetime, event: Callable[[], None]) -> None:
        """Have `event` called at that time."""
        heapq.heappush(self._events, (moment, next(self._number), event))

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Have `event` called so many seconds from now."""
        self.at(self.now + timedelta(seconds=seconds), event)

    def run_until(self, end: datetime) -> None:
        """Call the events up to that time."""
        while self._events and self._events[0][0] <= end:
            moment, _, event = heapq.heappop(self._events)
            if moment > self.now:
                self.now = moment
                self._clock.set(moment)
            event()


@dataclass
class Worker:
    """A worker; `image_s` are the seconds that an image of each lane takes."""

    engine: Engine
    timeline: Timeline
    name: str
    image_s: dict[int, float]
    device: str = "simulated"
    idle_look_s: float = IDLE_LOOK_S
    is_alive: bool = True
    is_ready: bool = False
    jobs: list[Job] = field(default_factory=list)
    _slice: TimeSlice | None = None
    _began: datetime | None = None
    _idle_since: datetime | None = None
    _images: int = 0

    def start(self, start_s: float) -> None:
        """Register; ask for work when the machine is ready."""
        self.timeline.after(start_s, self._ready)

    def is_busy(self) -> bool:
        """Whether it has worked within the last minute."""
        idle_s = (self.timeline.now - self._idle_since).total_seconds() if self._idle_since else 0.0
        return self.is_ready and idle_s < BUSY_S

    def stop(self) -> int:
        """End as by SIGTERM: release what isn't stored; returns how many images had begun."""
        begun = min(len(self.jobs), DEVICE_BATCH) if self.is_alive else 0
        if self.is_alive and self.jobs:
            transitions.release(self.engine, [(job.id, job.lease) for job in self.jobs])
            self._settle()
        self._end()
        return begun

    def kill(self) -> int:
        """End as by SIGKILL: the leases run out; returns how many jobs were held."""
        held = self.lose_power()
        forget_worker(self.engine, self.name)
        return held

    def lose_power(self) -> int:
        """End and say nothing; returns how many jobs were held."""
        run(self.engine, _LEASE, {"name": self.name, "s": LEASE_S})
        held = len(self.jobs)
        self.is_alive, self.jobs = False, []
        return held

    def _end(self) -> None:
        self.is_alive, self.jobs = False, []
        forget_worker(self.engine, self.name)

    def _ready(self) -> None:
        if self.is_alive:
            self.is_ready = True
            self._report(WorkerActivity.STARTING)
            self._look_for_work()

    def _look_for_work(self) -> None:
        if not self.is_alive:
            return
        last = self._slice.lane if self._slice else None
        self._slice = fair_share.pick_lane(self.engine, slice_s=SLICE_S, preferred=last, worker=self.name)
        if self._slice is None:
            self._idle_since = self._idle_since or self.timeline.now
            self._report(WorkerActivity.IDLE)
            self.timeline.after(self.idle_look_s, self._look_for_work)
            return
        self._began, self._images, self._idle_since = self.timeline.now, 0, None
        self._report(WorkerActivity.BUSY)
        self._claim()

    def _claim(self) -> None:
        assert self._slice is not None
        assert self._began is not None
        is_over = (self.timeline.now - self._began).total_seconds() >= SLICE_S
        if not is_over:
            self.jobs = transitions.claim(
                self.engine, self._slice.lane, limit=self._limit(), worker=self.name, lease_s=DAY_S
            )
        if is_over or not self.jobs:
            self._settle()
            self._look_for_work()
            return
        self._render()

    def _limit(self) -> int:
        """Return as many jobs as fill a time slice, as `worker.lanes.lane_claims.claim_limit` does."""
        assert self._slice is not None
        return min(CLAIM, max(LEAST_CLAIM, math.ceil(SLICE_S / self.image_s[self._slice.lane])))

    def _render(self) -> None:
        assert self._slice is not None
        portion = self.jobs[:DEVICE_BATCH]
        self.timeline.after(len(portion) * self.image_s[self._slice.lane], self._store)

    def _store(self) -> None:
        if not self.is_alive:
            return
        portion, self.jobs = self.jobs[:DEVICE_BATCH], self.jobs[DEVICE_BATCH:]
        self._images += self._end_jobs(portion)
        if self.jobs:
            self._render()
        else:
            self._claim()

    def _end_jobs(self, jobs: list[Job]) -> int:
        """Store the images of jobs; returns how many there are."""
        transitions.complete(self.engine, [image_of(job) for job in jobs])
        return len(jobs)

    def _settle(self) -> None:
        assert self._slice is not None
        assert self._began is not None
        used_s = (self.timeline.now - self._began).total_seconds()
        batch_s = DEVICE_BATCH * self.image_s[self._slice.lane]
        device_s = self._images * self.image_s[self._slice.lane]
        use = fair_share.SliceUse(used_s, device_s, self._joules(device_s), self._images, batch_s)
        fair_share.end_time_slice(self.engine, self._slice, self.name, self.device, use)

    def _joules(self, device_s: float) -> float | None:
        """Return what the device counts in so many seconds of work; None if it counts nothing."""
        del device_s
        return None

    def _report(self, activity: WorkerActivity) -> None:
        lane = self._slice.lane if self._slice and activity is WorkerActivity.BUSY else None
        report_worker(self.engine, WorkerReport(self.name, self.device, "default", activity, lane))
