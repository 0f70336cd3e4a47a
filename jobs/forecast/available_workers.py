"""Workers that may take up new work: groups of the same pool and device."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from jobs.queue.worker_pools import pools
from jobs.queue.worker_registry import DRAINED, LOST, workers
from jobs.states import DEFAULT_POOL, WorkerActivity, WorkerState

_LEFT_OUT = (LOST, DRAINED, WorkerActivity.DRAINING, WorkerState.UNHEALTHY)
START_S = 600.0
"""In what time a new worker renders at full speed, unless its pool says."""


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """Workers of a pool on the same kind of device; `models` None: they process all. `starts_in_s`: not there yet."""

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
    for worker in workers(engine):
        if worker.shown_state in _LEFT_OUT:
            left_out[str(worker.shown_state)] += worker.shown_state != LOST
        else:
            found[worker.pool, worker.device] += 1
    known = {pool.name: pool for pool in pools(engine)}
    groups = tuple(
        WorkerGroup(pool, device, number, known[pool].models, start_s=known[pool].start_s)
        for (pool, device), number in sorted(found.items())
        if pool in known
    )
    return Fleet(groups, {state: number for state, number in left_out.items() if number})


def assumed(device: str) -> Sequence[WorkerGroup]:
    """Return the one worker that is counted with where there is none."""
    return (WorkerGroup(DEFAULT_POOL, device, 1),)
