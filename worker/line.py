"""The finishing line: background threads that deliver what was rendered while the device goes on."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from worker.frame import Frame

log = logging.getLogger(__name__)


class FinishingLine:
    """Hands bundles of frames to threads; `put` waits while they are behind, so that memory stays bounded."""

    def __init__(
        self, deliver: Callable[[Sequence[Frame]], None], *, threads: int = 4, waiting: int = 4
    ) -> None:
        self._deliver = deliver
        self._bundles: queue.Queue[Sequence[Frame] | None] = queue.Queue(maxsize=waiting)
        self._threads = [
            threading.Thread(target=self._work, daemon=True, name=f"finish-{n}") for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, frames: Sequence[Frame]) -> None:
        """Deliver these; blocks while too many bundles wait."""
        if frames:
            self._bundles.put(frames)

    def drain(self, timeout_s: float | None = None) -> bool:
        """Wait until all is delivered and end the threads; False if the time ran out first."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for _ in self._threads:
            try:
                self._bundles.put(None, timeout=_left(deadline))
            except queue.Full:
                return False
        for thread in self._threads:
            thread.join(_left(deadline))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (frames := self._bundles.get()) is not None:
            try:
                self._deliver(frames)
            except Exception:
                log.exception("%d images could not be delivered", len(frames))


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
