"""What happens to batches and workers is found out once, by whichever scheduler looks first."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.batches.drop_jobs_and_delete_batches import delete
from jobs.job_dataclasses import BatchId, Failure
from jobs.queue import transitions
from jobs.queue.lane_counts_and_low_watermarks import end_lanes
from jobs.queue.worker_health_reports import report_health
from jobs.settings import Settings
from jobs.states import ErrorKind
from jobs.webhooks import registry
from scheduler.webhooks import detect_events
from scheduler.webhooks.detect_events import Detector
from tests.factories import change, image, lanes_of, look, make_batch, take
from tests.receiver import receiving
from tests.scheduler.test_loop import scheduling

URL = "https://receiver.example/hooks"


@pytest.fixture(autouse=True)
def webhook(engine: Engine) -> None:
    registry.add(engine, URL, None, allows_private=False)


def told(engine: Engine) -> list[tuple[str, dict[str, Any]]]:
    rows = look(engine, "SELECT event, body FROM webhook_deliveries ORDER BY id")
    return [(row["event"], json.loads(row["body"])["data"]) for row in rows]


def events(engine: Engine) -> list[str]:
    return [event for event, _ in told(engine)]


def look_at(engine: Engine, settled_s: float = 0) -> None:
    end_lanes(engine)
    Detector(engine, settled_s=settled_s).look()


def finish(engine: Engine, batch: Any, blocked: int = 0) -> None:
    """All queued jobs end: so many are blocked, the others get images."""
    for lane in lanes_of(engine, batch):
        jobs = take(engine, lane)
        transitions.block(
            engine, [Failure(job.id, job.lease, ErrorKind.SAFETY, "flagged") for job in jobs[:blocked]]
        )
        transitions.complete(engine, [image(job) for job in jobs[blocked:]])


class TestEnded:
    def test_a_batch_that_ends_is_told_of_once(self, engine: Engine) -> None:
        batch = make_batch(engine, 3, name="night")
        look_at(engine)
        assert events(engine) == []
        finish(engine, batch)
        for _ in range(3):
            look_at(engine)
        ((event, data),) = told(engine)
        assert event == "batch.ended"
        assert (data["batch"], data["name"], data["state"]) == (batch.id, "night", "done")
        assert (data["counts"]["done"], data["rows"], data["rejected"]) == (3, 3, 0)
        assert abs((datetime.fromisoformat(data["ended_at"]) - datetime.now(UTC)).total_seconds()) < 60

    def test_a_batch_that_is_cancelled_has_ended(self, engine: Engine) -> None:
        batch = make_batch(engine, 3)
        actions.cancel(engine, BatchId(batch.id))
        look_at(engine)
        assert [(event, data["state"]) for event, data in told(engine)] == [("batch.ended", "cancelled")]

    def test_a_batch_that_is_taken_up_again_ends_again(self, engine: Engine) -> None:
        batch = make_batch(engine, 2)
        finish(engine, batch, blocked=1)
        look_at(engine)
        actions.retry(engine, BatchId(batch.id), ("blocked",), None)
        look_at(engine)
        assert len(events(engine)) == 1
        finish(engine, batch)
        look_at(engine)
        assert [data["counts"]["blocked"] for _, data in told(engine)] == [1, 0]

    def test_it_has_not_ended_while_replacements_are_due(self, engine: Engine) -> None:
        batch = make_batch(engine, 2, target=2)
        finish(engine, batch, blocked=1)
        look_at(engine)
        assert events(engine) == []
        finish(engine, batch)
        look_at(engine)
        assert events(engine) == ["batch.ended"]

    def test_what_ended_before_the_webhook_came_is_not_told(self, engine: Engine) -> None:
        finish(engine, make_batch(engine, 1))
        end_lanes(engine)
        change(engine, "UPDATE lanes SET ended_at = ended_at - interval '1 hour'")
        look_at(engine)
        assert events(engine) == []

    def test_a_batch_that_was_deleted_meanwhile(
        self, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        finish(engine, make_batch(engine, 1, name="night"))
        end_lanes(engine)
        status = detect_events.status

        def too_late(engine: Engine, name: str) -> actions.BatchStatus:
            delete(engine, status(engine, name))
            return status(engine, name)

        monkeypatch.setattr(detect_events, "status", too_late)
        assert Detector(engine).look() == 0

    def test_without_webhooks_nothing_is_kept(self, engine: Engine) -> None:
        registry.remove(engine, 1)
        finish(engine, make_batch(engine, 1))
        look_at(engine)
        assert events(engine) == []


class TestShort:
    def test_an_unmet_target_is_told_with_the_values_that_lack(self, engine: Engine) -> None:
        rows = [{"prompt": "a", "label": "fox"}, {"prompt": "b", "label": "f" * 500}]
        batch = make_batch(engine, rows, target=1, target_per="label", max_replacement_ratio=0)
        finish(engine, batch, blocked=2)
        look_at(engine)
        assert events(engine) == ["batch.ended", "batch.short"]
        data = told(engine)[1][1]
        assert data["target"] == 1
        assert [(each["value"], each["accepted"]) for each in data["values"]] == [("f" * 200, 0), ("fox", 0)]

    def test_a_target_that_is_met_is_nothing_to_tell(self, engine: Engine) -> None:
        finish(engine, make_batch(engine, 2, target=2))
        look_at(engine)
        assert events(engine) == ["batch.ended"]


class TestLate:
    def deadline(self, engine: Engine, batch: Any, minutes: float) -> None:
        change(
            engine,
            "UPDATE batches SET deadline = now() + make_interval(secs => :s) WHERE id = :id",
            s=60 * minutes,
            id=batch.id,
        )

    def test_a_missed_deadline(self, engine: Engine) -> None:
        batch = make_batch(engine, 2)
        change(engine, "UPDATE webhooks SET created_at = now() - interval '1 hour'")
        self.deadline(engine, batch, -1)
        for _ in range(2):
            look_at(engine, settled_s=3600)
        ((event, data),) = told(engine)
        assert (event, data["is_missed"]) == ("batch.late", True)

    def test_one_that_will_be_missed_is_told_once_the_estimate_is_settled(self, engine: Engine) -> None:
        batch = make_batch(engine, 2)
        change(engine, "UPDATE lanes SET image_s = 1e6")
        report_health(engine, "w1", "cpu", None)
        self.deadline(engine, batch, 10)
        detector = Detector(engine, settled_s=0.3)
        assert detector.look() == 0
        while not detector.look():
            pass
        assert detector.look() == 0
        ((event, data),) = told(engine)
        assert (event, data["is_missed"]) == ("batch.late", False)
        assert data["eta_s"] > 1e6
        self.deadline(engine, batch, 20)  # another deadline
        while not detector.look():
            pass
        assert len(events(engine)) == 2

    def test_one_that_will_be_met_is_nothing_to_tell(self, engine: Engine) -> None:
        batch = make_batch(engine, 2)
        self.deadline(engine, batch, 10)
        look_at(engine)
        assert events(engine) == []


class TestUnhealthy:
    def test_a_worker_is_told_of_once_for_each_time(self, engine: Engine) -> None:
        report_health(engine, "w1", "cuda:0", "no CUDA device", next_try_s=60)
        report_health(engine, "w2", "cuda:1", None)
        look_at(engine, settled_s=60)
        assert events(engine) == []
        for _ in range(2):
            look_at(engine)
        ((event, data),) = told(engine)
        assert (event, data["worker"], data["reason"]) == ("worker.unhealthy", "w1", "no CUDA device")
        report_health(engine, "w1", "cuda:0", None)
        report_health(engine, "w1", "cuda:0", "no CUDA device")
        look_at(engine)
        assert len(events(engine)) == 2


def test_a_scheduler_tells_of_a_batch_that_ends(settings: Settings, engine: Engine) -> None:
    with receiving() as receiver:
        _, secret = registry.add(engine, receiver.url, ["batch.ended"], allows_private=True)
        batch = make_batch(engine, 2, name="night")
        with scheduling(settings, engine):
            finish(engine, batch)
            receiver.wait_for(1)
        assert receiver.verified(secret)[0]["data"]["name"] == "night"
