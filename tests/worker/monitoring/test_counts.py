"""Children tell their parent what they counted: nothing twice, nothing lost but what a killed one had not sent."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.monitoring import metrics
from jobs.monitoring.exposition import exposition
from jobs.monitoring.metric_types import Sample, collect
from tests.end_to_end.processes import until
from tests.scraping import parsed
from worker.monitoring.count_messages import CountMessage, parse_message
from worker.monitoring.receive_counts import WorkerCounts, receiving
from worker.monitoring.send_counts import CountSender


@pytest.fixture(autouse=True)
def nothing_counted() -> Iterator[None]:
    """What other tests of this process have counted is no part of these."""
    collect()
    yield
    collect()


def images(counts: list[Sample]) -> float:
    return sum(sample.values[0] for sample in counts if sample.name == "nightmill_images_total")


def test_what_is_counted_arrives_once(tmp_path: Path) -> None:
    taken: list[CountMessage] = []
    sender = CountSender(tmp_path)
    with receiving(tmp_path, taken.append):
        sender.send()
        until(lambda: len(taken) == 1)
        assert taken[0].counts == [], "that it is there is told even before it has counted anything"
        metrics.IMAGES.add(3, "shapes")
        metrics.STAGE_SECONDS.observe(0.2, "encode")
        sender.start()
        until(lambda: len(taken) == 2)
        metrics.IMAGES.add(2, "shapes")
        sender.stop()
        until(lambda: len(taken) == 3)
    assert [images(message.counts) for message in taken] == [0, 3, 2]


def test_many_samples_are_sent_in_several_messages(tmp_path: Path) -> None:
    taken: list[CountMessage] = []
    for number in range(333):
        metrics.MODEL_LOAD_SECONDS.observe(number, f"{number:0500}")
    with receiving(tmp_path, taken.append):
        CountSender(tmp_path).stop()
        until(lambda: sum(len(message.counts) for message in taken) == 333)
    assert len(taken) == 7


def test_a_parent_that_is_absent_or_slow_holds_up_no_child_and_gets_all_later(tmp_path: Path) -> None:
    sender, taken = CountSender(tmp_path), list[CountMessage]()
    began = time.monotonic()
    for _ in range(1000):
        metrics.IMAGES.add(1, "shapes")
        sender.send()
    with receiving(tmp_path, lambda message: (taken.append(message), time.sleep(0.01))):
        for _ in range(1000):
            metrics.IMAGES.add(1, "shapes")
            sender.send()
        assert time.monotonic() - began < 5
        until(lambda: (sender.send(), sum(images(message.counts) for message in taken) == 2000)[1])
        sender.stop()


GOOD: dict[str, Any] = {"pid": 1, "counts": [["nightmill_images_total", ["shapes"], [1]]], "gauges": []}


def test_a_good_message_is_taken() -> None:
    found = parse_message(json.dumps(GOOD).encode())
    assert parse_message(found.encoded()) == found == CountMessage(1, [Sample(*_first(GOOD))], [])


def _first(message: dict[str, Any]) -> Any:
    name, labels, values = message["counts"][0]
    return name, tuple(labels), tuple(map(float, values))


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"\x80\x04\x95",
        b"[]",
        b"null",
        b'{"pid": 1}',
        GOOD | {"pid": "me"},
        GOOD | {"more": 1},
        GOOD | {"counts": [["nightmill_images_total", ["shapes"], ["many"]]]},
        GOOD | {"counts": [["nightmill_images_total", ["shapes"], [-1]]]},
        GOOD | {"counts": [["nightmill_images_total", ["shapes"], [1, 2]]]},
        GOOD | {"counts": [["nightmill_images_total", [], [1]]]},
        GOOD | {"counts": [["nightmill_images_total", ["x" * 501], [1]]]},
        GOOD | {"counts": [["nightmill_unheard_of_total", [], [1]]]},
        GOOD | {"counts": [["nightmill_worker_healthy", ["cpu:0"], [1]]]},
        GOOD | {"gauges": [["nightmill_images_total", ["shapes"], [1]]]},
        b'{"pid": 1, "counts": [["nightmill_leases_lost_total", [], [NaN]]], "gauges": []}',
        b'{"pid": 1, "counts": [["nightmill_leases_lost_total", [], [1e999]]], "gauges": []}',
    ],
)
def test_other_messages_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"no message|no metric|wrong"):
        parse_message(wrong if isinstance(wrong, bytes) else json.dumps(wrong).encode())


def test_gauges_are_those_of_children_that_live() -> None:
    counts = WorkerCounts()
    for pid, value in ((1, 1), (2, 0)):
        gauge = metrics.WORKER_HEALTHY.sample(value, f"cpu:{pid}")
        counts.take(CountMessage(pid, [Sample("nightmill_leases_lost_total", (), (2.0,))], [gauge]))
    found = parsed(exposition(counts.samples({1, 2}, 2)).decode())
    assert (found["nightmill_worker_healthy cpu:1"], found["nightmill_worker_healthy cpu:2"]) == (1, 0)
    assert (found["nightmill_children"], found["nightmill_children_up"]) == (2, 2)
    found = parsed(exposition(counts.samples({1, 3}, 2)).decode())
    assert "nightmill_worker_healthy cpu:2" not in found
    assert (found["nightmill_children_up"], found["nightmill_leases_lost_total"]) == (1, 4)
