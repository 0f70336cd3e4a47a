"""A shift: claim and render in one lane until it is empty, its time slice is over, or the worker stops."""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from sqlalchemy import Engine

from jobs import queue
from jobs.errors import LeaseLostError
from jobs.job import Failure, Job, JobId, Lane, LaneId
from jobs.objects import S3Options, open_store
from jobs.settings import Settings
from models.errors import InterruptedRender
from worker.finishing import Finishing
from worker.frame import Frame
from worker.isolate import Stage, kind_of, run_stage
from worker.leases import Leases
from worker.line import FinishingLine
from worker.making import Making
from worker.pictures import Pictures
from worker.pulse import Pulse
from worker.studio import Kit, Studio

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Desk:
    """What a worker process keeps between shifts."""

    settings: Settings
    engine: Engine
    leases: Leases
    studio: Studio
    stopping: threading.Event
    worker: str
    pulse: Pulse = field(default_factory=lambda: Pulse(math.inf))


def work(desk: Desk, lane_id: LaneId) -> int:
    """Work one shift; returns how many jobs were taken up."""
    return Shift(desk).work(lane_id)


class Shift:
    """One shift's claims, stages and deliveries.

    `delivered` counts the images stored, `slowest_s` is the longest time from the begin of a device batch until then.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.until = time.monotonic() + desk.settings.shift_s
        self.delivered = 0
        self.slowest_s = 0.0
        self._begun: dict[JobId, float] = {}
        self._after = JobId(0)
        self._counting = threading.Lock()
        self.leave_at: float | None = None
        self.finishing: Finishing | None = None
        self.pictures = Pictures(desk.settings)
        self.line = FinishingLine(self._deliver)

    def work(self, lane_id: LaneId) -> int:
        """Claim and render until the lane gives no more or the shift is over; returns how many jobs were taken up."""
        taken = 0
        try:
            while not self.is_over() and (lane := queue.open_lane(self.desk.engine, lane_id)):
                jobs = self.claim(lane)
                if not jobs:
                    break
                taken += len(jobs)
                self.render(lane, jobs)
        finally:
            self.close()
        return taken

    def is_over(self) -> bool:
        """The time slice is over, or the worker is to stop."""
        return self.desk.stopping.is_set() or time.monotonic() >= self.until

    def claim(self, lane: Lane) -> list[Job]:
        """Jobs of the lane, their leases renewed from now on."""
        desk = self.desk
        jobs = queue.claim(
            desk.engine,
            lane.id,
            limit=desk.settings.claim,
            worker=desk.worker,
            lease_s=desk.settings.lease_s,
            after=self._after,
        )
        self._after = max((job.id for job in jobs if job.is_fresh), default=self._after)
        desk.leases.add(jobs)
        return jobs

    def render(self, lane: Lane, jobs: Sequence[Job]) -> None:
        """Render the jobs, device batch by device batch; what is not begun when the shift must stop is given back."""
        try:
            kit = self.desk.studio.kit(lane)
            self.finishing = self.finishing or self._finishing(kit, lane)
        except (Exception, SystemExit) as error:  # whatever keeps a lane from starting fails its jobs
            log.warning("lane %d can't start: %s", lane.id, error)
            self._report([Frame(job).ended(kind_of(error), str(error)) for job in jobs])
            return
        waiting = list(jobs)
        for group in groups(jobs, self.desk.studio.rows(lane)):
            if self.desk.stopping.is_set() or queue.open_lane(self.desk.engine, lane.id) is None:
                break
            if not self._make(kit, lane, group):
                break
            waiting = [job for job in waiting if job not in group]
        self.desk.leases.release(waiting)

    def close(self) -> None:
        """Wait for the deliveries, in a worker that stops no longer than it may; what is still held goes back."""
        if not self.line.drain(self._must_leave):
            log.warning("stopped with images undelivered; their jobs will be rendered again")
        self.desk.leases.release_all()

    def _must_leave(self) -> bool:
        """The worker was asked to stop, and the time that it may take for deliveries is over."""
        if not self.desk.stopping.is_set():
            return False
        self.leave_at = self.leave_at or time.monotonic() + self.desk.settings.drain_s
        return time.monotonic() >= self.leave_at

    def _make(self, kit: Kit, lane: Lane, group: Sequence[Job]) -> bool:
        self._begun |= dict.fromkeys((job.id for job in group), time.monotonic())
        making = Making(self.desk.studio, kit, lane, self.pictures, on_step=self._watch(group))
        try:
            with self.desk.pulse.device_batch(kit, lane.id, making.stages()) as stages:
                frames = self._run(stages, [Frame(job) for job in group if self.desk.leases.holds(job)])
        except InterruptedRender:
            return False
        return self.line.put(frames, self._must_leave)

    def _watch(self, group: Sequence[Job]) -> Callable[[int], None]:
        def check(_: int) -> None:
            self.desk.pulse.beat()
            if self.desk.stopping.is_set() or not any(self.desk.leases.holds(job) for job in group):
                raise InterruptedRender("asked to stop")

        return check

    def _deliver(self, frames: Sequence[Frame]) -> None:
        assert self.finishing is not None
        try:
            stages = self.finishing.stages()
            finished = [done for frame in frames for done in self._run(stages, [frame])]
            self.finishing.complete(finished)
            self._note(finished)
        except LeaseLostError as error:
            log.warning("%s; their images were dropped", error)
        finally:
            # Whatever went wrong, an unrenewed lease runs out and the jobs are rendered again.
            self.desk.leases.drop(frame.job for frame in frames)

    def _note(self, finished: Sequence[Frame]) -> None:
        now = time.monotonic()
        with self._counting:
            self.delivered += len(finished)
            took_s = (now - self._begun.pop(frame.job.id, now) for frame in finished)
            self.slowest_s = max([self.slowest_s, *took_s])

    def _run(self, stages: Sequence[tuple[str, Stage]], frames: Sequence[Frame]) -> list[Frame]:
        going = list(frames)
        for name, stage in stages:
            if not going:
                break
            done = run_stage(name, stage, going)
            self._report([frame for frame in done if frame.end])
            going = [frame for frame in done if frame.end is None]
        return going

    def _report(self, ended: Sequence[Frame]) -> None:
        blocked = [frame.failure() for frame in ended if frame.end and frame.end.is_block]
        failed = [frame.failure() for frame in ended if frame.end and not frame.end.is_block]
        delay_s = self.desk.settings.retry_delay_s
        _tell(blocked, lambda: queue.block(self.desk.engine, blocked))
        _tell(failed, lambda: queue.fail(self.desk.engine, failed, delay_s=delay_s))
        self.desk.leases.drop(frame.job for frame in ended)

    def _finishing(self, kit: Kit, lane: Lane) -> Finishing:
        from models.device import versions  # noqa: PLC0415 - brings torch

        settings = self.desk.settings
        s3 = S3Options(endpoint_url=settings.s3_endpoint_url, region=settings.s3_region)
        store, made_with = open_store(lane.output, s3), versions() | kit.saving.notes()
        return Finishing(kit, lane, store, self.desk.engine, settings.watermark, made_with)


def groups(jobs: Sequence[Job], rows: int) -> list[list[Job]]:
    """Device batches: jobs that take the same steps from the same kinds of pictures, at most `rows` together."""
    ordered = sorted(jobs, key=_shape)
    alike = [list(members) for _, members in groupby(ordered, key=_shape)]
    return [members[start : start + rows] for members in alike for start in range(0, len(members), rows)]


def _shape(job: Job) -> tuple[int | bool | str | float, ...]:
    is_guided = job.guidance_scale > 1
    noise_level = -1 if job.noise_level is None else job.noise_level
    given = tuple(picture is not None for picture in (job.init_image, job.mask_image, job.depth_image))
    return job.steps, is_guided, job.sampler, noise_level, job.strength or 0.0, *given


def _tell(failures: Sequence[Failure], write: Callable[[], None]) -> None:
    if not failures:
        return
    try:
        write()
    except LeaseLostError as error:
        log.warning("%s", error)
