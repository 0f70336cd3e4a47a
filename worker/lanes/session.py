"""A shift: claim and render in one lane until it is empty, its time is over, or the worker stops."""

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
from jobs.job import Job, JobId, Lane, LaneId
from jobs.process_lifecycle import Latch
from jobs.queue import transitions
from jobs.settings import Settings
from jobs.states import Mode
from jobs.storage.open import ObjectStore
from models.errors import InterruptedRender
from worker.bisect import Stage, aside, run_stage
from worker.health.causes import output_of, work_of
from worker.health.circuit_breaker import LATELY_S, Breaker
from worker.health.host_faults import HostFaultError, LaneDoubtedError
from worker.health.lane_backoff import Health
from worker.imaging.input_cache import Pictures
from worker.item import Frame
from worker.lanes.background_pool import FinishingLine
from worker.lanes.job_source import Supply
from worker.lanes.requirements import LaneStart
from worker.lanes.stage_runner import Passage
from worker.liveness.heartbeat import Pulse
from worker.liveness.lease_keeper import Leases
from worker.model_cache.cache import Studio
from worker.stages.assess import Judging
from worker.stages.await_output import Storing
from worker.stages.finish import Finishing
from worker.stages.generate import Drawing
from worker.stages.prepare import Making

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Desk:
    """What a worker process keeps between shifts."""

    settings: Settings
    engine: Engine
    leases: Leases
    studio: Studio
    stopping: Latch
    worker: str
    pulse: Pulse = field(default_factory=lambda: Pulse(math.inf))
    handover: Path | None = None
    buckets: dict[str, ObjectStore] = field(default_factory=dict)

    def pause(self, seconds: float) -> bool:
        """Wait for a service; whether the worker is to stop meanwhile. It isn't taken to hang."""
        self.pulse.beat()
        return self.stopping.wait(seconds)

    @cached_property
    def health(self) -> Health:
        """What keeps the worker from working."""
        return Health(self.engine, self.worker, self.leases.device, self.handover)

    @cached_property
    def breaker(self) -> Breaker:
        """What stops the worker when it fails at everything; a process that was started anew has to prove itself."""
        within_s = 0.0 if self.health.has_rested() else LATELY_S
        return Breaker(self.engine, self.health, self.studio.check_device, within_s)


def work(desk: Desk, lane_id: LaneId) -> int:
    """Work one shift; returns how many jobs were taken up."""
    return Shift(desk).work(lane_id)


