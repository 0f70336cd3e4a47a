"""When a batch would end that isn't submitted yet, whether that is in time, and what it would cost."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine

from jobs.forecast.available_workers import Fleet, WorkerGroup, assumed, fleet
from jobs.forecast.forecast_result import THIS_MACHINE, Forecast, Simulated
from jobs.forecast.measured_image_times import ImageTime, Measurements, measurements
from jobs.forecast.queued_lanes import QueuedLane, queued_lanes, tenant_weights
from jobs.forecast.simulate_queue import simulate
from jobs.forecast.simulated_tasks_from_lanes import (
    Ends,
    LaneOnWorkers,
    lanes_on_workers,
    tasks_of,
    with_more,
)
from jobs.forecast.work_kinds_and_ranges import Range
from jobs.job_dataclasses import BatchId
from jobs.policy.batch_policy import BatchPolicy
from jobs.setting_values.device_hour_prices import DevicePrices

MOST_WORKERS = 1_000
"""More workers than these aren't suggested."""

LocalTime = Callable[[QueuedLane], Range | None]
"""What an image of a lane takes on this machine, by a measurement of seconds; None: can't be told."""


def forecast(
    engine: Engine,
    lanes: Sequence[QueuedLane],
    policy: BatchPolicy,
    now: datetime,
    prices: DevicePrices,
    local_time: LocalTime = lambda _: None,
    same_batch: BatchId | None = None,
) -> Forecast:
    """Simulate the batch's lanes behind what is queued. `local_time` is asked only if there is no worker.

    `same_batch` is the one that the manifest is already: it isn't ahead of itself.
    """
    there = fleet(engine)
    waiting = _competing(queued_lanes(engine, without=same_batch), lanes)
    measured = measurements(engine, {lane.kind for lane in (*lanes, *waiting)})

    def time_of(lane: QueuedLane, device: str) -> ImageTime | None:
        found = measured.of(lane.kind, device, lane.evaluations)
        if found is None and not there.workers and (local := local_time(lane)) is not None:
            return ImageTime(local, None, 0, 0)
        return found

    groups = there.groups if there.workers else assumed(_likely_device(lanes, measured))
    on_workers = lanes_on_workers(lanes, groups, time_of)
    ahead = lanes_on_workers(waiting, groups, time_of)
    night = _Night(policy, now, prices, tenant_weights(engine))
    earliest = night.simulated(on_workers, ahead, groups, "low")
    latest = night.simulated(on_workers, ahead, groups, "high")
    needed = night.more_workers(on_workers, ahead, groups, latest)
    return Forecast(now, policy, on_workers, ahead, groups, there, measured, earliest, latest, needed)


def empty_forecast(
    lanes: Sequence[QueuedLane], policy: BatchPolicy, now: datetime, local_time: LocalTime
) -> Forecast:
    """Forecast where there is no installation yet: one worker, by what this machine can do."""
    groups = assumed(THIS_MACHINE)

    def time_of(lane: QueuedLane, _: str) -> ImageTime | None:
        return None if (local := local_time(lane)) is None else ImageTime(local, None, 0, 0)

    on_workers = lanes_on_workers(lanes, groups, time_of)
    night = _Night(policy, now, DevicePrices(), {})
    earliest, latest = (night.simulated(on_workers, [], groups, end) for end in ("low", "high"))
    needed = night.more_workers(on_workers, [], groups, latest)
    return Forecast(
        now, policy, on_workers, [], groups, Fleet((), {}), Measurements(), earliest, latest, needed
    )


def _competing(waiting: Sequence[QueuedLane], lanes: Sequence[QueuedLane]) -> list[QueuedLane]:
    """Leave out batches of the same tenants that come after the planned one."""
    priority = {lane.tenant: lane.priority for lane in lanes}
    return [lane for lane in waiting if lane.priority >= priority.get(lane.tenant, lane.priority)]


def _likely_device(lanes: Sequence[QueuedLane], measured: Measurements) -> str:
    """Return the device on which most of the jobs' kinds were measured, the last one of equals."""
    jobs: Counter[str] = Counter()
    for lane in lanes:
        for device in measured.devices(lane.kind):
            jobs[device] += lane.jobs
    return max(jobs, key=lambda device: jobs[device]) if jobs else THIS_MACHINE


@dataclass(frozen=True, slots=True)
class _Night:
    """What all simulations of a forecast share."""

    policy: BatchPolicy
    now: datetime
    prices: DevicePrices
    weights: Mapping[str, int]

    def simulated(
        self,
        lanes: Sequence[LaneOnWorkers],
        ahead: Sequence[LaneOnWorkers],
        groups: Sequence[WorkerGroup],
        end: Ends,
    ) -> Simulated:
        equals = {(each.lane.tenant, each.lane.priority) for each in lanes} if end == "low" else set()
        found = [*tasks_of(ahead, end, equals), *tasks_of(lanes, end)]
        ends_at = simulate(
            [each.task for each in found], groups, self.weights, self.now, shares_with_equals=end == "low"
        )
        own = [each for each in found if each.task.is_planned]
        uses = [
            (groups[group].device, images * each.task.image_s[group], images, each.joules[group])
            for each in own
            for group, images in each.task.done.items()
        ]
        costs = [self.prices.cost(device, seconds) for device, seconds, _, _ in uses]
        return Simulated(
            ends_at,
            sum(seconds for _, seconds, _, _ in uses),
            _sum_of_known(costs),
            _sum_of_known([None if joules is None else joules * images for _, _, images, joules in uses]),
        )

    def more_workers(
        self,
        lanes: Sequence[LaneOnWorkers],
        ahead: Sequence[LaneOnWorkers],
        groups: Sequence[WorkerGroup],
        latest: Simulated,
    ) -> int | None:
        """Return how many workers more are needed so that even the latest end is in time."""
        deadline = self.policy.deadline
        if deadline is None or not lanes or not all(each.times for each in lanes):
            return None
        if latest.ends_at is not None and latest.ends_at <= deadline:
            return 0
        like = _quickest(lanes)

        def is_enough(number: int) -> bool:
            more_lanes, more_groups = with_more(lanes, groups, number, like)
            more_ahead, _ = with_more(ahead, groups, number, like)
            end = self.simulated(more_lanes, more_ahead, more_groups, "high").ends_at
            return end is not None and end <= deadline

        return _least(is_enough, MOST_WORKERS)


def _quickest(lanes: Sequence[LaneOnWorkers]) -> int:
    """Return the group that can render most of the jobs, of equals the one that takes least time."""
    jobs: Counter[int] = Counter()
    seconds: dict[int, float] = defaultdict(float)
    for each in lanes:
        for group, time in each.times.items():
            jobs[group] += each.lane.jobs
            seconds[group] += each.lane.jobs * time.seconds.high
    return min(jobs, key=lambda group: (-jobs[group], seconds[group], group))


def _least(is_enough: Callable[[int], bool], most: int) -> int | None:
    """Return the least number up to `most` that is enough; None: none is."""
    high = 1
    while not is_enough(high):
        if high >= most:
            return None
        high = min(most, high * 2)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _sum_of_known(values: Sequence[float | None]) -> float | None:
    """Return the sum; None if there is nothing to add up or a value isn't known."""
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None
