"""A lane session: claim and render jobs of one lane until it is empty, the time slice ends or the worker stops."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from sqlalchemy import Engine

from jobs.errors import LeaseLostError
from jobs.job_types import Job, JobId, Lane, LaneId
from jobs.process_lifecycle import SignalSafeEvent
from jobs.queue import transitions
from jobs.settings import Settings
from jobs.states import Mode
from jobs.storage.open import ObjectStore
from models.errors import InterruptedRender
from worker.bisect import Stage, aside, run_stage
from worker.health.error_classification import HostFaultError, LaneDoubtedError
from worker.health.fault_attribution import LATELY_S, CircuitBreaker
from worker.health.fault_causes import output_of, work_of
from worker.health.lane_backoff import Health
from worker.imaging.input_cache import Pictures
from worker.item import PipelineItem
from worker.lanes.background_pool import BackgroundPool
from worker.lanes.job_source import JobSource
from worker.lanes.lane_setup import LaneStart
from worker.lanes.stage_runner import StageRunner
from worker.liveness.lease_keeper import LeaseKeeper
from worker.liveness.progress_heartbeat import Heartbeat
from worker.model_cache.cache import ModelCache
from worker.stages.assess import AssessStages
from worker.stages.continuous_generation import Generation
from worker.stages.finish import FinishStages
from worker.stages.render_stages import RenderStages
from worker.stages.store_retry import Storing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerContext:
    """What a worker process keeps between sessions."""

    settings: Settings
    engine: Engine
    leases: LeaseKeeper
    model_cache: ModelCache
    stopping: SignalSafeEvent
    worker: str
    heartbeat: Heartbeat = field(default_factory=lambda: Heartbeat(math.inf))
    handover: Path | None = None
    buckets: dict[str, ObjectStore] = field(default_factory=dict)

    def pause(self, seconds: float) -> bool:
        """Wait for a service and return whether the worker is to stop. The watchdog doesn't count this as a hang."""
        self.heartbeat.beat()
        return self.stopping.wait(seconds)

    @cached_property
    def health(self) -> Health:
        """The faults that keep this worker from lanes."""
        return Health(self.engine, self.worker, self.leases.device, self.handover)

    @cached_property
    def breaker(self) -> CircuitBreaker:
        """The circuit breaker; after a restart it compares only with images that other workers store from now on."""
        within_s = 0.0 if self.health.has_rested() else LATELY_S
        return CircuitBreaker(self.engine, self.health, self.model_cache.check_device, within_s)


def work(context: WorkerContext, lane_id: LaneId) -> int:
    """Run one session in the lane; returns how many jobs were claimed."""
    return LaneSession(context).work(lane_id)


