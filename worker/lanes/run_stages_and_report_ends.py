"""Runs items through stages in order; items that end on the way are reported at once."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

from sqlalchemy import Engine

from jobs.errors import LeaseLostError
from jobs.job_dataclasses import Failure, LaneId
from jobs.queue import transitions
from jobs.states import Outcome
from worker.bisect import run_stage
from worker.health.error_classification import LaneDoubtedError
from worker.health.fault_attribution import CircuitBreaker, Judgement, is_certain
from worker.item import PipelineItem
from worker.liveness.lease_keeper import LeaseKeeper
from worker.monitoring.job_traces import JobTraces
from worker.stage import Stage

log = logging.getLogger(__name__)


class StageRunner:
    """Marks jobs of ended items as blocked, failed or waiting for their next attempt, and drops their leases.

    A failure may be held until the circuit breaker decides whether the job or the worker is at fault; raises
    LaneDoubtedError where it may be the worker. `safety` is the safety policy by which the items are judged
    (`jobs.policy.stored_policy.safety_of`); None if it is not to be compared with the batch's.
    """

    safety: str | None = None

    def __init__(
        self,
        engine: Engine,
        leases: LeaseKeeper,
        breaker: CircuitBreaker,
        *,
        retry_delay_s: float,
        traces: JobTraces,
    ) -> None:
        self._engine, self._leases, self._breaker = engine, leases, breaker
        self._retry_delay_s, self._traces = retry_delay_s, traces

    def run(self, stage: Stage, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Run a stage and return all items; one that fails alone is returned as ended, and its batch-mates go on."""
        bundles = [[item] for item in items] if stage.is_one_at_a_time else [items]
        lock = stage.context.model_lock if stage.uses_model else nullcontext()
        done: list[PipelineItem] = []
        for bundle in bundles:
            if bundle:
                with lock:
                    began_ns = time.time_ns()
                    done += run_stage(stage.name, stage.run, bundle)
                self._traces.stage(stage.name, (item.job for item in bundle), began_ns)
        return done

    def run_all(self, stages: Iterable[Stage], items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Run stages in order and return the items that pass all of them."""
        going = self.without_ended(items)
        for stage in stages:
            going = self.without_ended(self.run(stage, going))
        return going

    def without_ended(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Report the items that have ended and return the others."""
        self.end([item for item in items if item.end])
        return [item for item in items if item.end is None]

    def end(self, ended: Sequence[PipelineItem]) -> None:
        """Report items that have ended."""
        blocked = [item for item in ended if item.end and item.end.is_block]
        failed = [item for item in ended if item.end and not item.end.is_block]
        if blocked:
            failures = [item.failure() for item in blocked]
            self._report(failures, lambda: transitions.block(self._engine, failures, safety=self.safety))
            self._traces.ended((item.job.id for item in blocked), Outcome.BLOCKED)
            self._leases.drop(item.job for item in blocked)
        self._charge([item for item in failed if is_certain(item)])
        if (suspects := [item for item in failed if not is_certain(item)]) and self._apply(
            self._breaker.failed(suspects)
        ):
            raise LaneDoubtedError("job after job failed here")

    def went_well(self, lane: LaneId) -> None:
        """Record that an image was stored: failures that were held are the jobs' own."""
        self._apply(self._breaker.went_well(lane))

    def close(self) -> None:
        """Judge the failures that are still held."""
        self._apply(self._breaker.ended())

    def _apply(self, judgement: Judgement) -> bool:
        """Apply the judgement; returns whether jobs were released."""
        self._charge(judgement.charged)
        self._give_back(judgement.returned, judgement.delay_s)
        return bool(judgement.returned)

    def _charge(self, items: Sequence[PipelineItem]) -> None:
        failures = [item.failure() for item in items]
        self._report(failures, lambda: transitions.fail(self._engine, failures, delay_s=self._retry_delay_s))
        self._traces.ended((item.job.id for item in items), Outcome.FAILED)
        self._leases.drop(item.job for item in items)

    def _give_back(self, items: Sequence[PipelineItem], delay_s: float) -> None:
        if items:
            transitions.give_back(self._engine, [item.failure() for item in items], delay_s=delay_s)
        self._traces.ended((item.job.id for item in items), Outcome.RETURNED)
        self._leases.drop(item.job for item in items)

    def _report(self, failures: Sequence[Failure], write: Callable[[], None]) -> None:
        if not failures:
            return
        try:
            write()
        except LeaseLostError as error:
            self._leases.refused((each.id, each.lease) for each in failures if each.id in error.lost)
            log.warning("%s", error)
