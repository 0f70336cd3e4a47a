import json
import logging

import pytest

from jobs.job_dataclasses import LaneId
from jobs.rate_limited_log import RateLimitedLog
from jobs.wakeup_message import MAX_BYTES, NotAWakeupError, parse_wakeup, wakeup_message
from tests.wakeup_junk import HEEDED, JUNK, bomb, forged


@pytest.mark.parametrize("lane", [1, 7, 2**63 - 1])
def test_what_is_written_is_read(lane: int) -> None:
    message = wakeup_message(LaneId(lane))
    assert parse_wakeup(message) == lane
    assert len(message) < MAX_BYTES / 4
    assert json.loads(message)["headers"]["task"] == "nightmill.process_lane"


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_junk_is_refused_in_words_that_hold_nothing_of_it(junk: bytes) -> None:
    with pytest.raises(NotAWakeupError) as refused:
        parse_wakeup(junk)
    assert str(refused.value).isascii()
    assert len(str(refused.value)) < 60


@pytest.mark.parametrize("odd", HEEDED.values(), ids=HEEDED)
def test_of_odd_messages_only_the_lane_is_taken(odd: bytes) -> None:
    assert parse_wakeup(odd) == 1


def test_long_messages_are_refused_before_they_are_parsed() -> None:
    for long in (bomb(8), forged(padding="x" * MAX_BYTES)):
        with pytest.raises(NotAWakeupError, match="longer than 8192 bytes"):
            parse_wakeup(long)


def test_each_message_has_an_id_of_its_own() -> None:
    ids = {json.loads(wakeup_message(LaneId(1)))["headers"]["id"] for _ in range(10)}
    assert len(ids) == 10


def test_what_comes_again_and_again_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    log = RateLimitedLog(logging.getLogger("tests.rate"))
    for _ in range(1000):
        log.tell("size", "too long")
    log.tell("kind", "another kind")
    assert [record.getMessage() for record in caplog.records] == ["too long", "another kind"]


def test_what_was_not_said_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    log = RateLimitedLog(logging.getLogger("tests.rate"), every_s=0.0)
    log._next["size"] = float("inf")
    for _ in range(3):
        log.tell("size", "too long")
    log._next.clear()
    log.tell("size", "too long")
    assert caplog.messages == ["too long (3 more like it since)"]
