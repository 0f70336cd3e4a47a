"""Peak memory of this process while a block runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

PERIOD_S = 0.005


@dataclass
class Growth:
    """Resident memory in bytes: before, and the highest seen since."""

    before: int
    peak: int

    @property
    def megabytes(self) -> float:
        """The growth at the peak, in MB (10**6 bytes)."""
        return (self.peak - self.before) / 1e6


@contextmanager
def watch_memory() -> Iterator[Growth]:
    """Sample this process's memory every 5 ms for the duration of the block."""
    process = psutil.Process()
    growth = Growth(before=process.memory_info().rss, peak=0)
    stopping = threading.Event()

    def look() -> None:
        while not stopping.is_set():
            growth.peak = max(growth.peak, process.memory_info().rss)
            stopping.wait(PERIOD_S)

    watcher = threading.Thread(target=look, name="memory-watch")
    watcher.start()
    try:
        yield growth
    finally:
        stopping.set()
        watcher.join()
        growth.peak = max(growth.peak, process.memory_info().rss)