class Shift:
    """One shift's claims, stages and deliveries; `taken` counts the jobs claimed.

    When its time slice is over, `renew` says whether it has another one. However short that is, it claims once, lest
    turns pass and nothing be done.
    """

    def __init__(self, desk: Desk, renew: Callable[[], bool] = lambda: False) -> None:
        self.desk = desk
        self.taken = 0
        self._renew = renew
        self._until = time.monotonic() + desk.settings.shift_s
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
        self.finishing: Finishing | None = None
        self.judging: Judging | None = None
        self.pictures = Pictures(desk.settings)
        self.passage = Passage(
            desk.engine, desk.leases, desk.breaker, retry_delay_s=desk.settings.retry_delay_s
        )
        self.line = FinishingLine(self._deliver)
        self.starting = LaneStart(desk.settings, desk.engine, desk.studio, desk.health, desk.buckets)
        self.storing = Storing(desk.health, desk.stopping.wait)

    def work(self, lane_id: LaneId) -> int:
        """Claim and render until the lane gives no more or the shift is over; returns how many jobs were taken up."""
        try:
            while (
                (lane := self._open(lane_id)) and self.starting.may_claim(lane) and (jobs := self._jobs(lane))
            ):
                self.render(lane, jobs)
        finally:
            self.close()
        return self.taken

    def is_over(self) -> bool:
        """Its time is over, and it has taken up something, or the worker is to stop."""
        if self._must_end():
            return True
        if self.taken and not self._is_over and time.monotonic() >= self._until:
            self._is_over = not self._renew()
            self._until = time.monotonic() + self.desk.settings.shift_s
        return self._is_over

    def counted(self) -> tuple[int, float]:
        """Images stored since this was asked last, and the longest time from when a job began until its image was."""
        with self._counting:
            counted = self._delivered, self._slowest_s
            self._delivered, self._slowest_s = 0, 0.0
        return counted

    def claim(self, lane: Lane) -> list[Job]:
        """Jobs of the lane, their leases renewed from now on."""
        desk = self.desk
        jobs = transitions.claim(
            desk.engine,
            lane.id,
            limit=desk.settings.claim,
            worker=desk.worker,
            lease_s=desk.settings.lease_s,
            after=self._after,
        )
        self._after = max((job.id for job in jobs if job.is_fresh), default=self._after)
        desk.leases.add(jobs)
        self.taken += len(jobs)
        return jobs

    def render(self, lane: Lane, jobs: Sequence[Job]) -> None:
        """Render the jobs, and what else the lane gives meanwhile; what has not begun at a stop is given back."""
        started = self.starting.start(lane)
        if started is None:
            self._is_stuck = True
            self.desk.leases.release(jobs)
            return
        self.finishing = self.finishing or started.finishing
        self.judging = self.judging or started.judging
        making = Making(self.desk.studio, started.kit, lane, self.pictures, self.judging, on_step=self._watch)
        try:
            with suppress(InterruptedRender):
                self._enlarge(making, jobs) if lane.mode == Mode.UPSCALE else self._draw(making, jobs)
        except HostFaultError as error:
            self._give_up(lane, error)
        self.desk.leases.release(self._going.values())
        self._going.clear()

    def close(self) -> None:
        """Wait for the deliveries, in a worker that stops no longer than it may; what is still held goes back."""
        if not self.line.drain(self._must_leave):
            log.warning("stopped with images undelivered; their jobs will be rendered again")
        if not self.desk.stopping.is_set():
            self.passage.close()
        self.desk.leases.release_all()

    def _must_leave(self) -> bool:
        """The worker was asked to stop, and the time that it may take for deliveries is over; asked while it waits."""
        if self.storing.is_waiting():
            self.desk.pulse.beat()
        if not self.desk.stopping.is_set():
            return False
        self.leave_at = self.leave_at or time.monotonic() + self.desk.settings.drain_s
        return time.monotonic() >= self.leave_at

    def _draw(self, making: Making, jobs: Sequence[Job]) -> None:
        """Keep the model full until no job is left that may begin."""
        lane = making.lane
        supply = Supply(
            jobs,
            claim=lambda: [] if self.is_over() else self.claim(lane),
            is_open=lambda: self._may_begin(lane),
        )
        try:
            with closing(Drawing(making).run(self._prepared(supply, making))) as drawn:
                while frames := self._next(making, drawn):
                    if not self._hand_over(frames, self._on_device(making, making.after_drawing(), frames)):
                        break
        finally:
            self._left = supply.left
            self.desk.leases.release(supply.rest())

    def _prepared(self, supply: Supply, making: Making) -> Iterator[Frame]:
        """Frames for the model, as it asks for them."""
        while True:
            with aside(), self.desk.pulse.unhurried():
                job = supply.next()
                begun = self._begin([job] if job else [])
                frames = self.passage.through(making.before_drawing(), begun)
            if job is None:
                return
            if not frames:
                self._going.pop(job.id, None)
            yield from frames

    def _next(self, making: Making, drawn: Iterator[list[Frame]]) -> list[Frame]:
        """The next pictures; none when there are no more."""
        stage: Stage = lambda _: next(drawn, [])  # noqa: E731
        with self.desk.pulse.device_batch(making.kit, making.lane.id, [("generate", stage)]) as [
            (name, judged)
        ]:
            return run_stage(name, judged, [])

    def _enlarge(self, making: Making, jobs: Sequence[Job]) -> None:
        """Pictures that are brought, a device batch at a time."""
        rows, waiting = self.desk.studio.rows(making.lane, "enlarge"), deque(jobs)
        try:
            while waiting and self._may_begin(making.lane):
                self._is_checked = False
                frames = self._begin([waiting.popleft() for _ in range(min(rows, len(waiting)))])
                if not self._hand_over(frames, self._on_device(making, making.enlarging(), frames)):
                    break
        finally:
            self.desk.leases.release(waiting)

    def _begin(self, jobs: Sequence[Job]) -> list[Frame]:
        """Frames of those jobs that are still ours."""
        ours = [job for job in jobs if self.desk.leases.holds(job)]
        self._going |= {job.id: job for job in ours}
        return [Frame(job) for job in ours]

    def _on_device(
        self, making: Making, stages: Sequence[tuple[str, Stage]], frames: Sequence[Frame]
    ) -> list[Frame]:
        with self.desk.pulse.device_batch(making.kit, making.lane.id, stages) as judged:
            return self.passage.through(judged, frames)

    def _hand_over(self, begun: Sequence[Frame], frames: Sequence[Frame]) -> bool:
        """Have the frames delivered, all that is left of those begun; False if the worker can't wait for it."""
        if not self.line.put(frames, self._must_leave):
            return False
        for frame in begun:
            self._going.pop(frame.job.id, None)
        return True

    def _open(self, lane_id: LaneId) -> Lane | None:
        return None if self._must_end() else transitions.open_lane(self.desk.engine, lane_id)

    def _must_end(self) -> bool:
        """The worker was asked to stop, or something keeps it from this lane."""
        return self._is_stuck or self.desk.stopping.is_set()

    def _jobs(self, lane: Lane) -> list[Job]:
        """Jobs to go on with: such as are claimed already, else more."""
        left, self._left = self._left, []
        return left or ([] if self.is_over() else self.claim(lane))

    def _may_begin(self, lane: Lane) -> bool:
        """Whether the lane is still open; asked once for all that begin before the next step."""
        if not self._is_checked:
            self._is_checked, self._is_open = True, self._open(lane.id) is not None
        return self._is_open

    def _watch(self, _: int) -> None:
        """Between two steps."""
        self._is_checked = False
        self.desk.pulse.beat()
        if self._must_end() or not any(map(self.desk.leases.holds, self._going.values())):
            raise InterruptedRender("asked to stop")

    def _deliver(self, frames: Sequence[Frame]) -> None:
        assert self.finishing is not None
        assert self.judging is not None
        lane = self.finishing.lane
        judging = [] if lane.upscales_drawn else self.judging.stages()
        stages = [*judging, *self.finishing.stages(self._upload)]
        try:
            finished = self.passage.through(stages, frames, alone=("encode", "upload"))
            self.finishing.complete(finished)
            self._note(finished)
        except LeaseLostError as error:
            log.warning("%s; their images were dropped", error)
        except HostFaultError as error:
            self._give_up(lane, error)
            self.desk.leases.release(frame.job for frame in frames)
        finally:
            # Whatever went wrong, an unrenewed lease runs out and the jobs are rendered again.
            self.desk.leases.drop(frame.job for frame in frames)

    def _give_up(self, lane: Lane, error: HostFaultError) -> None:
        """Work in another lane, for a while; what is only doubted has been told already, as far as need be."""
        self._is_stuck = True
        if not isinstance(error, LaneDoubtedError):
            self.desk.health.failed(work_of(lane.id), str(error), lane.id)

    def _upload(self, frames: Sequence[Frame]) -> list[Frame]:
        """The upload stage, which waits while the output is away; gives back what it has given up."""
        finishing, leases = self.finishing, self.desk.leases
        assert finishing is not None
        lane = finishing.lane
        try:
            if self._has_no_output:
                raise HostFaultError(f"{lane.output} was given up")
            return self.storing.until_done(
                lambda: finishing.upload(frames),
                cause=output_of(lane),
                lane=lane.id,
                is_wanted=lambda: not self._must_end() and all(leases.holds(frame.job) for frame in frames),
            )
        except HostFaultError:
            self._has_no_output = self._is_stuck = True
            leases.release(frame.job for frame in frames)
            return []

    def _note(self, finished: Sequence[Frame]) -> None:
        if finished:
            lane = finished[0].job.lane_id
            self.passage.went_well(lane)
            self.desk.health.went_well(work_of(lane))
            self.desk.health.stored()
        now = time.monotonic()
        with self._counting:
            self._delivered += len(finished)
            self._slowest_s = max([self._slowest_s, *(now - frame.began_s for frame in finished)])
