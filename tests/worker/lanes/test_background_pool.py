import logging
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.worker.test_bisect import items
from worker.item import PipelineItem
from worker.lanes.background_pool import BackgroundPool


class Door:
    """A delivery that waits at a closed door."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.delivered: list[int] = []

    def __call__(self, bundle: Sequence[PipelineItem]) -> None:
        self.opened.wait(20)
        self.delivered += [item.job.id for item in bundle]


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.opened.set()


def after(calls: int) -> Callable[[], bool]:
    """Says yes from the n-th time on that it is asked."""
    left = iter(range(calls))
    return lambda: next(left, None) is None


def test_everything_is_delivered_before_drain_ends(door: Door) -> None:
    line = BackgroundPool(door, threads=3, waiting=10)
    for bundle in ([item] for item in items(10)):
        assert line.put(bundle)
    assert not door.delivered
    threading.Timer(0.3, door.opened.set).start()
    assert line.drain()
    assert sorted(door.delivered) == list(range(10))


def test_put_waits_while_too_much_is_waiting(door: Door) -> None:
    line = BackgroundPool(door, threads=1, waiting=2)
    bundles = [[item] for item in items(5)]
    accepted = [line.put(bundle, after(2)) for bundle in bundles]
    assert accepted in ([True, True, True, False, False], [True, True, False, True, False])
    door.opened.set()
    assert line.put(bundles[4])
    assert line.drain()
    assert len(door.delivered) == 4


def test_wait_ends_when_all_so_far_is_delivered_and_more_may_come(door: Door) -> None:
    line = BackgroundPool(door, threads=2, waiting=4)
    for bundle in ([item] for item in items(3)):
        assert line.put(bundle)
    assert not line.wait(after(2))
    door.opened.set()
    assert line.wait()
    assert sorted(door.delivered) == [0, 1, 2]
    assert line.put(items(1))
    assert line.drain()


def test_drain_gives_up_when_told(door: Door) -> None:
    line = BackgroundPool(door, threads=2, waiting=1)
    assert line.put(items(1))
    assert not line.drain(after(3))
    assert not door.delivered


def test_a_delivery_that_fails_takes_no_thread_with_it(caplog: pytest.LogCaptureFixture) -> None:
    delivered: list[int] = []

    def deliver(bundle: Sequence[PipelineItem]) -> None:
        if bundle[0].job.id % 2:
            raise RuntimeError("the door is stuck")
        delivered.append(bundle[0].job.id)

    line = BackgroundPool(deliver, threads=2)
    with caplog.at_level(logging.ERROR):
        for bundle in ([item] for item in items(20)):
            line.put(bundle)
        assert line.drain()
    assert sorted(delivered) == list(range(0, 20, 2))
    assert caplog.text.count("could not be delivered") == 10


def test_nothing_is_put_for_nothing(door: Door) -> None:
    line = BackgroundPool(door, threads=1, waiting=1)
    for _ in range(10):
        assert line.put([])
    assert line.drain()
    assert not door.delivered
