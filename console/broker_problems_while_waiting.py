"""Report Redis problems to a user whose batch isn't started: workers get their wake-up messages through Redis."""

import time

from console.terminal.output import note
from jobs.batches.actions import BatchStatus
from jobs.errors import ServiceError
from jobs.settings import Settings
from jobs.states import BatchState

EVERY_S = 10.0


class BrokerCheck:
    """Check Redis periodically while a batch's jobs are queued and none runs; report each problem once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._next = 0.0
        self._said = ""

    def look(self, status: BatchStatus) -> None:
        """Process the batch's current status; to be called repeatedly."""
        if status.state != BatchState.QUEUED or not status.remaining or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY_S
        wrong = broker_trouble(self._settings)
        if wrong and wrong != self._said:
            note(f"no worker is woken: {wrong}")
        self._said = wrong


def broker_trouble(settings: Settings) -> str:
    """Return the reason why wake-up messages can't be sent, or ""."""
    from scheduler.check_redis import check_redis  # noqa: PLC0415 - its libraries take time to import

    try:
        check_redis(settings)
    except ServiceError as error:
        return str(error)
    return ""
