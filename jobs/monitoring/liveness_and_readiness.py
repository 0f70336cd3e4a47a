"""Answers of `/healthz` and `/readyz`: does the main loop go on, and what keeps the process from working."""

import time
from collections.abc import Callable, Sequence
from http import HTTPStatus

from jobs.monitoring.http_server import Answer, Route


class Liveness:
    """When the main loop was last seen to go on; it must be within `limit_s` seconds."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._is_stopping = False
        self.beat()

    def beat(self) -> None:
        """Record that the main loop goes on."""
        self._seen_s = time.monotonic()

    def stop(self) -> None:
        """Record that the process was asked to stop, and its main loop may end."""
        self._is_stopping = True

    def check(self, _: str = "") -> Answer:
        """Answer 200 while the main loop goes on or the process stops, else 503."""
        silent_s = time.monotonic() - self._seen_s
        if self._is_stopping:
            return Answer.text(HTTPStatus.OK, "stopping")
        if silent_s > self.limit_s:
            return Answer.text(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the main loop has stood still for {silent_s:.0f} s"
            )
        return Answer.text(HTTPStatus.OK, "ok")


def readiness(problems: Callable[[], Sequence[str]]) -> Route:
    """Return a route that answers 200 if there are no problems, else 503 with a line for each."""

    def check(_: str) -> Answer:
        found = problems()
        if found:
            return Answer.text(HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(found))
        return Answer.text(HTTPStatus.OK, "ready")

    return check
