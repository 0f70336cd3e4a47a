"""Claims of a lane session, and how many jobs they take."""

import math
import time

from jobs.job_dataclasses import Job, JobId, Lane
from jobs.policy.stored_policy import safety_of
from jobs.queue import transitions
from jobs.settings import Settings
from worker.lanes.worker_context import WorkerContext

LEAST_CLAIM = 8  # nearly fills a device batch of slow images; `nightmill_wanted_workers` has the same number


def claim_limit(lane: Lane, settings: Settings) -> int:
    """Return how many jobs a worker claims at once: a time slice's, by the lane's measured pace, but at least eight.

    A worker with more slow jobs would hold them while others idle. `NIGHTMILL_CLAIM` is the upper bound.
    """
    in_a_slice = math.inf if lane.image_s is None else settings.time_slice_s / max(lane.image_s, 1e-6)
    return min(settings.claim, max(LEAST_CLAIM, math.ceil(min(in_a_slice, settings.claim))))


class LaneClaims:
    """Claims jobs of one lane; `taken` counts them."""

    def __init__(self, context: WorkerContext) -> None:
        self.taken = 0
        self._context = context
        self._after = JobId(0)

    def claim(self, lane: Lane) -> list[Job]:
        """Claim jobs of the lane and keep their leases renewed."""
        context, began_ns = self._context, time.time_ns()
        jobs = transitions.claim(
            context.engine,
            lane.id,
            limit=claim_limit(lane, context.settings),
            worker=context.worker,
            lease_s=context.settings.lease_s,
            after=self._after,
            safety=safety_of(lane.policy),
        )
        self._after = max((job.id for job in jobs if job.is_fresh), default=self._after)
        context.leases.add(jobs)
        context.traces.claimed(lane, jobs, context.worker, began_ns)
        self.taken += len(jobs)
        return jobs
