"""Retries what finished images need while a service is unavailable, so that they needn't be generated again."""

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from itertools import chain, repeat

from jobs.errors import (
    ContentSafetyError,
    ForeignOutputError,
    ObjectStoreError,
    OutputGoneError,
    StoreUnavailableError,
)
from jobs.job_dataclasses import Lane
from jobs.monitoring import metrics
from worker.health.error_classification import HostFaultError
from worker.health.lane_backoff import Health
from worker.health.what_a_lane_depends_on import CONTENT_SAFETY, output_of
from worker.item import PipelineItem
from worker.liveness.lease_keeper import LeaseKeeper

PATIENCE_S = 300.0
"""How long to retry until the worker releases the jobs and processes other lanes."""

_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)

Act = Callable[[], list[PipelineItem]]
Pause = Callable[[float], bool]


class ServiceRetry:
    """Stores and checks images of a lane session, and retries for as long as that may succeed.

    A service that has never accepted anything from this worker is given up at once. Once one `is_given_up`, the jobs of
    all further items are released.
    """

    def __init__(
        self,
        health: Health,
        leases: LeaseKeeper,
        pause: Pause,
        is_stopping: Callable[[], bool],
    ) -> None:
        """`pause` waits the given number of seconds and returns whether the worker is to stop."""
        self.is_given_up = False
        self._health, self._leases, self._pause, self._is_stopping = health, leases, pause, is_stopping
        self._waiting: set[int] = set()

    def is_waiting(self) -> bool:
        """Whether any thread is waiting for a service."""
        return bool(self._waiting)

    def stored(self, lane: Lane, items: Sequence[PipelineItem], store: Act) -> list[PipelineItem]:
        """Return `store`'s result once it succeeds; when it is given up, release the items' jobs and return no item."""
        return self._done(output_of(lane), lane, items, store, self._pause)

    def rated(
        self, lane: Lane, items: Sequence[PipelineItem], rate: Act, pause: Pause | None = None
    ) -> list[PipelineItem]:
        """Return the result of `rate`, which asks the content-safety service; when it is given up, as `stored` does.

        `pause` is another way of waiting.
        """
        return self._done(CONTENT_SAFETY, lane, items, rate, pause or self._pause)

    def _done(
        self, service: Hashable, lane: Lane, items: Sequence[PipelineItem], act: Act, pause: Pause
    ) -> list[PipelineItem]:
        try:
            if self.is_given_up:
                raise HostFaultError("a service that the lane needs was given up")
            return self._until_done(service, lane, items, act, pause)
        except HostFaultError:
            self.is_given_up = True
            self._leases.release(item.job for item in items)
            return []

    def _until_done(
        self, service: Hashable, lane: Lane, items: Sequence[PipelineItem], act: Act, pause: Pause
    ) -> list[PipelineItem]:
        until, thread = time.monotonic() + PATIENCE_S, threading.get_ident()
        try:
            for pause_s in chain(_PAUSES_S, repeat(_PAUSES_S[-1])):
                try:
                    done = act()
                except (ObjectStoreError, ContentSafetyError) as error:
                    refusal = str(error)
                    is_lasting = isinstance(error, ContentSafetyError) and error.is_lasting
                    if isinstance(error, ObjectStoreError):
                        metrics.STORE_ERRORS.add(len(items), _kind(error))
                else:
                    self._health.went_well(service)
                    return done
                self._waiting.add(thread)
                self._health.failed(service, refusal, lane.id)
                is_hopeless = is_lasting or not self._health.has_worked(service) or time.monotonic() >= until
                if is_hopeless or not self._is_wanted(items) or pause(pause_s):
                    break
        finally:
            self._waiting.discard(thread)
        raise HostFaultError(refusal)

    def _is_wanted(self, items: Sequence[PipelineItem]) -> bool:
        """Whether somebody still waits for the items, whatever else keeps this worker from the lane."""
        is_over = self.is_given_up or self._is_stopping()
        return not is_over and all(self._leases.holds(item.job) for item in items)


def _kind(error: ObjectStoreError) -> str:
    """Return the kind of error as the metric has it."""
    match error:
        case OutputGoneError():
            return "gone"
        case StoreUnavailableError():
            return "unavailable"
        case ForeignOutputError():
            return "foreign"
        case _:
            return "refused"