class LaneSession:
    """The claims, stages and deliveries of one session; `taken` counts the jobs claimed.

    When the time slice is over, `renew` returns whether the session gets another one. However short a slice is, the
    session claims once, so that every slice makes progress.
    """

    def __init__(self, context: WorkerContext, renew: Callable[[], bool] = lambda: False) -> None:
        self.context = context
        self.taken = 0
        self._renew = renew
        self._until = time.monotonic() + context.settings.time_slice_s
        self._is_over = False
        self._delivered = 0
        self._slowest_s = 0.0
        self._going: dict[JobId, Job] = {}
        self._left: list[Job] = []
        self._after = JobId(0)
        self._is_checked = self._is_open = False
        self._is_stuck = self._has_no_output = False
        self._counting = threading.Lock()
        self.leave_at: float | None = None
        self.finishing: FinishStages | None = None
        self.judging: AssessStages | None = None
        self.pictures = Pictures(context.settings)
        self.stage_runner = StageRunner(
            context.engine, context.leases, context.breaker, retry_delay_s=context.settings.retry_delay_s
        )
        self.line = BackgroundPool(self._deliver)
        self.starting = LaneStart(
            context.settings, context.engine, context.model_cache, context.health, context.buckets
        )
        self.storing = Storing(context.health, context.stopping.wait)

    def work(self, lane_id: LaneId) -> int:
        """Claim and render until the lane is empty or the session ends; returns how many jobs were claimed."""
        try:
            while (
                (lane := self._open(lane_id)) and self.starting.may_claim(lane) and (jobs := self._jobs(lane))
            ):
                self.render(lane, jobs)
        finally:
            self.close()
        return self.taken

    def is_over(self) -> bool:
        """Whether the worker is to stop, or the time slice is over and at least one job was claimed."""
        if self._must_end():
            return True
        if self.taken and not self._is_over and time.monotonic() >= self._until:
            self._is_over = not self._renew()
            self._until = time.monotonic() + self.context.settings.time_slice_s
        return self._is_over

    def counted(self) -> tuple[int, float]:
        """Return the images stored since the last call, and the longest time from a job's start to its stored image."""
        with self._counting:
            counted = self._delivered, self._slowest_s
            self._delivered, self._slowest_s = 0, 0.0
        return counted

    def claim(self, lane: Lane) -> list[Job]:
        """Claim jobs of the lane and keep their leases renewed."""
        context = self.context
        jobs = transitions.claim(
            context.engine,
            lane.id,
            limit=context.settings.claim,
            worker=context.worker,
            lease_s=context.settings.lease_s,
            after=self._after,
        )
        self._after = max((job.id for job in jobs if job.is_fresh), default=self._after)
        context.leases.add(jobs)
        self.taken += len(jobs)
        return jobs

    def render(self, lane: Lane, jobs: Sequence[Job]) -> None:
        """Render the jobs, and others claimed meanwhile; jobs that have not begun at a stop are released."""
        started = self.starting.start(lane)
        if started is None:
            self._is_stuck = True
            self.context.leases.release(jobs)
            return
        self.finishing = self.finishing or started.finishing
        self.judging = self.judging or started.judging
        making = RenderStages(
            self.context.model_cache,
            started.lane_models,
            lane,
            self.pictures,
            self.judging,
            on_step=self._watch,
        )
        try:
            with suppress(InterruptedRender):
                self._enlarge(making, jobs) if lane.mode == Mode.UPSCALE else self._draw(making, jobs)
        except HostFaultError as error:
            self._give_up(lane, error)
        self.context.leases.release(self._going.values())
        self._going.clear()

    def close(self) -> None:
        """Wait for deliveries, in a stopping worker at most for the shutdown grace period; release jobs still held."""
        if not self.line.drain(self._must_leave):
            log.warning("stopped with images undelivered; their jobs will be rendered again")
        if not self.context.stopping.is_set():
            self.stage_runner.close()
        self.context.leases.release_all()

    def _must_leave(self) -> bool:
        """Whether the worker was asked to stop and the shutdown grace period is over; polled while waiting."""
        if self.storing.is_waiting():
            self.context.heartbeat.beat()
        if not self.context.stopping.is_set():
            return False
        self.leave_at = self.leave_at or time.monotonic() + self.context.settings.shutdown_grace_s
        return time.monotonic() >= self.leave_at

    def _draw(self, making: RenderStages, jobs: Sequence[Job]) -> None:
        """Keep the continuous batch full until no job is left that may begin."""
        lane = making.lane
        source = JobSource(
            jobs,
            claim=lambda: [] if self.is_over() else self.claim(lane),
            is_open=lambda: self._may_begin(lane),
        )
        try:
            with closing(Generation(making).run(self._prepared(source, making))) as drawn:
                while items := self._next(making, drawn):
                    if not self._hand_over(items, self._on_device(making, making.after_drawing(), items)):
                        break
        finally:
            self._left = source.left
            self.context.leases.release(source.rest())

    def _prepared(self, source: JobSource, making: RenderStages) -> Iterator[PipelineItem]:
        """Yield items for the model, as it asks for them."""
        while True:
            with aside(), self.context.heartbeat.unhurried():
                job = source.next()
                begun = self._begin([job] if job else [])
                items = self.stage_runner.through(making.before_drawing(), begun)
            if job is None:
                return
            if not items:
                self._going.pop(job.id, None)
            yield from items

    def _next(self, making: RenderStages, drawn: Iterator[list[PipelineItem]]) -> list[PipelineItem]:
        """Return the next generated images; empty when there are no more."""
        stage: Stage = lambda _: next(drawn, [])  # noqa: E731
        with self.context.heartbeat.device_batch(
            making.lane_models, making.lane.id, [("generate", stage)]
        ) as [(name, monitored)]:
            return run_stage(name, monitored, [])

    def _enlarge(self, making: RenderStages, jobs: Sequence[Job]) -> None:
        """Upscale input images, one device batch at a time."""
        rows, waiting = self.context.model_cache.rows(making.lane, "enlarge"), deque(jobs)
        try:
            while waiting and self._may_begin(making.lane):
                self._is_checked = False
                items = self._begin([waiting.popleft() for _ in range(min(rows, len(waiting)))])
                if not self._hand_over(items, self._on_device(making, making.enlarging(), items)):
                    break
        finally:
            self.context.leases.release(waiting)

    def _begin(self, jobs: Sequence[Job]) -> list[PipelineItem]:
        """Return items for those jobs whose lease this worker still holds."""
        ours = [job for job in jobs if self.context.leases.holds(job)]
        self._going |= {job.id: job for job in ours}
        return [PipelineItem(job) for job in ours]

    def _on_device(
        self, making: RenderStages, stages: Sequence[tuple[str, Stage]], items: Sequence[PipelineItem]
    ) -> list[PipelineItem]:
        with self.context.heartbeat.device_batch(making.lane_models, making.lane.id, stages) as monitored:
            return self.stage_runner.through(monitored, items)

    def _hand_over(self, begun: Sequence[PipelineItem], items: Sequence[PipelineItem]) -> bool:
        """Queue for delivery what remains of the items begun; False if the worker must stop before there is room."""
        if not self.line.put(items, self._must_leave):
            return False
        for item in begun:
            self._going.pop(item.job.id, None)
        return True

    def _open(self, lane_id: LaneId) -> Lane | None:
        return None if self._must_end() else transitions.open_lane(self.context.engine, lane_id)

    def _must_end(self) -> bool:
        """Whether the worker was asked to stop, or a fault keeps it from this lane."""
        return self._is_stuck or self.context.stopping.is_set()

    def _jobs(self, lane: Lane) -> list[Job]:
        """Return the next jobs: those claimed already, else a new claim."""
        left, self._left = self._left, []
        return left or ([] if self.is_over() else self.claim(lane))

    def _may_begin(self, lane: Lane) -> bool:
        """Whether the lane is still open; queried once for all jobs that begin before the next step."""
        if not self._is_checked:
            self._is_checked, self._is_open = True, self._open(lane.id) is not None
        return self._is_open

    def _watch(self, _: int) -> None:
        """Callback between two steps; raises InterruptedRender if the worker is to stop or has lost all its leases."""
        self._is_checked = False
        self.context.heartbeat.beat()
        if self._must_end() or not any(map(self.context.leases.holds, self._going.values())):
            raise InterruptedRender("asked to stop")

    def _deliver(self, items: Sequence[PipelineItem]) -> None:
        assert self.finishing is not None
        assert self.judging is not None
        lane = self.finishing.lane
        judging = [] if lane.upscales_drawn else self.judging.stages()
        stages = [*judging, *self.finishing.stages(self._upload)]
        try:
            finished = self.stage_runner.through(stages, items, alone=("encode", "upload"))
            self.finishing.complete(finished)
            self._note(finished)
        except LeaseLostError as error:
            log.warning("%s; their images were dropped", error)
        except HostFaultError as error:
            self._give_up(lane, error)
            self.context.leases.release(item.job for item in items)
        finally:
            # In any case the leases are renewed no more: jobs that are still running are queued again when they expire.
            self.context.leases.drop(item.job for item in items)

    def _give_up(self, lane: Lane, error: HostFaultError) -> None:
        """Leave the lane for a while; a doubted lane has been recorded by the circuit breaker already."""
        self._is_stuck = True
        if not isinstance(error, LaneDoubtedError):
            self.context.health.failed(work_of(lane.id), str(error), lane.id)

    def _upload(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """The upload stage, which retries while the output is unavailable; when it gives up, the jobs are released."""
        finishing, leases = self.finishing, self.context.leases
        assert finishing is not None
        lane = finishing.lane
        try:
            if self._has_no_output:
                raise HostFaultError(f"{lane.output} was given up")
            return self.storing.until_done(
                lambda: finishing.upload(items),
                cause=output_of(lane),
                lane=lane.id,
                is_wanted=lambda: not self._must_end() and all(leases.holds(item.job) for item in items),
            )
        except HostFaultError:
            self._has_no_output = self._is_stuck = True
            leases.release(item.job for item in items)
            return []

    def _note(self, finished: Sequence[PipelineItem]) -> None:
        if finished:
            lane = finished[0].job.lane_id
            self.stage_runner.went_well(lane)
            self.context.health.went_well(work_of(lane))
            self.context.health.stored()
        now = time.monotonic()
        with self._counting:
            self._delivered += len(finished)
            self._slowest_s = max([self._slowest_s, *(now - item.began_s for item in finished)])
