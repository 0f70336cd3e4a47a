"""Frames through stages, one after the other; those that end on the way are reported at once."""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence

from sqlalchemy import Engine

from jobs import queue
from jobs.errors import LeaseLostError
from jobs.job import Failure
from worker.frame import Frame
from worker.isolate import Stage, run_stage
from worker.leases import Leases

log = logging.getLogger(__name__)

Stages = Iterable[tuple[str, Stage]]


class Passage:
    """Ended frames leave the job table as blocked, failed or waiting for their next attempt, and their leases end."""

    def __init__(self, engine: Engine, leases: Leases, retry_delay_s: float) -> None:
        self._engine, self._leases, self._retry_delay_s = engine, leases, retry_delay_s

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
        if not ended:
            return
        blocked = [frame.failure() for frame in ended if frame.end and frame.end.is_block]
        failed = [frame.failure() for frame in ended if frame.end and not frame.end.is_block]
        _tell(blocked, lambda: queue.block(self._engine, blocked))
        _tell(failed, lambda: queue.fail(self._engine, failed, delay_s=self._retry_delay_s))
        self._leases.drop(frame.job for frame in ended)


def _tell(failures: Sequence[Failure], write: Callable[[], None]) -> None:
    if not failures:
        return
    try:
        write()
    except LeaseLostError as error:
        log.warning("%s", error)
