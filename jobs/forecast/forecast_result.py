"""The result of a forecast: a batch's end as a range, what it rests on and what it uses, and whether it is in time."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from jobs.forecast.available_workers import Fleet, WorkerGroup
from jobs.forecast.measured_image_times import ImageTime, Measurements
from jobs.forecast.queued_lanes import QueuedLane
from jobs.forecast.simulated_tasks_from_lanes import LaneOnWorkers
from jobs.policy.batch_policy import BatchPolicy
from jobs.policy.time_windows import parse_window

THIS_MACHINE = "this machine"


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


def _spare(deadline: datetime | None, end: datetime | None) -> float | None:
    return None if deadline is None or end is None else round((deadline - end) / timedelta(seconds=1), 1)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
