"""A shift: claim and render in one lane until it is empty, its time slice is over, or the worker stops."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import Engine

from jobs import queue
from jobs.errors import LeaseLostError
from jobs.job import Failure, Job, Lane, LaneId
from jobs.objects import S3Options, open_store
from jobs.settings import Settings
from jobs.states import ErrorKind
from models.errors import InterruptedRender, ModelError
from worker.finishing import Finishing
from worker.frame import Frame
from worker.isolate import Stage, run_stage
from worker.leases import Leases
from worker.line import FinishingLine
from worker.making import Making
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


def work(desk: Desk, lane_id: LaneId) -> int:
    """Work one shift; returns how many jobs were taken up."""
    shift = Shift(desk, time.monotonic() + desk.settings.shift_s)
    taken = 0
    while not shift.is_over() and (lane := queue.open_lane(desk.engine, lane_id)):
        jobs = shift.claim(lane)
        if not jobs:
            break
        taken += len(jobs)
        shift.render(lane, jobs)
    shift.close()
    return taken


class Shift:
    """One shift's claims, stages and deliveries."""

    def __init__(self, desk: Desk, until: float) -> None:
        self.desk = desk
        self.until = until
        self.finishing: Finishing | None = None
        self.line = FinishingLine(self._deliver)

    def is_over(self) -> bool:
        """The time slice is over, or the worker is to stop."""
        return self.desk.stopping.is_set() or time.monotonic() >= self.until

    def claim(self, lane: Lane) -> list[Job]:
        """Jobs of the lane, their leases renewed from now on."""
        desk = self.desk
        jobs = queue.claim(
            desk.engine, lane.id, limit=desk.settings.claim, worker=desk.worker, lease_s=desk.settings.lease_s
        )
        desk.leases.add(jobs)
        return jobs

    def render(self, lane: Lane, jobs: Sequence[Job]) -> None:
        """Render the jobs, device batch by device batch; what is not begun when the shift must stop is given back."""
        try:
            kit = self.desk.studio.kit(lane)
            self.finishing = self.finishing or self._finishing(kit, lane)
        except (ModelError, OSError) as error:
            self._report([Frame(job).ended(ErrorKind.MODEL, str(error)) for job in jobs])
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
        """Wait for the deliveries; a worker that stops waits no longer than it may."""
        limit = self.desk.settings.drain_s if self.desk.stopping.is_set() else None
        if not self.line.drain(limit):
            log.warning("stopped with images undelivered; their jobs will be rendered again")
            self.desk.leases.release_all()

    def _make(self, kit: Kit, lane: Lane, group: Sequence[Job]) -> bool:
        making = Making(self.desk.studio, kit, lane, on_step=self._watch(group))
        try:
            frames = self._run(making.stages(), [Frame(job) for job in group if self.desk.leases.holds(job)])
        except InterruptedRender:
            return False
        self.line.put(frames)
        return True

    def _watch(self, group: Sequence[Job]) -> Callable[[int], None]:
        def check(_: int) -> None:
            if self.desk.stopping.is_set() or not any(self.desk.leases.holds(job) for job in group):
                raise InterruptedRender("asked to stop")

        return check

    def _deliver(self, frames: Sequence[Frame]) -> None:
        assert self.finishing is not None
        try:
            self.finishing.complete(self._run(self.finishing.stages(), frames))
        except LeaseLostError as error:
            log.warning("%s; their images were dropped", error)
        finally:
            # Whatever went wrong, an unrenewed lease runs out and the jobs are rendered again.
            self.desk.leases.drop(frame.job for frame in frames)

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
        return Finishing(
            kit, lane, open_store(lane.output, s3), self.desk.engine, settings.watermark, versions()
        )


def groups(jobs: Sequence[Job], rows: int) -> list[list[Job]]:
    """Device batches: jobs that share steps, guidance and sampler, at most `rows` together."""
    ordered = sorted(jobs, key=_shape)
    alike = [list(members) for _, members in groupby(ordered, key=_shape)]
    return [members[start : start + rows] for members in alike for start in range(0, len(members), rows)]


def _shape(job: Job) -> tuple[int, float, str]:
    return job.steps, job.guidance_scale, job.sampler


def _tell(failures: Sequence[Failure], write: Callable[[], None]) -> None:
    if not failures:
        return
    try:
        write()
    except LeaseLostError as error:
        log.warning("%s", error)
