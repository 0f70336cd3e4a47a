"""Turns: the lane whose turn it is, worked for a time slice, and for another one if it still comes first."""

import time

from jobs.job import LaneId
from jobs.queue import fair_share
from jobs.queue.fair_share import Turn
from worker.lanes.session import LaneSession, WorkerContext

LONGEST_S = 3600.0
"""After which a worker takes the next hint, come what may: what Celery limits is one task."""

UNHEALTHY_S = 1.0
"""How long a worker that can do nothing keeps a hint, lest it take all that others could follow."""


def follow(context: WorkerContext, hinted: LaneId) -> int:
    """Follow a hint: it says that there is work, the job table says whose. Returns how many jobs were taken up.

    When a time slice is over and it is the same lane's turn again, its shift goes on, and the device has no pause; if
    it is another's, a shift in that one follows.
    """
    course = LaneLoop(context)
    if not context.health.is_resting():
        course.begin(hinted)
    if course.turn is None and (context.health.avoided() or not context.health.is_healthy()):
        context.stopping.wait(UNHEALTHY_S)
    taken = 0
    while course.turn is not None:
        taken += course.work(course.turn)
    return taken


class LaneLoop:
    """Turn after turn of one worker, each charged when it begins and corrected when it ends."""

    def __init__(self, context: WorkerContext) -> None:
        self.turn: Turn | None = None
        self._context = context
        self._until = time.monotonic() + LONGEST_S
        self._next: Turn | None = None
        self._began = 0.0

    def begin(self, hinted: LaneId) -> None:
        """Take the first turn; there may be none."""
        self.turn, self._began = self._take(hinted), time.monotonic()

    def work(self, turn: Turn) -> int:
        """Work a shift of that turn, and know whose the next one is; returns how many jobs were taken up."""
        shift = LaneSession(self._context, renew=lambda: self._renewed(shift))
        try:
            return shift.work(turn.lane)
        except BaseException:
            self._leave_next()
            raise
        finally:
            self._settle(shift)
            self.turn, self._next = self._next, None

    def _leave_next(self) -> None:
        """Nobody will work the turn that comes next: its tenant isn't to pay for it."""
        if self._next is not None:
            fair_share.end_turn(self._context.engine, self._next, used_s=0, images=0, batch_s=0)
            self._next = None

    def _renewed(self, shift: LaneSession) -> bool:
        """The slice is over: whether the shift has another one. If it is another lane's turn, that is next."""
        assert self.turn is not None
        if time.monotonic() >= self._until:
            return False
        found = self._take(self.turn.lane)
        if found is None or found.lane != self.turn.lane:
            self._next = found
            return False
        self._settle(shift)
        self.turn = found
        return True

    def _take(self, hinted: LaneId) -> Turn | None:
        context = self._context
        return fair_share.take_turn(
            context.engine,
            slice_s=context.settings.time_slice_s,
            hinted=hinted,
            warm=context.model_cache.models(),
            model_affinity_s=context.settings.model_affinity_s,
            avoided=context.health.avoided(),
        )

    def _settle(self, shift: LaneSession) -> None:
        assert self.turn is not None
        now = time.monotonic()
        images, slowest_s = shift.counted()
        fair_share.end_turn(
            self._context.engine,
            self.turn,
            used_s=now - self._began,
            images=images,
            batch_s=slowest_s,
        )
        self._began = now
