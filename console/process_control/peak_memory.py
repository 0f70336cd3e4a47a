"""Peak memory of worker processes and their children, as seen at repeated looks."""

from collections.abc import Iterable
from dataclasses import dataclass

import psutil


@dataclass
class PeakMemory:
    """The largest resident memory, in bytes, of a worker's parent process and of a child of one."""

    parent_bytes: int = 0
    child_bytes: int = 0

    def look(self, pids: Iterable[int]) -> None:
        """Measure the workers whose parent processes have these ids; those that are gone count no more."""
        for pid in pids:
            try:
                parent = psutil.Process(pid)
                self.parent_bytes = max(self.parent_bytes, parent.memory_info().rss)
                for child in parent.children(recursive=True):
                    self.child_bytes = max(self.child_bytes, child.memory_info().rss)
            except psutil.Error:
                continue

    def report(self) -> dict[str, int]:
        """Return the values that `run --json` prints; zeros if there was no worker on this host."""
        return {"parent": self.parent_bytes, "child": self.child_bytes}
