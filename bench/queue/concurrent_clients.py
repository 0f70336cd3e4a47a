"""Concurrent processes on one lane, each with its own connection: claimers, or stub renderers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from bench.backlog import LEASE_S, START, image_of
from bench.harness.process_pool import together, wait_for_all
from jobs.db.engine import connect
from jobs.job_dataclasses import JobId, LaneId
from jobs.queue import transitions

WARM_UP = 10  # calls: a connection plans its statements in the first ones, and workers run for hours


@dataclass(frozen=True)
class Crowd:
    """The load of each process per turn: `calls` claims of `at_once` jobs, which it completes or not."""

    url: str
    lane: LaneId
    at_once: int
    calls: int
    completes: bool = False

    def take_turns(self, turns: Sequence[int]) -> tuple[int, list[float]]:
        """Return the jobs claimed in all, and each turn's jobs per second, with that number of processes at work.

        The same processes work in all turns, so that turns of one and of many meet the same conditions. A turn lasts
        from the first start to the last end. Each process makes a few calls first, which aren't timed.
        """
        members = max(turns)
        with together(members) as pool:
            arguments = [(self, tuple(turns), rank) for rank in range(members)]
            shares = [share for part in pool.starmap(_work, arguments, chunksize=1) for share in part]
        jobs = [job for share in shares for job in share.jobs]
        if len(set(jobs)) != len(jobs):
            raise AssertionError("a job was given to two claimers")
        return len(jobs), [
            _rate([share for share in shares if share.turn == turn]) for turn in range(len(turns))
        ]


@dataclass(frozen=True)
class _Share:
    """What one process claimed in one turn; turn -1 is the warm-up."""

    turn: int
    began: float
    ended: float
    jobs: list[JobId]


def _rate(shares: list[_Share]) -> float:
    elapsed = max(share.ended for share in shares) - min(share.began for share in shares)
    return sum(len(share.jobs) for share in shares) / elapsed


def _work(crowd: Crowd, turns: tuple[int, ...], rank: int) -> list[_Share]:
    engine = connect(crowd.url, pool_size=1)
    shares = [_share(crowd, engine, -1, min(WARM_UP, crowd.calls), START)]
    for turn, members in enumerate(turns):
        wait_for_all()
        if rank < members:
            shares.append(_share(crowd, engine, turn, crowd.calls, max(shares[-1].jobs)))
    engine.dispose()
    return shares


def _share(crowd: Crowd, engine: Engine, turn: int, calls: int, after: JobId) -> _Share:
    began, taken = time.monotonic(), list[JobId]()
    for _ in range(calls):
        jobs = transitions.claim(
            engine, crowd.lane, limit=crowd.at_once, worker="crowd", lease_s=LEASE_S, after=after
        )
        after = max((job.id for job in jobs), default=after)
        taken += [job.id for job in jobs]
        if crowd.completes:
            transitions.complete(engine, [image_of(job) for job in jobs])
    return _Share(turn, began, time.monotonic(), taken)
