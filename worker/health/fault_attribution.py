"""The worker's circuit breaker: when jobs fail in a row, it decides whether the jobs or the worker are at fault.

A lane's consecutive failures are held, their leases renewed, until an image of the lane is stored (then the jobs were
at fault), until there are many of them, or until the time slice ends. Then they are judged:

- Other workers complete the lane's jobs: this worker is at fault. The jobs are released without counting an attempt,
  and the worker avoids the lane for a while.
- A worker known to be able to work fails at them, too: the jobs are at fault. So they are when this worker released
  them before, has stored images of other lanes since, and fails again.
- A job whose input image's whole folder is missing on this host is released until another worker finds it.
- Otherwise the fault can't be attributed: the jobs are released without counting an attempt, to be tried by another
  worker, or by this one a little later.

Repeated failures with no image stored between them, in several lanes or in the same one, are the worker's fault: it
rests, and restarts. When no worker is left that hasn't failed at the lane, the device is tested: if it still computes,
jobs that were released twice and fail again are at fault. So a batch whose jobs fail everywhere ends.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Engine

from jobs.job_dataclasses import LaneId
from jobs.logs.prompt_masking import without_prompt
from jobs.queue.failure_evidence import others_may_work, peers, returns_of, to_blame
from jobs.states import ErrorKind
from worker.health.error_classification import reason_of
from worker.health.lane_backoff import Health
from worker.health.what_a_lane_depends_on import work_of
from worker.item import Inputs, PipelineItem

STREAK = 8
"""Failures in a row that trigger a judgement; doubles with each judgement until an image is stored."""
MOST_RETURNS = 2
"""How often jobs are released without counting an attempt when there is no other worker to compare with."""
ALONE_S = 10.0
"""The shortest time for which they are: other workers may be about to start."""
LATELY_S = 600.0

_ENOUGH = 4
_CERTAIN = (ErrorKind.WATERMARK, ErrorKind.SAFETY)


def _is_of_host(item: PipelineItem) -> bool:
    return item.end is not None and item.end.is_of_host


def is_certain(item: PipelineItem) -> bool:
    """Whether the failure is certainly the job's fault and says nothing about the worker."""
    return item.end is not None and item.end.kind in _CERTAIN


@dataclass(frozen=True, slots=True)
class Judgement:
    """Items whose failures count as the jobs' own, and items whose jobs are released for at least `delay_s` seconds."""

    charged: Sequence[PipelineItem] = ()
    returned: Sequence[PipelineItem] = ()
    delay_s: float = 0.0


class CircuitBreaker:
    """Counts the consecutive failures of one worker process."""

    def __init__(
        self,
        engine: Engine,
        health: Health,
        check_device: Callable[[], None],
        within_s: float = LATELY_S,
    ) -> None:
        """`check_device` raises if the device doesn't compute any more.

        `within_s` is how far back other workers' stored images are counted.
        """
        self._engine, self._health, self._check_device = engine, health, check_device
        self._since = time.monotonic() - within_s
        self._lock = threading.RLock()
        self._held: list[PipelineItem] = []
        self._good: set[LaneId] = set()
        self._blamed: set[LaneId] = set()
        self._doubted: set[LaneId] = set()
        self._found_able: set[LaneId] = set()
        """Lanes that were doubted once; images of other lanes have been stored since."""
        # A restarted process starts with one doubt and a full streak: the next doubt makes it rest again.
        self._doubts, self._failures = (1, STREAK) if health.has_rested() else (0, 0)

    def went_well(self, lane: LaneId) -> Judgement:
        """Record a stored image: held failures are the jobs' own, except those whose input folder is missing here."""
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
        """Judge what can be judged of these failures and those held; the rest is held."""
        certain = to_blame(self._engine, [item.job.id for item in items], self._health.names)
        with self._lock:
            charged = [
                item
                for item in items
                if (item.job.id in certain or item.job.lane_id in self._blamed) and not _is_of_host(item)
            ]
            certain = {item.job.id for item in charged}
            doubtful = [_without_arrays(item) for item in items if item.job.id not in certain]
            self._held += doubtful
            self._failures += sum(not _is_of_host(item) for item in doubtful)
            if len(self._held) < STREAK << self._doubts:
                return Judgement(charged)
            return self._judgement(charged)

    def ended(self) -> Judgement:
        """Judge all failures held, at the end of the time slice."""
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
        """Whether a lane's consecutive failures are the jobs' fault; if not, record what the worker does next."""
        lane, engine, own = held[-1].job.lane_id, self._engine, self._health.names
        if any(map(_is_of_host, held)):
            self._health.failed(work_of(lane), _summary(held), lane)
            return False
        if lane in self._good and self._failures < STREAK:
            return True
        others = peers(engine, lane, own, time.monotonic() - self._since)
        do_well = any(peer.stored >= _ENOUGH and 10 * peer.failed <= peer.stored for peer in others)
        if do_well:
            self._doubt(lane, f"{_summary(held)}; other workers do such jobs")
            return False
        fail_too = any(
            peer.is_able and peer.failed >= _ENOUGH and peer.failed > peer.stored for peer in others
        )
        if fail_too or lane in self._found_able:
            return self._blame(lane)
        if others_may_work(engine, lane, [*own, *(peer.worker for peer in others if peer.failed)]):
            self._doubt(lane, f"{_summary(held)}; whether others fare better isn't known yet")
            return False
        return self._alone(lane, held)

    def _alone(self, lane: LaneId, held: Sequence[PipelineItem]) -> bool:
        """Decide whether the jobs are at fault when there is no other worker to compare with."""
        try:
            self._check_device()
        except Exception as error:  # any exception that a driver raises
            self._health.rest(f"{_summary(held)}; {reason_of(error)}")
            return False
        if self._went_back_enough(held):
            return self._blame(lane)
        self._leave(lane, _summary(held))
        return False

    def _went_back_enough(self, held: Sequence[PipelineItem]) -> bool:
        """Whether other workers have had time to try the jobs."""
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
        """Avoid the lane for a while; report it unless this is the first time."""
        if lane in self._doubted or lane in self._found_able:
            self._health.failed(work_of(lane), reason, lane)
        else:
            self._health.leave(lane)
        self._doubted.add(lane)


def _summary(held: Sequence[PipelineItem]) -> str:
    last = next((item for item in held if _is_of_host(item)), held[-1])
    text = without_prompt(last.end.text if last.end else "", last.job)
    return f"{len(held)} jobs in a row failed here, the last with: {text}"


def _without_arrays(item: PipelineItem) -> PipelineItem:
    """Return the item without its arrays and file contents, to free memory."""
    return replace(item, pixels=None, encoded=None, inputs=Inputs())
