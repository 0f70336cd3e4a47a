"""The time budget of a run, and the measurements left out of it."""

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.harness.progress import note

_LEAST_S = 12.0


@dataclass
class Budget:
    """`total_s` seconds from now on; `left_out` lists what wasn't measured and why."""

    total_s: float
    left_out: list[str] = field(default_factory=list)
    has_failed: bool = False
    _started: float = field(default_factory=time.monotonic)

    def left(self, share: float = 1.0) -> float:
        """Return the seconds until that share of the total has passed, 0 afterwards."""
        return max(0.0, self._started + share * self.total_s - time.monotonic())

    def allowance(self, share: float) -> float:
        """Return the seconds for one of about three measurements until that share has passed; at least a few."""
        return max(self.left(share) / 3, min(_LEAST_S, self.left() / 4))

    def leave_out(self, what: str, why: str) -> None:
        """Record and print that something wasn't measured."""
        self.left_out.append(f"{what}: {why}")
        note(f"left out: {what}: {why}")

    def attempt(self, what: str, work: Callable[[], None], needs_s: float = 0.0) -> None:
        """Call `work` if there is time; an error is reported, and the other parts are still measured."""
        if self.left() < needs_s or not self.left():
            self.leave_out(what, f"{self.left():.0f} s were left of {self.total_s:.0f}")
            return
        note(f"{what} ({self.left():.0f} s left)")
        try:
            work()
        except Exception as error:  # one part's failure must not lose the other parts' figures
            traceback.print_exc(file=sys.stderr)
            self.has_failed = True
            first = str(error).partition("\n")[0]
            self.leave_out(what, f"{type(error).__name__}: {first[:200]}")
