"""A query that may hang, done at most once in some seconds and waited for only briefly."""

import logging
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Generic, TypeVar

from jobs.monitoring.database_errors import first_line, is_answer
from jobs.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)

T = TypeVar("T")

FRESH_S = 5.0
WAIT_S = 1.5


class Failure(StrEnum):
    """Why there is no result, as `/readyz` says it."""

    NO_ANSWER = "PostgreSQL doesn't answer"
    ERROR = "a query of PostgreSQL failed; the log says why"


class CachedLookup(Generic[T]):
    """Calls `look` in a background thread when its last result is older than `fresh_s`; callers share the result."""

    def __init__(self, look: Callable[[], T], *, fresh_s: float = FRESH_S, wait_s: float = WAIT_S) -> None:
        self._look, self._fresh_s, self._wait_s = look, fresh_s, wait_s
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ended.set()
        self._begun_s = self._ended_s = float("-inf")
        self._result: T | Failure = Failure.NO_ANSWER
        self._warnings = RateLimitedLog(log)

    def get(self) -> T | Failure:
        """Return the result, or why there is none; NO_ANSWER if it takes longer than `wait_s` seconds."""
        with self._lock:
            now = time.monotonic()
            if self._ended.is_set() and now >= self._ended_s + self._fresh_s:
                self._begun_s, self._ended = now, threading.Event()
                threading.Thread(target=self._run, args=(self._ended,), daemon=True, name="lookup").start()
            ended, left_s = self._ended, self._begun_s + self._wait_s - now
        return self._result if ended.wait(max(0.0, left_s)) else Failure.NO_ANSWER

    def _run(self, ended: threading.Event) -> None:
        try:
            self._result = self._look()
        except Exception as error:
            self._result = Failure.ERROR if is_answer(error) else Failure.NO_ANSWER
            self._warnings.tell(type(error).__name__, f"a query for metrics failed: {first_line(error)}")
            log.debug("a query for metrics failed", exc_info=True)
        finally:
            self._ended_s = time.monotonic()
            ended.set()
