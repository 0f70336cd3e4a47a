"""A look-up that may hang, done at most once in some seconds and waited for only briefly."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

FRESH_S = 5.0
WAIT_S = 1.5


class CachedLookup(Generic[T]):
    """Calls `look` in a background thread when its last result is older than `fresh_s`; callers share the result."""

    def __init__(self, look: Callable[[], T], *, fresh_s: float = FRESH_S, wait_s: float = WAIT_S) -> None:
        self._look, self._fresh_s, self._wait_s = look, fresh_s, wait_s
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ended.set()
        self._begun_s = self._ended_s = float("-inf")
        self._result: T | None = None

    def get(self) -> T | None:
        """Return the result; None if the look-up failed, or hasn't ended within `wait_s` seconds of its begin."""
        with self._lock:
            now = time.monotonic()
            if self._ended.is_set() and now >= self._ended_s + self._fresh_s:
                self._begun_s, self._ended = now, threading.Event()
                threading.Thread(target=self._run, args=(self._ended,), daemon=True, name="lookup").start()
            ended, left_s = self._ended, self._begun_s + self._wait_s - now
        return self._result if ended.wait(max(0.0, left_s)) else None

    def _run(self, ended: threading.Event) -> None:
        try:
            self._result = self._look()
        except Exception as error:
            self._result = None
            log.debug("a look-up for metrics failed: %s", error)
        finally:
            self._ended_s = time.monotonic()
            ended.set()
