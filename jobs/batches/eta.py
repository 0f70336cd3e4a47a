"""When a batch will be done, from what workers have measured in its lanes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.batches.time_windows import parse_window

_MOST_WINDOWS = 1000


@dataclass(frozen=True, slots=True)
class LaneWork:
    """What is left in a lane, how much of it runs, and seconds of one worker for an image, None if not measured."""

    left: int
    running: int
    image_s: float | None


def seconds_left(lanes: Sequence[LaneWork], images_per_s: float, workers: int) -> float | None:
    """Seconds of open time until all lanes are empty; None if nobody works at them or nothing was measured.

    The batch's share of the workers is what it had in the last minute: images a second times worker seconds an image.
    Before it has had any, all workers are counted. Lanes without a measure are taken for the mean of the others.
    """
    left = sum(lane.left for lane in lanes)
    mean_s = (
        _mean(lanes, lambda lane: lane.running)
        or _mean(lanes, lambda lane: lane.left)
        or _mean(lanes, lambda _: 1)
    )
    if mean_s is None:
        return left / images_per_s if images_per_s else None
    work_s = sum(lane.left * (lane.image_s or mean_s) for lane in lanes)
    share = images_per_s * mean_s or workers
    return work_s / share if share else None


def finish(seconds: float, now: datetime, not_before: datetime | None, window: str | None) -> datetime | None:
    """When that much open time is over, counted from `now` or `not_before`; None if it lies years ahead."""
    moment = max(now, not_before) if not_before else now
    if window is None:
        return moment + timedelta(seconds=seconds)
    opening, left = parse_window(window), timedelta(seconds=seconds)
    for _ in range(_MOST_WINDOWS):
        opens, closes = opening.around(moment)
        begin = max(moment, opens)
        if begin + left <= closes:
            return begin + left
        left -= closes - begin
        moment = closes
    return None


def _mean(lanes: Sequence[LaneWork], weight: Callable[[LaneWork], int]) -> float | None:
    """The mean of what was measured, weighted; None where no lane of any weight was."""
    measured = [(weight(lane), lane.image_s) for lane in lanes if lane.image_s]
    total = sum(share for share, _ in measured)
    return sum(share * image_s for share, image_s in measured) / total if total else None
