"""When a batch would end that isn't submitted yet, whether that is in time, and what it would cost."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from jobs.forecast.available_workers import Fleet, WorkerGroup, assumed, fleet
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
from jobs.policy.time_windows import parse_window
from jobs.setting_values.device_hour_prices import DevicePrices

MOST_WORKERS = 1_000
"""More workers than these aren't suggested."""
THIS_MACHINE = "this machine"

LocalTime = Callable[[QueuedLane], Range | None]
"""What an image of a lane takes on this machine, by a measurement of seconds; None: can't be told."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """One end of the range: when the batch ends, and what it uses until then."""

    ends_at: datetime | None
    worker_s: float
    cost: float | None
    joules: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """A batch's end as a range, with all that it rests on."""

    now: datetime
    policy: BatchPolicy
    lanes: list[LaneOnWorkers]
    ahead: list[LaneOnWorkers]
    groups: Sequence[WorkerGroup]
    fleet: Fleet
    measured: Measurements
    earliest: Simulated
    latest: Simulated
    more_workers_needed: int | None
    """To meet the deadline for sure: 0 if it is met; None without a deadline, or if no number would do."""

    @property
    def unmeasured(self) -> list[QueuedLane]:
        """The batch's lanes of which no range is known on the workers there are."""
        return [each.lane for each in self.lanes if not each.times]

    @property
    def ends_at_latest(self) -> datetime | None:
        """When it has ended at the latest; None if that can't be told."""
        return None if self.unmeasured else self.latest.ends_at

    @property
    def workers(self) -> int:
        """Workers counted with: those that can process some of the batch, or one that is assumed."""
        used = {group for each in self.lanes for group in each.times}
        return sum(self.groups[group].workers for group in used)

    @property
    def uncounted(self) -> dict[str, int]:
        """Workers by device that aren't counted with: their pools don't serve the lanes, or nothing is measured."""
        used = {group for each in self.lanes for group in each.times}
        left: Counter[str] = Counter()
        for number, group in enumerate(self.groups):
            left[group.device] += 0 if number in used or self.is_assumed else group.workers
        return {device: number for device, number in left.items() if number}

    @property
    def is_assumed(self) -> bool:
        """Whether there is no worker, and one is counted with."""
        return not self.fleet.workers

    @property
    def verdict(self) -> str | None:
        """`fits`, `may miss`, `misses` or `unknown`; None without a deadline."""
        deadline = self.policy.deadline
        if deadline is None:
            return None
        if self.earliest.ends_at is not None and self.earliest.ends_at > deadline:
            return "misses"
        if self.unmeasured:
            return "unknown"
        if self.latest.ends_at is not None and self.latest.ends_at <= deadline:
            return "fits"
        return "misses" if self.earliest.ends_at is None else "may miss"

    def windows_until(self, end: datetime | None) -> int | None:
        """Return in how many openings of its window it is worked at until then; None without a window or an end."""
        if self.policy.window is None or end is None:
            return None
        window, moment, number = parse_window(self.policy.window), self.starts_at, 0
        while moment < end:
            number += 1
            moment = window.around(moment)[1]
        return max(1, number)

    @property
    def starts_at(self) -> datetime:
        """When it may first be worked at."""
        moment = max(self.now, self.policy.not_before or self.now)
        if self.policy.window is None:
            return moment
        return max(moment, parse_window(self.policy.window).around(moment)[0])

    def report(self) -> dict[str, Any]:
        """Return the values that `plan --json` prints as `forecast`."""
        deadline, latest = self.policy.deadline, self.ends_at_latest
        return {
            "starts_at": self.starts_at.isoformat(),
            "ends_at_earliest": _iso(
                None if len(self.unmeasured) == len(self.lanes) else self.earliest.ends_at
            ),
            "ends_at_latest": _iso(latest),
            "verdict": self.verdict,
            "spare_s": _spare(deadline, latest),
            "spare_s_at_most": _spare(deadline, self.earliest.ends_at),
            "windows_at_least": self.windows_until(self.earliest.ends_at),
            "windows_at_most": self.windows_until(latest),
            "workers": self.workers,
            "is_worker_assumed": self.is_assumed,
            "workers_left_out": self.fleet.left_out,
            "workers_not_measured": self.uncounted,
            "more_workers_needed": self.more_workers_needed,
            **self._uses(),
            "batches_ahead": sorted({each.lane.name for each in self.ahead}),
            "jobs_ahead": sum(each.lane.jobs for each in self.ahead),
            "jobs_ahead_unmeasured": sum(each.lane.jobs for each in self.ahead if not each.times),
            "jobs_unmeasured": sum(lane.jobs for lane in self.unmeasured),
            "lanes": [entry for each in self.lanes for entry in self._lane(each)],
        }

    def _uses(self) -> dict[str, Any]:
        low, high = self.earliest, None if self.unmeasured else self.latest
        return {
            f"{name}_{end}": None if of is None or (value := getattr(of, name)) is None else round(value, 4)
            for name in ("worker_s", "cost", "joules")
            for end, of in (("low", low if high else None), ("high", high))
        }

    def _lane(self, each: LaneOnWorkers) -> list[dict[str, Any]]:
        kind, lane = each.lane.kind, each.lane
        base = {name: getattr(kind, name) for name in ("model", "mode", "lora", "width", "height", "upscale")}
        is_served = any(group.serves(kind.model) for group in self.groups)
        base |= {"tenant": lane.tenant, "jobs": lane.jobs, "is_served": is_served}
        if not each.times:
            return [base | _NOTHING | {"measured_on": self.measured.devices(kind)}]
        by_device = {self.groups[group].device: time for group, time in sorted(each.times.items())}
        return [base | _time_report(device, time) for device, time in by_device.items()]


_NOTHING: dict[str, Any] = {
    "device": None, "image_s_low": None, "image_s_high": None, "joules_low": None, "joules_high": None,
    "source": None, "quarters": 0, "images": 0, "is_scaled_by_steps": False, "has_other_loras": False,
}  # fmt: skip


def _time_report(device: str, time: ImageTime) -> dict[str, Any]:
    return {
        "device": device,
        "image_s_low": round(time.seconds.low, 4),
        "image_s_high": round(time.seconds.high, 4),
        "joules_low": time.joules and round(time.joules.low, 2),
        "joules_high": time.joules and round(time.joules.high, 2),
        "source": "workers" if time.quarters else THIS_MACHINE,
        "quarters": time.quarters,
        "images": time.images,
        "is_scaled_by_steps": time.is_scaled,
        "has_other_loras": time.has_other_loras,
    }


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


def _spare(deadline: datetime | None, end: datetime | None) -> float | None:
    return None if deadline is None or end is None else round((deadline - end) / timedelta(seconds=1), 1)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
