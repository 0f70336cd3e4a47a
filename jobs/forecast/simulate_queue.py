"""Simulate what workers do with queued work: shares by tenants' weights, priorities, windows; time flows in events.

Workers are fluid: a share of a group's workers works in a task, as long as that is open and has images left. Limits of
running jobs, loaded models and what tenants used before are left out.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from jobs.forecast.available_workers import WorkerGroup
from jobs.policy.time_windows import Window

HORIZON = timedelta(days=400)
_EMPTY = 1e-6
_SHORTEST = timedelta(milliseconds=1)


@dataclass
class Task:
    """Images of a batch that the same groups of workers can render.

    `image_s` has the seconds of an image by the group's position. `order`: of equals, lower ones come first.
    """

    tenant: str
    priority: int
    order: int
    images: float
    image_s: Mapping[int, float]
    window: Window | None = None
    not_before: datetime | None = None
    is_planned: bool = False
    done: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    """Images by group."""
    _around: tuple[datetime, datetime] | None = None

    def is_open(self, now: datetime) -> bool:
        """Whether it has work that may be processed now."""
        return self.images > _EMPTY and self.next_change(now)[0]

    def next_change(self, now: datetime) -> tuple[bool, datetime | None]:
        """Return whether it may be processed now by the clock alone, and when that changes; None: never."""
        if self.not_before is not None and now < self.not_before:
            return False, self.not_before
        if self.window is None:
            return True, None
        if self._around is None or now >= self._around[1]:
            self._around = self.window.around(now)
        opens, closes = self._around
        return (True, closes) if opens <= now else (False, opens)


def simulate(
    tasks: Sequence[Task],
    groups: Sequence[WorkerGroup],
    weights: Mapping[str, int],
    now: datetime,
    *,
    shares_with_equals: bool,
) -> datetime | None:
    """Return when the planned tasks have no images left; None: not within HORIZON of not_before.

    The tasks are used up. Those of the same tenant and priority share its workers, or one after the other gets them.
    """
    began = now
    starts = max((task.not_before for task in tasks if task.is_planned and task.not_before), default=began)
    latest = max(began, starts) + HORIZON
    while any(task.images > _EMPTY for task in tasks if task.is_planned):
        if now > latest:
            return None
        rates = _rates(tasks, groups, weights, now, began, shares_with_equals=shares_with_equals)
        moments = [
            now + timedelta(seconds=s) for task, by in rates if (s := task.images / sum(by.values())) < 1e9
        ]
        moments += _clock_changes(tasks, groups, now, began)
        if not moments:
            return None
        then = max(min(moments), now + _SHORTEST)
        _advance(rates, (then - now).total_seconds())
        now = then
    return now


def _clock_changes(
    tasks: Sequence[Task], groups: Sequence[WorkerGroup], now: datetime, began: datetime
) -> list[datetime]:
    starts = (began + timedelta(seconds=group.starts_in_s) for group in groups)
    changes = (task.next_change(now)[1] for task in tasks if task.images > _EMPTY)
    return [moment for moment in (*starts, *changes) if moment is not None and moment > now]


def _advance(rates: Sequence[tuple[Task, Mapping[int, float]]], seconds: float) -> None:
    for task, by_group in rates:
        part = min(1.0, task.images / (sum(by_group.values()) * seconds))
        for group, rate in by_group.items():
            task.done[group] += part * rate * seconds
        task.images = max(0.0, task.images - part * sum(by_group.values()) * seconds)


def _rates(
    tasks: Sequence[Task],
    groups: Sequence[WorkerGroup],
    weights: Mapping[str, int],
    now: datetime,
    began: datetime,
    *,
    shares_with_equals: bool,
) -> list[tuple[Task, dict[int, float]]]:
    """Return images a second by group, of each task that gets any."""
    is_open = [task for task in tasks if task.is_open(now)]
    rates: dict[int, dict[int, float]] = defaultdict(dict)
    for number, group in enumerate(groups):
        if now < began + timedelta(seconds=group.starts_in_s):
            continue
        first = _first_of_tenants(
            [(place, task) for place, task in enumerate(is_open) if number in task.image_s],
            shares_with_equals=shares_with_equals,
        )
        total = sum(weights.get(tenant, 1) for tenant in first)
        for tenant, places in first.items():
            share = group.workers * weights.get(tenant, 1) / total / len(places)
            for place in places:
                rates[place][number] = share / is_open[place].image_s[number]
    return [(is_open[place], by_group) for place, by_group in rates.items()]


def _first_of_tenants(tasks: Sequence[tuple[int, Task]], *, shares_with_equals: bool) -> dict[str, list[int]]:
    """Return the places of each tenant's tasks that are processed now."""
    by_tenant: dict[str, list[tuple[int, Task]]] = defaultdict(list)
    for place, task in tasks:
        by_tenant[task.tenant].append((place, task))
    found: dict[str, list[int]] = {}
    for tenant, own in by_tenant.items():
        best = max(task.priority for _, task in own)
        equals = sorted(((task.order, place) for place, task in own if task.priority == best))
        first = equals if shares_with_equals else [each for each in equals if each[0] == equals[0][0]]
        found[tenant] = [place for _, place in first]
    return found
