"""Delivery: the background stages of a lane session, and completing the jobs whose images are stored."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from jobs.errors import LeaseLostError
from jobs.job_dataclasses import Failure, Image, Lane
from jobs.monitoring import metrics
from jobs.policy.stored_policy import safety_of
from jobs.queue import transitions
from jobs.states import ErrorKind, JobState, Outcome
from jobs.storage.key_layout import quarantine_key
from worker.health.error_classification import HostFaultError
from worker.health.what_a_lane_depends_on import work_of
from worker.item import PipelineItem
from worker.lanes.background_pool import BackgroundPool
from worker.lanes.image_record import image_record, versions_of
from worker.lanes.run_stages_and_report_ends import StageRunner
from worker.lanes.worker_context import WorkerContext
from worker.reuse.copy_image import CopyImage
from worker.reuse.inputs_digest import InputsDigest
from worker.reuse.reusable_images import ReusableImages, UnusableImages
from worker.stage import Stage, StageContext

log = logging.getLogger(__name__)


class Delivery:
    """Finishes the images of one lane in background threads, and counts them.

    `on_fault` is called, in one of these threads, when this host can't finish a lane's images.
    """

    def __init__(
        self, context: WorkerContext, stage_runner: StageRunner, on_fault: Callable[[HostFaultError], object]
    ) -> None:
        self._context, self._stage_runner, self._on_fault = context, stage_runner, on_fault
        self._pool = BackgroundPool(self._deliver)
        self._counting = threading.Lock()
        self._delivered, self._slowest_s = 0, 0.0
        self._unusable = UnusableImages()
        self._stage_context: StageContext | None = None

    def open(self, context: StageContext, stages: Sequence[Stage]) -> None:
        """Set the lane's stages; those of the session's first device batch stay."""
        if self._stage_context is None:
            self._stages, self._versions = stages, versions_of(context)
            self._digest = InputsDigest(context, self._versions)
            self._copy = CopyImage(context, self._context.engine, self._context.leases, self._unusable)
            self._stage_context = context

    def reusable_images(self, lane: Lane) -> ReusableImages:
        """Return what looks up images that can be copied; the lane must be open."""
        return ReusableImages(
            self._context.engine, self._context.settings, lane, self._digest, self._unusable
        )

    def put(self, items: Sequence[PipelineItem], give_up: Callable[[], bool]) -> bool:
        """Queue rendered items; blocks while the queue is full, and returns False if `give_up` does so first."""
        return self._pool.put(items, give_up)

    def wait(self, give_up: Callable[[], bool]) -> bool:
        """Wait until all items put so far are delivered; returns False if `give_up` returned True first."""
        return self._pool.wait(give_up)

    def close(self, give_up: Callable[[], bool]) -> bool:
        """Wait until all items are delivered; returns False if `give_up` returned True first."""
        return self._pool.drain(give_up)

    def counted(self) -> tuple[int, float]:
        """Return the images stored since the last call, and the longest time from a job's start to its stored image."""
        with self._counting:
            counted = self._delivered, self._slowest_s
            self._delivered, self._slowest_s = 0, 0.0
        return counted

    def _deliver(self, items: Sequence[PipelineItem]) -> None:
        leases = self._context.leases
        try:
            finished = self._stage_runner.run_all(self._stages, [item for item in items if not item.reused])
            finished += self._stage_runner.run_all([self._copy], [item for item in items if item.reused])
            recorded = self._recorded(self._quarantine, [item for item in finished if item.is_quarantined])
            recorded += self._recorded(self._complete, [item for item in finished if not item.is_quarantined])
            self._count(recorded)
        except HostFaultError as error:
            self._on_fault(error)
            leases.release(item.job for item in items)
        finally:
            # In any case the leases are renewed no more: jobs that are still running are queued again when they expire.
            leases.drop(item.job for item in items)

    def _recorded(
        self, record: Callable[[Sequence[PipelineItem]], None], items: Sequence[PipelineItem]
    ) -> list[PipelineItem]:
        """Record how the items' jobs ended; returns the items without those whose leases are lost, or were refused."""
        try:
            record(items)
        except LeaseLostError as error:
            lost = set(error.lost)
            self._context.leases.refused(
                (item.job.id, item.job.lease) for item in items if item.job.id in lost
            )
            log.warning("%s; their images were dropped", error)
            return [item for item in items if item.job.id not in lost]
        return list(items)

    def _complete(self, items: Sequence[PipelineItem]) -> None:
        """Insert image rows and mark jobs as done, in one transaction; LeaseLostError names jobs with lost leases."""
        context = self._stage_context
        assert context is not None
        if not items:
            return
        traces, began_ns = self._context.traces, time.time_ns()
        records, stored = [self._record(context, item) for item in items], 0
        try:
            safety = safety_of(context.lane.policy)
            transitions.complete(self._context.engine, records, safety=safety)
            stored = len(items)
            traces.stage("complete", (item.job for item in items), began_ns)
            traces.ended((item.job.id for item in items), JobState.DONE)
        except LeaseLostError as error:
            stored = len(items) - len(error.lost)
            raise
        finally:
            metrics.IMAGES.add(stored, context.lane.model)

    def _quarantine(self, items: Sequence[PipelineItem]) -> None:
        """Mark jobs as blocked whose files are kept in quarantine; raises LeaseLostError like `_complete`."""
        context = self._stage_context
        assert context is not None
        if items:
            failures = [self._blocked(context, item) for item in items]
            transitions.block(self._context.engine, failures, safety=safety_of(context.lane.policy))
            self._context.traces.ended((item.job.id for item in items), Outcome.BLOCKED)

    def _blocked(self, context: StageContext, item: PipelineItem) -> Failure:
        image = self._record(context, item)
        key, reason = quarantine_key(image.key), item.flagged_for or ""
        return Failure(item.job.id, item.job.lease, ErrorKind.SAFETY, reason, item.safety_scores, image, key)

    def _record(self, context: StageContext, item: PipelineItem) -> Image:
        return image_record(context, self._versions, self._digest, item)

    def _count(self, finished: Sequence[PipelineItem]) -> None:
        if finished:
            lane, health = finished[0].job.lane_id, self._context.health
            self._stage_runner.went_well(lane)
            health.went_well(work_of(lane))
            health.stored()
        now = time.monotonic()
        with self._counting:
            self._delivered += len(finished)
            self._slowest_s = max([self._slowest_s, *(now - item.began_s for item in finished)])
