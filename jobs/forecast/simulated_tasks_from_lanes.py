"""From lanes and measured times to the tasks of a simulation."""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jobs.forecast.available_workers import WorkerGroup
from jobs.forecast.measured_image_times import ImageTime
from jobs.forecast.queued_lanes import QueuedLane
from jobs.forecast.simulate_queue import Task
from jobs.policy.time_windows import parse_window

Ends = Literal["low", "high"]
TimeOf = Callable[[QueuedLane, str], ImageTime | None]
"""What an image of a lane takes on a device."""

_LAST = 2**63


@dataclass(frozen=True, slots=True)
class LaneOnWorkers:
    """A lane, and what its images take by the positions of the groups of workers that can render it."""

    lane: QueuedLane
    times: dict[int, ImageTime]


@dataclass(frozen=True, slots=True)
class SimulatedTask:
    """A task, and the joules of its images by group at the same end of the range; None: not counted."""

    task: Task
    joules: dict[int, float | None]


def lanes_on_workers(
    lanes: Sequence[QueuedLane], groups: Sequence[WorkerGroup], time_of: TimeOf
) -> list[LaneOnWorkers]:
    """Find for each lane the groups that process its model and on whose device such images were measured."""
    return [
        LaneOnWorkers(
            lane,
            {
                number: found
                for number, group in enumerate(groups)
                if group.serves(lane.kind.model) and (found := time_of(lane, group.device)) is not None
            },
        )
        for lane in lanes
    ]


def tasks_of(
    lanes: Sequence[LaneOnWorkers], end: Ends, apart: Collection[tuple[str, int]] = ()
) -> list[SimulatedTask]:
    """Add up lanes of a tenant that are processed at the same times by the same groups; times are their means.

    `apart` are tenants with priorities, of which each batch has tasks of its own, as it shares with the planned one.
    """
    alike: dict[tuple[object, ...], list[LaneOnWorkers]] = defaultdict(list)
    for each in lanes:
        lane = each.lane
        if each.times:
            when = lane.tenant, lane.priority, lane.window, lane.not_before
            batch = lane.batch if (lane.tenant, lane.priority) in apart else None
            alike[when, batch, frozenset(each.times)].append(each)
    return [_task(together, end) for together in alike.values()]


def _task(together: Sequence[LaneOnWorkers], end: Ends) -> SimulatedTask:
    lane = together[0].lane
    jobs = sum(each.lane.jobs for each in together)
    groups = together[0].times
    seconds = {
        group: sum(each.lane.jobs * getattr(each.times[group].seconds, end) for each in together) / jobs
        for group in groups
    }
    task = Task(
        lane.tenant,
        lane.priority,
        _LAST if lane.batch is None else lane.batch,
        jobs,
        seconds,
        parse_window(lane.window) if lane.window else None,
        lane.not_before,
        lane.batch is None,
    )
    return SimulatedTask(task, {group: _joules(together, group, end) for group in groups})


def _joules(together: Sequence[LaneOnWorkers], group: int, end: Ends) -> float | None:
    total = 0.0
    for each in together:
        joules = each.times[group].joules
        if joules is None:
            return None
        total += each.lane.jobs * getattr(joules, end)
    return total / sum(each.lane.jobs for each in together)


def with_more(
    lanes: Sequence[LaneOnWorkers], groups: Sequence[WorkerGroup], number: int, like: int
) -> tuple[list[LaneOnWorkers], list[WorkerGroup]]:
    """Return the lanes and groups where `number` workers like those of a group are started now."""
    more = replace(groups[like], workers=number, starts_in_s=groups[like].start_s)
    place = len(groups)
    return [
        LaneOnWorkers(each.lane, each.times | ({place: each.times[like]} if like in each.times else {}))
        for each in lanes
    ], [*groups, more]
