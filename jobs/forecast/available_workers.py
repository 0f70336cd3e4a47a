"""Workers that may take up new work: groups of the same pool and device."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.queue.worker_pools import pools
from jobs.queue.worker_registry import DRAINED, LOST, Worker, workers
from jobs.states import DEFAULT_POOL, WorkerActivity, WorkerState

_LEFT_OUT = (LOST, DRAINED, WorkerActivity.DRAINING, WorkerState.UNHEALTHY)
START_S = 600.0
"""In what time a new worker renders at full speed, unless its pool says."""


UNKNOWN = ""
"""The device of workers on whose host nothing was measured yet."""

# Workers register their place, such as cuda:0, before they have opened the device; what they used has its name.
_PLACE = re.compile(r"(auto|cpu|cuda|mps)(:\d+)*")
_DEVICES = text("""
    SELECT DISTINCT ON (worker) worker, device FROM lane_usage WHERE began_at > now() - interval '90 days'
    ORDER BY worker, began_at DESC
""")


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """Workers of a pool on the same kind of device; `models` None: they process all. `starts_in_s`: not there yet.

    `device` is UNKNOWN where nothing was measured on the host.
    """

    pool: str
    device: str
    workers: int
    models: tuple[str, ...] | None = None
    starts_in_s: float = 0.0
    start_s: float = START_S
    """What another worker of the pool takes to start."""

    def serves(self, model: str) -> bool:
        """Whether its workers process lanes of the model."""
        return self.models is None or model in self.models


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers there are; `left_out` counts those that take up no work, by their state."""

    groups: tuple[WorkerGroup, ...]
    left_out: dict[str, int]

    @property
    def workers(self) -> int:
        """The number of workers that take up work."""
        return sum(group.workers for group in self.groups)


def fleet(engine: Engine) -> Fleet:
    """Return the workers that live and are neither drained nor unhealthy."""
    found, left_out = Counter[tuple[str, str]](), Counter[str]()
    used = {row.worker: row.device for row in run(engine, _DEVICES, {})}
    for worker in workers(engine):
        if worker.shown_state in _LEFT_OUT:
            left_out[str(worker.shown_state)] += worker.shown_state != LOST
        else:
            found[worker.pool, _device_of(worker, used)] += 1
    known = {pool.name: pool for pool in pools(engine)}
    groups = tuple(
        WorkerGroup(pool, device, number, known[pool].models, start_s=known[pool].start_s)
        for (pool, device), number in sorted(found.items())
        if pool in known
    )
    return Fleet(groups, {state: number for state, number in left_out.items() if number})


def _device_of(worker: Worker, used: Mapping[str, str]) -> str:
    """Return the name of a worker's device: as it used it, or else another worker of its host."""
    if not _PLACE.fullmatch(worker.device):
        return worker.device
    of_host = (device for name, device in used.items() if name.rpartition(":")[0] == worker.host)
    return used.get(worker.name) or next(of_host, UNKNOWN)


def assumed(device: str) -> Sequence[WorkerGroup]:
    """Return the one worker that is counted with where there is none."""
    return (WorkerGroup(DEFAULT_POOL, device, 1),)
