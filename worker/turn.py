"""A turn: the lane whose turn it is, worked for one shift, and what that cost."""

import time

from jobs import turns
from jobs.job import LaneId
from worker.shift import Desk, Shift


def follow(desk: Desk, hinted: LaneId) -> int:
    """Follow a hint: it says that there is work, the job table says whose. Returns how many jobs were taken up."""
    settings, started = desk.settings, time.monotonic()
    turn = turns.take_turn(
        desk.engine,
        slice_s=settings.shift_s,
        hinted=hinted,
        warm=desk.studio.models(),
        warm_s=settings.warm_s,
    )
    if turn is None:
        return 0
    shift = Shift(desk)
    try:
        return shift.work(turn.lane)
    finally:
        turns.end_turn(
            desk.engine,
            turn,
            slice_s=settings.shift_s,
            used_s=time.monotonic() - started,
            images=shift.delivered,
            batch_s=shift.slowest_s,
        )
