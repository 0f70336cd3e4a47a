"""Frames through stages, one after the other; those that end on the way are reported at once."""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence

from sqlalchemy import Engine

from jobs.errors import LeaseLostError
from jobs.job import Failure, LaneId
from jobs.queue import transitions
from worker.bisect import Stage, run_stage
from worker.health.circuit_breaker import Breaker, Judgement, is_certain
from worker.health.host_faults import LaneDoubtedError
from worker.item import Frame
from worker.liveness.lease_keeper import Leases

log = logging.getLogger(__name__)

Stages = Iterable[tuple[str, Stage]]


class Passage:
    """Ended frames leave the job table as blocked, failed or waiting for their next attempt, and their leases end.

    A failure may be held until it is judged whether the job is to blame or the worker; raises LaneDoubtedError where it
    may be the worker.
    """

    def __init__(
        self,
        engine: Engine,
        leases: Leases,
        breaker: Breaker,
        *,
        retry_delay_s: float,
    ) -> None:
        self._engine, self._leases, self._breaker = engine, leases, breaker
        self._retry_delay_s = retry_delay_s

    def through(self, stages: Stages, frames: Sequence[Frame], alone: Collection[str] = ()) -> list[Frame]:
        """The frames that come out at the end; the stages named in `alone` have them one at a time.

        A stage that fails on one frame is tried again with its neighbours, which those shouldn't be whose work is
        costly and no less for being done together.
        """
        going = self.sorted_out(frames)
        for name, stage in stages:
            bundles = [[frame] for frame in going] if name in alone else [going]
            going = self.sorted_out(
                [done for some in bundles if some for done in run_stage(name, stage, some)]
            )
        return going

    def sorted_out(self, frames: Sequence[Frame]) -> list[Frame]:
        """The frames that go on."""
        self.end([frame for frame in frames if frame.end])
        return [frame for frame in frames if frame.end is None]

    def end(self, ended: Sequence[Frame]) -> None:
        """Report frames that have ended."""
        blocked = [frame for frame in ended if frame.end and frame.end.is_block]
        failed = [frame for frame in ended if frame.end and not frame.end.is_block]
        if blocked:
            failures = [frame.failure() for frame in blocked]
            _tell(failures, lambda: transitions.block(self._engine, failures))
            self._leases.drop(frame.job for frame in blocked)
        self._charge([frame for frame in failed if is_certain(frame)])
        if (suspects := [frame for frame in failed if not is_certain(frame)]) and self._judged(
            self._breaker.failed(suspects)
        ):
            raise LaneDoubtedError("job after job failed here")

    def went_well(self, lane: LaneId) -> None:
        """An image was stored: failures that were held are their jobs' own."""
        self._judged(self._breaker.went_well(lane))

    def close(self) -> None:
        """Judge the failures that are still held."""
        self._judged(self._breaker.ended())

    def _judged(self, judgement: Judgement) -> bool:
        """Do as it says; whether jobs went back."""
        self._charge(judgement.charged)
        self._give_back(judgement.returned, judgement.delay_s)
        return bool(judgement.returned)

    def _charge(self, frames: Sequence[Frame]) -> None:
        failures = [frame.failure() for frame in frames]
        _tell(failures, lambda: transitions.fail(self._engine, failures, delay_s=self._retry_delay_s))
        self._leases.drop(frame.job for frame in frames)

    def _give_back(self, frames: Sequence[Frame], delay_s: float) -> None:
        if frames:
            transitions.give_back(self._engine, [frame.failure() for frame in frames], delay_s=delay_s)
        self._leases.drop(frame.job for frame in frames)


def _tell(failures: Sequence[Failure], write: Callable[[], None]) -> None:
    if not failures:
        return
    try:
        write()
    except LeaseLostError as error:
        log.warning("%s", error)
