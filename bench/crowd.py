"""Several processes at one lane at once, each with a connection of its own: claimers, or stub renderers."""

import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier

from sqlalchemy import Engine

from bench.backlog import LEASE_S, image_of
from jobs import queue
from jobs.database import connect
from jobs.job import JobId, LaneId

START_S = 120


@dataclass(frozen=True)
class Crowd:
    """What each member does: `calls` claims of `at_once` jobs, and whether it completes them as a worker would."""

    url: str
    lane: LaneId
    at_once: int
    calls: int
    completes: bool = False

    def run(self, members: int) -> tuple[int, float]:
        """Jobs that all members got together, and jobs a second from the first begin to the last end."""
        context = get_context("spawn")
        with context.Manager() as manager:
            barrier = manager.Barrier(members)
            with context.Pool(members) as pool:
                spans = pool.starmap(_work, [(self, barrier)] * members)
        jobs = [job for _, _, taken in spans for job in taken]
        if len(set(jobs)) != len(jobs):
            raise AssertionError("a job was given to two claimers")
        elapsed = max(ended for _, ended, _ in spans) - min(began for began, _, _ in spans)
        return len(jobs), len(jobs) / elapsed


def _work(crowd: Crowd, barrier: Barrier) -> tuple[float, float, list[JobId]]:
    engine = connect(crowd.url, pool_size=1)
    engine.connect().close()
    barrier.wait(START_S)
    began, taken = time.monotonic(), _take_often(crowd, engine)
    ended = time.monotonic()
    engine.dispose()
    return began, ended, taken


def _take_often(crowd: Crowd, engine: Engine) -> list[JobId]:
    taken: list[JobId] = []
    after = JobId(0)
    for _ in range(crowd.calls):
        jobs = queue.claim(
            engine, crowd.lane, limit=crowd.at_once, worker="crowd", lease_s=LEASE_S, after=after
        )
        after = max((job.id for job in jobs), default=after)
        taken += [job.id for job in jobs]
        if crowd.completes:
            queue.complete(engine, [image_of(job) for job in jobs])
    return taken
