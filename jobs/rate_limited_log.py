"""Rate-limited logging: repeated warnings of a kind are logged at most once per interval, with a count."""

import logging
import time
from collections.abc import Hashable

EVERY_S = 60.0


class RateLimitedLog:
    """Log warnings to `log`, each kind at most once in `every_s` seconds."""

    def __init__(self, log: logging.Logger, every_s: float = EVERY_S) -> None:
        self._log = log
        self._every_s = every_s
        self._next: dict[Hashable, float] = {}
        self._suppressed: dict[Hashable, int] = {}

    def tell(self, kind: Hashable, text: str) -> None:
        """Log `text`, unless this kind was logged less than `every_s` seconds ago; then only count it."""
        if time.monotonic() < self._next.get(kind, 0.0):
            self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
            return
        suppressed = self._suppressed.pop(kind, 0)
        self._next[kind] = time.monotonic() + self._every_s
        self._log.warning("%s%s", text, f" ({suppressed:,} more like it since)" if suppressed else "")
