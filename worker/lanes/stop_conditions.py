"""When a lane session claims no more, when it stops between two steps, and when it leaves images undelivered."""

import time
from collections.abc import Callable

from jobs.job_dataclasses import LaneId
from worker.health.error_classification import HostFaultError, LaneDoubtedError
from worker.health.retry_while_service_is_unavailable import ServiceRetry
from worker.health.what_a_lane_depends_on import work_of
from worker.lanes.worker_context import WorkerContext


class StopConditions:
    """The time slice, a worker that is asked to stop, and faults that keep this host from the lane.

    When the time slice is over, `renew` returns whether the session gets another one.
    """

    def __init__(self, context: WorkerContext, lane_id: LaneId, renew: Callable[[], bool]) -> None:
        self.service_retry = ServiceRetry(
            context.health, context.leases, context.stopping.wait, context.stopping.is_set
        )
        self._context, self._lane_id, self._renew = context, lane_id, renew
        self._until = time.monotonic() + context.settings.time_slice_s
        self._is_over = self._is_stuck = False
        self._leave_at: float | None = None

    def is_over(self, taken: int) -> bool:
        """Whether the session must claim no more; however short a slice is, it claims once."""
        if self.must_end():
            return True
        if taken and not self._is_over and time.monotonic() >= self._until:
            self._is_over = not self._renew()
            self._until = time.monotonic() + self._context.settings.time_slice_s
        return self._is_over

    def must_end(self) -> bool:
        """Whether the worker was asked to stop, or a fault keeps it from this lane."""
        return self._is_stuck or self.service_retry.is_given_up or self._context.stopping.is_set()

    def must_leave(self) -> bool:
        """Whether the worker was asked to stop and the shutdown grace period is over; polled while waiting."""
        if self.service_retry.is_waiting():
            self._context.heartbeat.beat()
        if not self._context.stopping.is_set():
            return False
        self._leave_at = self._leave_at or time.monotonic() + self._context.settings.shutdown_grace_s
        return time.monotonic() >= self._leave_at

    def give_up(self, error: HostFaultError | None = None) -> None:
        """Leave the lane for a while; without an error, or for a doubted lane, the reason has been recorded already."""
        self._is_stuck = True
        if error is not None and not isinstance(error, LaneDoubtedError):
            self._context.health.failed(work_of(self._lane_id), str(error), self._lane_id)
