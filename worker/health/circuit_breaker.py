"""The circuit breaker of a worker: when job after job fails, is it the jobs' fault, or is the worker broken?

The failures in a row of a lane are held, their leases renewed, until an image of the lane is stored (then they were the
jobs' own), there are many of them, or the time slice ends. Then they are judged:

- Where others do the lane's jobs, this worker can't: the jobs go back uncharged, and it leaves the lane for a while.
- They are the jobs' own where a worker that can work fails at them, too; and where this one gave the lane back before,
  has stored images of other lanes since, and fails at it again.
- A picture whose whole folder is missing here says nothing of its job: that goes back until somebody else finds it.
- Otherwise there is no telling: the jobs go back uncharged, to be tried elsewhere, or here again a little later.

What fails again and again, in several lanes or the same one, and no image between, is the worker's fault: it rests, and
starts anew. Where no worker is left that didn't fail at the lane, the device is asked: if it still computes, what went
back twice and fails again is the jobs' own. So a batch whose jobs fail everywhere ends.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Engine

from jobs.job import LaneId
from jobs.queue.failure_evidence import others_may_work, peers, returns_of, to_blame
from jobs.states import ErrorKind
from worker.health.causes import work_of
from worker.health.host_faults import reason_of
from worker.health.lane_backoff import Health
from worker.item import Inputs, PipelineItem

STREAK = 8
"""So many failures in a row are judged; twice as many when the last ones were judged with no image since, and so on."""
MOST_RETURNS = 2
"""How often jobs go back uncharged where there is no other worker to ask."""
ALONE_S = 10.0
"""For how long they do at least: others may be about to start."""
LATELY_S = 600.0

_ENOUGH = 4
_CERTAIN = (ErrorKind.WATERMARK, ErrorKind.SAFETY)


def _is_of_host(item: PipelineItem) -> bool:
    return item.end is not None and item.end.is_of_host


def is_certain(item: PipelineItem) -> bool:
    """Whether the failure says nothing of the worker."""
    return item.end is not None and item.end.kind in _CERTAIN


@dataclass(frozen=True, slots=True)
class Judgement:
    """Frames whose jobs are to be charged, and those whose jobs go back, for `delay_s` seconds at least."""

    charged: Sequence[PipelineItem] = ()
    returned: Sequence[PipelineItem] = ()
    delay_s: float = 0.0


class CircuitBreaker:
    """Counts failures in a row of one worker process."""

    def __init__(
        self,
        engine: Engine,
        health: Health,
        check_device: Callable[[], None],
        within_s: float = LATELY_S,
    ) -> None:
        """`check_device` raises where the device doesn't compute any more.

        `within_s` is how long ago others may have stored what counts.
        """
        self._engine, self._health, self._check_device = engine, health, check_device
        self._since = time.monotonic() - within_s
        self._lock = threading.RLock()
        self._held: list[PipelineItem] = []
        self._good: set[LaneId] = set()
        self._blamed: set[LaneId] = set()
        self._doubted: set[LaneId] = set()
        self._found_able: set[LaneId] = set()
        """Doubted once, and images of others were stored since."""
        # A process that was started anew has to prove itself.
        self._doubts, self._failures = (1, STREAK) if health.has_rested() else (0, 0)

    def went_well(self, lane: LaneId) -> Judgement:
        """An image of the lane was stored; failures that are held are the jobs' own, then, but for lack of a folder."""
        with self._lock:
            self._doubts = self._failures = 0
            self._found_able |= self._doubted
            self._doubted.clear()
            self._found_able.discard(lane)
            self._blamed.discard(lane)
            self._good.add(lane)
            held, self._held = self._held, []
        away = [item for item in held if _is_of_host(item)]
        if not away or self._went_back_enough(away):
            return Judgement(held)
        return Judgement([item for item in held if not _is_of_host(item)], away, ALONE_S)

    def failed(self, items: Sequence[PipelineItem]) -> Judgement:
        """What is known now of these failures and those that are held; the others are held."""
        certain = to_blame(self._engine, [item.job.id for item in items], self._health.names)
        with self._lock:
            charged = [
                item
                for item in items
                if (item.job.id in certain or item.job.lane_id in self._blamed) and not _is_of_host(item)
            ]
            certain = {item.job.id for item in charged}
            doubtful = [_lightened(item) for item in items if item.job.id not in certain]
            self._held += doubtful
            self._failures += sum(not _is_of_host(item) for item in doubtful)
            if len(self._held) < STREAK << self._doubts:
                return Judgement(charged)
            return self._judgement(charged)

    def ended(self) -> Judgement:
        """The time slice is over: what is held is judged."""
        with self._lock:
            return self._judgement()

    def _judgement(self, charged: Sequence[PipelineItem] = ()) -> Judgement:
        held, self._held = self._held, []
        if not held:
            return Judgement(charged)
        if self._are_to_blame(held):
            return Judgement([*charged, *held])
        return Judgement(charged, held)

    def _are_to_blame(self, held: Sequence[PipelineItem]) -> bool:
        """Whether jobs of a lane that failed one after the other are; if not, it is noted what the worker does next."""
        lane, engine, own = held[-1].job.lane_id, self._engine, self._health.names
        if any(map(_is_of_host, held)):
            self._health.failed(work_of(lane), _told(held), lane)
            return False
        if lane in self._good and self._failures < STREAK:
            return True
        others = peers(engine, lane, own, time.monotonic() - self._since)
        do_well = any(peer.stored >= _ENOUGH and 10 * peer.failed <= peer.stored for peer in others)
        if do_well:
            self._doubt(lane, f"{_told(held)}; other workers do such jobs")
            return False
        fail_too = any(
            peer.is_able and peer.failed >= _ENOUGH and peer.failed > peer.stored for peer in others
        )
        if fail_too or lane in self._found_able:
            return self._blame(lane)
        if others_may_work(engine, lane, [*own, *(peer.worker for peer in others if peer.failed)]):
            self._doubt(lane, f"{_told(held)}; whether others fare better isn't known yet")
            return False
        return self._alone(lane, held)

    def _alone(self, lane: LaneId, held: Sequence[PipelineItem]) -> bool:
        """The same where nobody is left to be asked."""
        try:
            self._check_device()
        except Exception as error:  # whatever a driver raises
            self._health.rest(f"{_told(held)}; {reason_of(error)}")
            return False
        if self._went_back_enough(held):
            return self._blame(lane)
        self._leave(lane, _told(held))
        return False

    def _went_back_enough(self, held: Sequence[PipelineItem]) -> bool:
        """Whether others have had time to try."""
        returns = returns_of(self._engine, [item.job.id for item in held])
        return returns.most >= MOST_RETURNS and returns.since_s >= ALONE_S

    def _blame(self, lane: LaneId) -> bool:
        self._blamed.add(lane)
        self._health.forget(work_of(lane))
        return True

    def _doubt(self, lane: LaneId, reason: str) -> None:
        self._doubts += 1
        if self._doubts > 1 and self._failures >= STREAK:
            self._health.rest(reason)
        else:
            self._leave(lane, reason)

    def _leave(self, lane: LaneId, reason: str) -> None:
        """Work in other lanes first; told where it isn't for the first time."""
        if lane in self._doubted or lane in self._found_able:
            self._health.failed(work_of(lane), reason, lane)
        else:
            self._health.leave(lane)
        self._doubted.add(lane)


def _told(held: Sequence[PipelineItem]) -> str:
    end = next((item.end for item in held if _is_of_host(item)), held[-1].end)
    return f"{len(held)} jobs in a row failed here, the last with: {end.text if end else ''}"


def _lightened(item: PipelineItem) -> PipelineItem:
    """Without what takes memory."""
    return replace(item, pixels=None, encoded=None, inputs=Inputs())
