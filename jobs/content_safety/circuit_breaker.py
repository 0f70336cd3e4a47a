"""A circuit breaker for a service: after a failure all calls fail at once for a while, then one is let through."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.errors import ContentSafetyError

BREAK_S, LONGEST_BREAK_S = 1.0, 30.0


class CircuitBreaker:
    """Broken after a call failed; the break grows with each trial that fails, and ends with one that succeeds.

    `longest_call_s` is how long a trial takes at most. Thread-safe.
    """

    def __init__(self, longest_call_s: float) -> None:
        self._longest_call_s = longest_call_s
        self._lock = threading.Lock()
        self._failures, self._closed_until = 0, 0.0
        self._error: ContentSafetyError | None = None

    @contextmanager
    def call(self, *, is_probe: bool = False) -> Iterator[bool]:
        """Enter a call; yields whether it is a trial, which isn't to be repeated. A probe is let through at any time.

        Raises the last failure at once while the circuit is broken.
        """
        is_trial = self._enter(is_probe)
        try:
            yield is_trial
        except ContentSafetyError as error:
            self._failed(error, is_trial)
            raise
        with self._lock:
            self._failures = 0

    def _enter(self, is_probe: bool) -> bool:
        with self._lock:
            now = time.monotonic()
            if self._failures and now < self._closed_until and not is_probe:
                assert self._error is not None
                raise ContentSafetyError(str(self._error), is_lasting=self._error.is_lasting)
            if self._failures:  # nobody else tries until this one has ended
                self._closed_until = now + self._longest_call_s
            return self._failures > 0

    def _failed(self, error: ContentSafetyError, is_trial: bool) -> None:
        """Calls that were under way when the circuit broke fail for the same reason, and don't count."""
        with self._lock:
            if is_trial or not self._failures:
                self._failures += 1
                break_s = min(BREAK_S * 2 ** min(self._failures - 1, 10), LONGEST_BREAK_S)
                self._closed_until, self._error = time.monotonic() + break_s, error
