"""The most that more processes can gain on this machine: pure computation in one process, and in one per core."""

import os
import time

from bench.harness.process_pool import together, wait_for_all

COUNT = 10_000_000


def gain_of_all_cores() -> float:
    """Return the counting rate of one process per core, relative to one process; clocks and neighbours reduce it."""
    one = _rate(1)
    return _rate(os.cpu_count() or 1) / one


def _rate(processes: int) -> float:
    with together(processes) as pool:
        spans = pool.map(_count, range(processes), chunksize=1)
    return processes * COUNT / (max(ended for _, ended in spans) - min(began for began, _ in spans))


def _count(_: int) -> tuple[float, float]:
    wait_for_all()
    began, total = time.monotonic(), 0
    for number in range(COUNT):
        total += number & 7
    return began, time.monotonic()
