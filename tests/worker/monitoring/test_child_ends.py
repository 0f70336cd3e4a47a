"""Child processes that are replaced are counted by what ended them."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from jobs.monitoring.metric_types import collect
from worker.monitoring.child_ends import ChildEnds

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def nothing_counted() -> Iterator[None]:
    collect()
    yield
    collect()


def counted() -> dict[str, float]:
    return {sample.labels[0]: sample.values[0] for sample in collect().counts}


@pytest.mark.parametrize(
    ("target", "number", "stalled", "reason"),
    [
        (os._exit, 0, False, "unhealthy"),
        (os._exit, 1, False, "crashed"),
        (time.sleep, 60, False, "killed"),
        (time.sleep, 60, True, "stalled"),
    ],
)
def test_by_what_ended_them(target: Callable[[int], object], number: int, stalled: bool, reason: str) -> None:
    child, other = SPAWN.Process(target=target, args=(number,)), SPAWN.Process(target=time.sleep, args=(60,))
    ends = ChildEnds()
    child.start()
    other.start()
    assert child.pid is not None
    try:
        ends.look([child, other], [])
        if target is time.sleep:
            os.kill(child.pid, signal.SIGKILL)
        ends.look([child, other], [child.pid] if stalled else [])
        child.join()
        ends.look([other], [])
        ends.look([other], [])
        assert counted() == {reason: 1}
        ends.is_stopping = True
        ends.look([], [])
        assert counted() == {}
    finally:
        other.kill()
        other.join()
