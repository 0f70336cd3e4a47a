"""A lane session: claim and render jobs of one lane until it is empty, the time slice ends or the worker stops."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import replace

from jobs.images.find_images_of_same_inputs import ReusableImage
from jobs.job_dataclasses import Job, JobId, Lane, LaneId
from jobs.logs import log_context
from jobs.monitoring import metrics
from jobs.policy.stored_policy import safety_of
from jobs.queue import transitions
from jobs.states import WorkerActivity
from models.errors import InterruptedRender
from worker.content_safety_requests import rates_prompts
from worker.health.error_classification import HostFaultError
from worker.imaging.input_cache import InputImageCache
from worker.item import Inputs, PipelineItem
from worker.lane_prompt_terms import LanePromptTerms
from worker.lanes.delivery import Delivery
from worker.lanes.job_source import JobSource
from worker.lanes.lane_claims import LaneClaims
from worker.lanes.lane_models_and_output import LaneSetup
from worker.lanes.run_stages_and_report_ends import StageRunner
from worker.lanes.stop_conditions import StopConditions
from worker.lanes.worker_context import WorkerContext
from worker.pipeline import LanePipeline, lane_pipeline
from worker.reuse.reusable_images import ReusableImages
from worker.stage import StageContext

log = logging.getLogger(__name__)


def work(context: WorkerContext, lane_id: LaneId) -> int:
    """Run one session in the lane; returns how many jobs were claimed."""
    return LaneSession(context, lane_id).work()


class LaneSession:
    """The claims and device batches of one session."""

    def __init__(
        self, context: WorkerContext, lane_id: LaneId, renew: Callable[[], bool] = lambda: False
    ) -> None:
        """When the time slice is over, `renew` returns whether the session gets another one."""
        self.context, self.lane_id = context, lane_id
        self._claims = LaneClaims(context)
        self._in_progress: dict[JobId, Job] = {}
        self._left: list[Job] = []
        self._is_checked = self._is_open = False
        self._signer = context.signer
        self._input_images = InputImageCache(context.settings, keeps_files=self._signer is not None)
        self._reusable: ReusableImages | None = None
        self._model_lock = threading.Lock()
        self._prompt_terms = LanePromptTerms(context.model_cache.terms)
        self._stop = StopConditions(context, lane_id, renew)
        self._stage_runner = StageRunner(
            context.engine,
            context.leases,
            context.breaker,
            retry_delay_s=context.settings.retry_delay_s,
            traces=context.traces,
        )
        self._delivery = Delivery(context, self._stage_runner, self._stop.give_up)
        self._setup = LaneSetup(
            context.settings,
            context.engine,
            context.model_cache,
            context.health,
            context.content_safety,
            context.buckets,
        )

    def work(self) -> int:
        """Claim and render until the lane is empty or the session ends; returns how many jobs were claimed."""
        with log_context.noted(lane=self.lane_id, batch=None):
            return self._work()

    def _work(self) -> int:
        try:
            while (
                (lane := self._open())
                and self._judges_as(lane)
                and self._setup.may_claim(lane)
                and (jobs := self._jobs(lane))
            ):
                log_context.note(batch=lane.batch)
                self.render(lane, jobs)
                # One of them may have ended its worker: whatever is claimed while they are delivered would be charged.
                if any(job.is_after_crash for job in jobs):
                    self._delivery.wait(self._stop.must_leave)
        finally:
            self.close()
        return self._claims.taken

    def _judges_as(self, lane: Lane) -> bool:
        """Whether the lane's safety policy is that of the session's stages; another one needs another session."""
        safety, runner = safety_of(lane.policy), self._stage_runner
        runner.safety = safety if runner.safety is None else runner.safety
        return safety == runner.safety

    def counted(self) -> tuple[int, float]:
        """Return the images stored since the last call, and the longest time from a job's start to its stored image."""
        return self._delivery.counted()

    def render(self, lane: Lane, jobs: Sequence[Job]) -> None:
        """Render the jobs, and others claimed meanwhile; jobs that have not begun at a stop are released."""
        stage_context = self._stage_context(lane)
        if stage_context is None:
            self._stop.give_up()
            self.context.leases.release(jobs)
            return
        source = JobSource(jobs, claim=lambda: self._claim(lane), is_open=self._may_begin)
        try:
            with suppress(InterruptedRender):
                pipeline = lane_pipeline(stage_context)
                self._delivery.open(stage_context, pipeline.background)
                self._reusable = self._delivery.reusable_images(lane)
                self._reusable.look_up(jobs)
                self._render(pipeline, source)
        except HostFaultError as error:
            self._stop.give_up(error)
        finally:
            self._left = source.left
            self._reusable = None
            self.context.leases.release(source.rest())
        self.context.leases.release(self._in_progress.values())
        self._in_progress.clear()

    def close(self) -> None:
        """Wait for deliveries, in a stopping worker at most for the shutdown grace period; release jobs still held."""
        if self.context.stopping.is_set():
            self.context.note(WorkerActivity.DRAINING)
        if not self._delivery.close(self._stop.must_leave):
            log.warning("stopped with images undelivered; their jobs will be rendered again")
        if not self.context.stopping.is_set():
            self._stage_runner.close()
        self.context.leases.release_all()
        self.context.traces.end_session()

    def _render(self, pipeline: LanePipeline, source: JobSource) -> None:
        """Keep the device batch full until no job is left that may begin."""
        with closing(pipeline.render) as render:
            while True:
                while render.has_room() and (item := self._next(pipeline, source)):
                    render.add(item)
                    self.context.traces.entered(item.job)
                if render.is_empty:
                    return
                rendered = self._step(pipeline)
                if rendered and not self._hand_over(rendered, self._on_device(pipeline, rendered)):
                    return

    def _next(self, pipeline: LanePipeline, source: JobSource) -> PipelineItem | None:
        """Return the next job's item, prepared for the device; None if no job is left that may begin.

        Items whose images can be copied are handed over at once.
        """
        while job := source.next():
            items = self._stage_runner.run_all(pipeline.prepare, self._begin(job))
            if not items:
                self._in_progress.pop(job.id, None)
            elif not (image := self._reusable_image(items[0])):
                return items[0]
            elif not self._hand_over(items, [replace(items[0], inputs=Inputs(), reused=image)]):
                return None
        return None

    def _reusable_image(self, item: PipelineItem) -> ReusableImage | None:
        """Return an image that can be copied for the item: not one of a prompt that was judged otherwise then."""
        image = self._reusable.of(item) if self._reusable else None
        is_same = image is not None and item.flagged_for in (None, image.columns.get("safety_reason"))
        return image if is_same else None

    def _begin(self, job: Job) -> list[PipelineItem]:
        """Return an item for the job if this worker still holds its lease."""
        if not self.context.leases.holds(job):
            return []
        self._in_progress[job.id] = job
        return [PipelineItem(job)]

    def _step(self, pipeline: LanePipeline) -> list[PipelineItem]:
        if pipeline.render.is_denoising:
            self._check_stop()
        with self._device_batch(pipeline):
            rendered = pipeline.render.step()
        if rendered:
            self.context.heartbeat.note_warm(pipeline.lane.id)
        self.context.traces.rendered(item.job for item in rendered)
        for item in rendered:
            metrics.DEVICE_BATCH_SECONDS.observe(time.monotonic() - item.began_s)
        return rendered

    def _on_device(self, pipeline: LanePipeline, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        going = self._stage_runner.without_ended(items)
        for stage in pipeline.on_device:
            with self._device_batch(pipeline):
                done = self._stage_runner.run(stage, going)
            going = self._stage_runner.without_ended(done)
        return going

    def _device_batch(self, pipeline: LanePipeline) -> AbstractContextManager[None]:
        return self.context.device_batch(pipeline.lane_models, pipeline.lane.id)

    def _hand_over(self, rendered: Sequence[PipelineItem], items: Sequence[PipelineItem]) -> bool:
        """Queue for delivery what remains of the items rendered; False if the worker must stop before there is room."""
        if not self._delivery.put(items, self._stop.must_leave):
            return False
        for item in rendered:
            self._in_progress.pop(item.job.id, None)
        return True

    def _stage_context(self, lane: Lane) -> StageContext | None:
        """Return what the lane's stages work with; None if this host can't provide it, or if the worker is to stop."""
        started = self._setup.start(lane)
        if started is None:
            return None
        return StageContext(
            lane,
            started.lane_models,
            self.context.model_cache,
            self.context.settings,
            started.store,
            self._stop.service_retry,
            self._input_images,
            self._check_stop,
            self.context.installation,
            self._signer,
            self.context.content_safety,
            self._prompt_terms,
            self._model_lock,
        )

    def _open(self) -> Lane | None:
        context = self.context
        return (
            None
            if self._stop.must_end()
            else transitions.open_lane(context.engine, self.lane_id, context.worker)
        )

    def _jobs(self, lane: Lane) -> list[Job]:
        """Return the next jobs: those claimed already, else a new claim."""
        left, self._left = self._left, []
        return left or self._claim(lane)

    def _claim(self, lane: Lane) -> list[Job]:
        """Claim jobs of the lane, unless the session's time is over, and look up images that can be copied for them."""
        if self._stop.is_over(self._claims.taken):
            return []
        self._prompt_terms.refresh(self.context.engine, lane.id)
        jobs = self._claims.claim(lane)
        if rates_prompts(lane) and self.context.content_safety:
            self.context.content_safety.begin_prompts(job.prompt for job in jobs)
        if self._reusable:
            self._reusable.look_up(jobs)
        return jobs

    def _may_begin(self) -> bool:
        """Whether the lane is still open; queried once for all jobs that begin before the next step."""
        if not self._is_checked:
            self._is_checked, self._is_open = True, self._open() is not None
        return self._is_open

    def _check_stop(self, _: int = 0) -> None:
        """Called between two steps; raises InterruptedRender if the worker is to stop or has lost all its leases."""
        self._is_checked = False
        self.context.heartbeat.beat()
        if self._stop.must_end() or not any(map(self.context.leases.holds, self._in_progress.values())):
            raise InterruptedRender("asked to stop")
