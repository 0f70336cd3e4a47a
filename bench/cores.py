"""What more processes can gain on this machine at all: pure computing, in one process and in one for each core."""

import os
import time
from multiprocessing import get_context
from threading import Barrier

COUNT = 10_000_000
START_S = 120


def gain_of_all_cores() -> float:
    """Counting by as many processes as there are cores, per counting by one; clocks and neighbours keep it below."""
    one = _rate(1)
    return _rate(os.cpu_count() or 1) / one


def _rate(processes: int) -> float:
    context = get_context("spawn")
    with context.Manager() as manager:
        barrier = manager.Barrier(processes)
        with context.Pool(processes) as pool:
            spans = pool.map(_count, [barrier] * processes)
    return processes * COUNT / (max(ended for _, ended in spans) - min(began for began, _ in spans))


def _count(barrier: Barrier) -> tuple[float, float]:
    barrier.wait(START_S)
    began, total = time.monotonic(), 0
    for number in range(COUNT):
        total += number & 7
    return began, time.monotonic()
