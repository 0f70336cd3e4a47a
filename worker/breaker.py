"""The circuit breaker of a worker: when job after job fails, is it the jobs' fault, or is the worker broken?

The failures of a row are held, their leases renewed, until an image is stored (then they were the jobs' own) or there
are `STREAK` of them (then it is judged). The worker is taken to be broken where another one stores images of the same
lane with hardly a failure, or where it has stored images of this lane itself and now every job raises: a device that is
lost stays lost until its process ends. A job that has failed on another worker as well is to blame itself.

A batch whose jobs fail everywhere ends: each time that the breaker opens, images of the lane were stored before.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy import Engine

from jobs.health import failed_elsewhere, other_workers, peers
from jobs.job import LaneId
from jobs.states import ErrorKind
from worker.frame import Frame, Inputs
from worker.health import Health

STREAK = 8
PATIENCE_S = 60.0
"""How long a worker that fails waits to see whether others fare better, while they are at work."""
ALONE_S = 10.0
"""The same for a worker that is alone: others may be about to start."""
LOOK_S = 0.25
LATELY_S = 600.0

_ENOUGH = 4
_CERTAIN = (ErrorKind.WATERMARK, ErrorKind.SAFETY)
_MENDED_BY_RESTART = (ErrorKind.EXCEPTION, ErrorKind.MODEL, ErrorKind.OUT_OF_MEMORY)


def is_certain(frame: Frame) -> bool:
    """Whether the failure says nothing of the worker."""
    return frame.end is not None and frame.end.kind in _CERTAIN


class Breaker:
    """Counts failures in a row of one worker process."""

    def __init__(
        self, engine: Engine, worker: str, health: Health, pause: Callable[[float], bool], within_s: float
    ) -> None:
        """`pause` waits so many seconds, and says whether the worker is to stop.

        `within_s` is how long ago others may have stored what counts.
        """
        self._engine, self._worker, self._health, self._pause = engine, worker, health, pause
        self._since = time.monotonic() - within_s
        self._lock = threading.Lock()
        self._held: list[Frame] = []
        self._good: set[LaneId] = set()
        self._blamed: set[LaneId] = set()

    def went_well(self, lane: LaneId) -> list[Frame]:
        """An image of the lane was stored; returns the failures that are the jobs' own, then."""
        self._good.add(lane)
        self._blamed.discard(lane)
        return self.take_held()

    def take_held(self) -> list[Frame]:
        """All failures that are held, and hold none any more."""
        with self._lock:
            return self._taken()

    def _taken(self) -> list[Frame]:
        held, self._held = self._held, []
        return held

    def failed(self, frames: Sequence[Frame], beat: Callable[[], None]) -> tuple[list[Frame], bool]:
        """The failures that are judged now, and whether the worker is broken; the others are held."""
        elsewhere = failed_elsewhere(self._engine, [frame.job.id for frame in frames], self._worker)
        certain = [frame for frame in frames if frame.job.id in elsewhere]
        with self._lock:
            self._held += [_lightened(frame) for frame in frames if frame.job.id not in elsewhere]
            if len(self._held) < STREAK:
                return certain, False
            judged = self._taken()
        is_broken = self._is_broken(judged, beat)
        if is_broken is None:
            with self._lock:
                self._held += judged
            return certain, False
        if not is_broken:
            return certain + judged, False
        self._since = time.monotonic()
        self._good.clear()
        self._health.rest(f"{_told(judged)}; other jobs of the lane went well")
        return judged, True

    def _is_broken(self, judged: Sequence[Frame], beat: Callable[[], None]) -> bool | None:
        """Wait for evidence while there may come some; None where the worker is to stop before."""
        lane = judged[-1].job.lane_id
        doubt, began = ("doubt", lane), time.monotonic()
        is_stopping = False
        while (verdict := self._verdict(lane, judged, began)) is None and lane not in self._blamed:
            self._health.failed(
                doubt, f"{_told(judged)}; waiting to see whether other workers fare better", lane
            )
            beat()
            if is_stopping := self._pause(LOOK_S):
                break
        self._health.went_well(doubt)
        if is_stopping:
            return None
        if not verdict:
            self._blamed.add(lane)
        return bool(verdict)

    def _verdict(self, lane: LaneId, judged: Sequence[Frame], began: float) -> bool | None:
        """Whether the worker is broken; None: there is no telling yet. It has been asked since `began`."""
        others = peers(self._engine, lane, self._worker, time.monotonic() - self._since)
        if any(peer.stored >= _ENOUGH and 10 * peer.failed <= peer.stored for peer in others):
            return True
        kinds = {frame.end.kind for frame in judged if frame.end}
        if lane in self._good and kinds.issubset(_MENDED_BY_RESTART):
            return True
        if any(peer.failed >= _ENOUGH and peer.failed > peer.stored for peer in others):
            return False
        there, able = other_workers(self._engine, lane, self._worker)
        patience_s = PATIENCE_S if able else 0.0 if there or lane in self._good else ALONE_S
        return None if time.monotonic() < began + patience_s else False


def _told(judged: Sequence[Frame]) -> str:
    end = judged[-1].end
    return f"{len(judged)} jobs in a row failed here, the last with: {end.text if end else ''}"


def _lightened(frame: Frame) -> Frame:
    """Without what takes memory."""
    return replace(frame, pixels=None, encoded=None, inputs=Inputs())
