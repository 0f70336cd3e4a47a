"""Finished images wait for an output that is away, so that they needn't be drawn again."""

import threading
import time
from collections.abc import Callable, Hashable
from itertools import chain, repeat
from typing import TypeVar

from jobs.errors import ObjectStoreError
from jobs.job import LaneId
from worker.health.host_faults import HostFaultError
from worker.health.lane_backoff import Health

T = TypeVar("T")

PATIENCE_S = 300.0
"""After which a worker gives the jobs back and works in other lanes."""

_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)


class Storing:
    """Stores again and again what an output refuses, for as long as that makes sense.

    An output that has taken nothing yet from this worker is given up at once: it may never do so.
    """

    def __init__(self, health: Health, pause: Callable[[float], bool]) -> None:
        """`pause` waits so many seconds, and says whether the worker is to stop."""
        self._health, self._pause = health, pause
        self._waiting: set[int] = set()

    def is_waiting(self) -> bool:
        """Whether any thread waits for an output."""
        return bool(self._waiting)

    def until_done(
        self, store: Callable[[], T], *, cause: Hashable, lane: LaneId, is_wanted: Callable[[], bool]
    ) -> T:
        """What `store` returns once it works; HostFaultError when it was given up, or isn't `is_wanted` any more."""
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
