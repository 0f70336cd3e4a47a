"""Retries storing finished images while their output is unavailable, so that they needn't be generated again."""

import threading
import time
from collections.abc import Callable, Hashable
from itertools import chain, repeat
from typing import TypeVar

from jobs.errors import ObjectStoreError
from jobs.job_types import LaneId
from worker.health.error_classification import HostFaultError
from worker.health.lane_backoff import Health

T = TypeVar("T")

PATIENCE_S = 300.0
"""How long to retry until the worker releases the jobs and processes other lanes."""

_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)


class Storing:
    """Retries a store operation that fails, for as long as it may succeed.

    An output that has never accepted anything from this worker is given up at once.
    """

    def __init__(self, health: Health, pause: Callable[[float], bool]) -> None:
        """`pause` waits the given number of seconds and returns whether the worker is to stop."""
        self._health, self._pause = health, pause
        self._waiting: set[int] = set()

    def is_waiting(self) -> bool:
        """Whether any thread is waiting for an output."""
        return bool(self._waiting)

    def until_done(
        self, store: Callable[[], T], *, cause: Hashable, lane: LaneId, is_wanted: Callable[[], bool]
    ) -> T:
        """Return `store`'s result once it succeeds; HostFaultError when it gives up or `is_wanted` returns False."""
        until = time.monotonic() + PATIENCE_S
        thread = threading.get_ident()
        try:
            for pause_s in chain(_PAUSES_S, repeat(_PAUSES_S[-1])):
                try:
                    done = store()
                except ObjectStoreError as error:
                    refusal = str(error)
                else:
                    self._health.went_well(cause)
                    return done
                self._waiting.add(thread)
                self._health.failed(cause, refusal, lane)
                is_hopeless = not self._health.has_worked(cause) or time.monotonic() >= until
                if is_hopeless or not is_wanted() or self._pause(pause_s):
                    break
        finally:
            self._waiting.discard(thread)
        raise HostFaultError(refusal)
