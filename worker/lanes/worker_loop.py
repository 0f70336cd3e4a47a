"""The worker's loop over lanes: one time slice after another, each in the lane picked by fair-share scheduling."""

import time

from jobs.job_dataclasses import LaneId
from jobs.queue import fair_share
from jobs.queue.fair_share import SliceUse, TimeSlice
from jobs.states import WorkerActivity
from worker.lanes.lane_session import LaneSession
from worker.lanes.worker_context import WorkerContext

LONGEST_S = 3600.0
"""The longest duration of one Celery task; Celery's time limits apply to tasks, so the loop ends in time."""

UNABLE_S = 1.0
"""How long a worker that can or may process nothing holds a wake-up message, so that other workers get the others."""


def follow(context: WorkerContext, preferred: LaneId) -> int:
    """Process a wake-up message: it says that there is work, the job table says in which lane. Returns the jobs taken.

    When a time slice ends and the same lane is picked again, its session continues and the device has no pause; if
    another lane is picked, a session in that lane follows. A worker that is to work once ends with the first slice.
    """
    loop = LaneLoop(context)
    if not context.health.is_resting():
        loop.begin(preferred)
    if loop.time_slice is None and context.is_unable():
        context.stopping.wait(UNABLE_S)
    taken = 0
    while loop.time_slice is not None:
        context.note(WorkerActivity.BUSY, loop.time_slice.lane)
        taken += loop.work(loop.time_slice)
    context.note(WorkerActivity.DRAINING if context.stopping.is_set() else WorkerActivity.IDLE)
    return taken


class LaneLoop:
    """Successive time slices of one worker; each is charged to its tenant in advance and corrected when it ends."""

    def __init__(self, context: WorkerContext) -> None:
        self.time_slice: TimeSlice | None = None
        self._context = context
        self._until = time.monotonic() + (0 if context.settings.once else LONGEST_S)
        self._next: TimeSlice | None = None
        self._began = 0.0

    def begin(self, preferred: LaneId) -> None:
        """Pick the first lane; there may be none. What the device used before is nobody's."""
        self._context.usage.taken()
        self.time_slice, self._began = self._pick(preferred), time.monotonic()

    def work(self, time_slice: TimeSlice) -> int:
        """Run a lane session for this slice and pick the next lane; returns how many jobs were claimed."""
        session = LaneSession(self._context, time_slice.lane, renew=lambda: self._renewed(session))
        try:
            return session.work()
        except BaseException:
            self._leave_next()
            raise
        finally:
            self._settle(session)
            self.time_slice, self._next = self._next, None

    def _leave_next(self) -> None:
        """Return a slice that was picked and won't be used, so that its tenant isn't charged for it."""
        if self._next is not None:
            self._end(self._next, SliceUse())
            self._next = None

    def _renewed(self, session: LaneSession) -> bool:
        """At a slice's end, return whether the session gets another one; if another lane is picked, it is the next."""
        assert self.time_slice is not None
        if time.monotonic() >= self._until:
            return False
        found = self._pick(self.time_slice.lane)
        if found is None or found.lane != self.time_slice.lane:
            self._next = found
            return False
        self._settle(session)
        self.time_slice = found
        return True

    def _pick(self, preferred: LaneId) -> TimeSlice | None:
        context = self._context
        return fair_share.pick_lane(
            context.engine,
            slice_s=context.settings.time_slice_s,
            pool=context.settings.pool,
            preferred=preferred,
            warm=context.model_cache.models(),
            model_affinity_s=context.settings.model_affinity_s,
            avoided=context.health.avoided(),
            worker=context.worker,
        )

    def _settle(self, session: LaneSession) -> None:
        assert self.time_slice is not None
        now = time.monotonic()
        images, slowest_s = session.counted()
        device_s, joules = self._context.usage.taken()
        self._end(self.time_slice, SliceUse(now - self._began, device_s, joules, images, slowest_s))
        self._began = now

    def _end(self, time_slice: TimeSlice, use: SliceUse) -> None:
        context = self._context
        device = context.usage.label or context.leases.device
        fair_share.end_time_slice(context.engine, time_slice, context.worker, device, use)
