"""Turns: the lane whose turn it is, worked for a time slice, and for another one if it still comes first."""

import time

from jobs.job import LaneId
from jobs.queue import fair_share
from jobs.queue.fair_share import Turn
from worker.lanes.session import Desk, Shift

LONGEST_S = 3600.0
"""After which a worker takes the next hint, come what may: what Celery limits is one task."""

UNHEALTHY_S = 1.0
"""How long a worker that can do nothing keeps a hint, lest it take all that others could follow."""


def follow(desk: Desk, hinted: LaneId) -> int:
    """Follow a hint: it says that there is work, the job table says whose. Returns how many jobs were taken up.

    When a time slice is over and it is the same lane's turn again, its shift goes on, and the device has no pause; if
    it is another's, a shift in that one follows.
    """
    course = _Course(desk)
    if not desk.health.is_resting():
        course.begin(hinted)
    if course.turn is None and (desk.health.avoided() or not desk.health.is_healthy()):
        desk.stopping.wait(UNHEALTHY_S)
    taken = 0
    while course.turn is not None:
        taken += course.work(course.turn)
    return taken


class _Course:
    """Turn after turn of one worker, each charged when it begins and corrected when it ends."""

    def __init__(self, desk: Desk) -> None:
        self.turn: Turn | None = None
        self._desk = desk
        self._until = time.monotonic() + LONGEST_S
        self._next: Turn | None = None
        self._began = 0.0

    def begin(self, hinted: LaneId) -> None:
        """Take the first turn; there may be none."""
        self.turn, self._began = self._take(hinted), time.monotonic()

    def work(self, turn: Turn) -> int:
        """Work a shift of that turn, and know whose the next one is; returns how many jobs were taken up."""
        shift = Shift(self._desk, renew=lambda: self._renewed(shift))
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
            fair_share.end_turn(self._desk.engine, self._next, used_s=0, images=0, batch_s=0)
            self._next = None

    def _renewed(self, shift: Shift) -> bool:
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
        desk = self._desk
        return fair_share.take_turn(
            desk.engine,
            slice_s=desk.settings.shift_s,
            hinted=hinted,
            warm=desk.studio.models(),
            warm_s=desk.settings.warm_s,
            avoided=desk.health.avoided(),
        )

    def _settle(self, shift: Shift) -> None:
        assert self.turn is not None
        now = time.monotonic()
        images, slowest_s = shift.counted()
        fair_share.end_turn(
            self._desk.engine,
            self.turn,
            used_s=now - self._began,
            images=images,
            batch_s=slowest_s,
        )
        self._began = now
