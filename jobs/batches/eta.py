"""Estimated completion time of a batch, from the seconds per image that workers have measured in its lanes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.policy.time_windows import parse_window

_MOST_WINDOWS = 1000


@dataclass(frozen=True, slots=True)
class LaneWork:
    """Unfinished jobs of a lane, how many of them run, and worker seconds per image (None if not measured)."""

    left: int
    running: int
    image_s: float | None


def seconds_left(lanes: Sequence[LaneWork], images_per_s: float, workers: int) -> float | None:
    """Estimate the seconds of open time until all lanes are empty; None without workers or measurements.

    The batch's share of the workers is that of the last minute: images per second times worker seconds per image. If
    it had none, all workers are counted. Lanes without a measurement use the mean of the others.
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
    """Return the moment at which `seconds` of open time have passed since `now` or `not_before`, whichever is later.

    None if it lies more than 1000 windows ahead.
    """
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
    """Return the weighted mean of the measured `image_s`; None if the measured lanes have no weight."""
    measured = [(weight(lane), lane.image_s) for lane in lanes if lane.image_s]
    total = sum(share for share, _ in measured)
    return sum(share * image_s for share, image_s in measured) / total if total else None
