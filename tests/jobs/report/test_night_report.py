"""The report of a night: batches by what is the matter with them, failures, workers, usage."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.batches.record_batch_end_events import record_batch_events
from jobs.job_dataclasses import Failure, Job
from jobs.queue import transitions
from jobs.queue.fair_share import SliceUse, end_time_slice, pick_lane
from jobs.queue.worker_health_reports import report_health
from jobs.report.failures_since import ADVICE, failures_since
from jobs.report.night_report import collect_report
from jobs.setting_values.device_hour_prices import DevicePrices
from jobs.states import ErrorKind
from jobs.webhooks import deliveries, registry
from jobs.webhooks.webhook_events import EventType, emit_now
from scheduler.forget_lost_workers import LostWorkers
from scheduler.ingest.ingest import Ingested
from tests.factories import change, failure, image, lanes_of, look, make_batch, take

SINCE = datetime.now(UTC) - timedelta(hours=1)


def claimed(engine: Engine, batch: Ingested, limit: int = 100) -> list[Job]:
    return [job for lane in lanes_of(engine, batch) for job in take(engine, lane, limit)]


def end(engine: Engine, batch: Ingested) -> None:
    transitions.complete(engine, [image(job) for job in claimed(engine, batch)])
    record_batch_events(engine)


def told(engine: Engine, **options: Any) -> Any:
    return collect_report(engine, SINCE, **options)


def test_the_worst_batches_come_first(engine: Engine) -> None:
    made = {
        name: make_batch(engine, 2, name=name)
        for name in ("fine", "short", "late", "stopped", "failed", "overdue", "paused", "queued", "running")
    }
    make_batch(engine, [{"prompt": ""}], name="empty")
    made["rejected"] = make_batch(engine, [{"prompt": "fox"}, {"prompt": ""}], name="rejected")
    end(engine, made["rejected"])
    end(engine, made["fine"])
    change(engine, "UPDATE batches SET deadline = now() - interval '1 s' WHERE name IN ('late', 'overdue')")
    end(engine, made["late"])
    change(engine, "UPDATE batches SET ended_at = deadline + interval '90 s' WHERE name = 'late'")
    change(engine, """UPDATE batches SET policy = policy || '{"target": 9}' WHERE name = 'short'""")
    end(engine, made["short"])
    ended = [
        Failure(job.id, job.lease, ErrorKind.BAD_INPUT, "no picture")
        for job in claimed(engine, made["failed"])
    ]
    transitions.fail(engine, ended, delay_s=0)
    record_batch_events(engine)
    change(
        engine,
        "UPDATE batches SET paused_at = now(), stopped_because = 'the canary died' WHERE name = 'stopped'",
    )
    actions.pause(engine, made["paused"].id)
    claimed(engine, made["running"], 1)
    found = told(engine)["batches"]
    assert [(batch["name"], batch["verdict"]) for batch in found] == [
        ("stopped", "stopped"),
        ("late", "late"),
        ("overdue", "late"),
        ("short", "short"),
        ("failed", "failed"),
        ("empty", "failed"),
        ("paused", "paused"),
        ("rejected", "rejected"),
        ("running", "running"),
        ("queued", "queued"),
        ("fine", "done"),
    ]
    assert found[1]["late_s"] == 90
    assert found[3]["short"] == {"images": 7, "values": 1}


def test_batches_that_ended_before_are_left_out(engine: Engine) -> None:
    old, new = (make_batch(engine, 1, name=name) for name in ("old", "new"))
    for batch in (old, new):
        end(engine, batch)
    change(engine, "UPDATE batches SET ended_at = now() - interval '2 hours' WHERE name = 'old'")
    assert [batch["name"] for batch in told(engine)["batches"]] == ["new"]


def test_failures_are_counted_by_kind_with_the_last_text_and_advice(engine: Engine) -> None:
    batch = make_batch(engine, 6, name="foxes")
    jobs = claimed(engine, batch)
    for number, job in enumerate(jobs[:3]):
        transitions.fail(
            engine, [Failure(job.id, job.lease, ErrorKind.BAD_INPUT, f"no picture {number}")], delay_s=0
        )
    transitions.fail(engine, [failure(jobs[3], ErrorKind.WATERMARK)], delay_s=0)
    transitions.fail(engine, [failure(jobs[4], ErrorKind.EXCEPTION)], delay_s=0)  # and tried again
    change(
        engine, "UPDATE attempts SET ended_at = now() - interval '2 hours' WHERE job_id = :id", id=jobs[3].id
    )
    (kind,) = told(engine)["failures"]
    assert kind == {
        "error_kind": "bad-input",
        "state": "failed",
        "jobs": 3,
        "batches": ["foxes"],
        "example_job": jobs[2].id,
        "example": "no picture 2",
        "advice": ADVICE[ErrorKind.BAD_INPUT],
    }
    listed = failures_since(engine, SINCE, limit=2)
    assert [(row["batch"], row["ordinal"], row["error_text"]) for row in listed] == [
        ("foxes", 2, "no picture 2"),
        ("foxes", 1, "no picture 1"),
    ]
    actions.retry(engine, batch.id)
    assert told(engine)["failures"] == [], "they were queued again"


def test_a_job_whose_worker_died_for_the_last_time_has_failed(engine: Engine) -> None:
    claimed(engine, make_batch(engine, 1, name="foxes", max_attempts=1))
    change(engine, "UPDATE jobs SET lease_until = now() - interval '1 s'")
    transitions.rescue(engine)
    (kind,) = told(engine)["failures"]
    assert (kind["error_kind"], kind["jobs"]) == ("crash", 1)
    (worker,) = told(engine)["workers"]
    assert (worker["worker"], worker["jobs_lost"], worker["state"]) == ("w1", 1, "gone")


def test_a_tenant_s_report_has_its_own_workers_and_messages(engine: Engine) -> None:
    registry.add(engine, "https://receiver.example/", None, allows_private=False)
    for tenant in ("ada", "bob"):
        batch = make_batch(engine, [{"prompt": "fox", "tenant": tenant}], name=tenant)
        picked = pick_lane(engine, slice_s=60)
        assert picked is not None
        claimed(engine, batch)
        end_time_slice(engine, picked, f"of-{tenant}", "cpu", SliceUse(4, device_s=3, images=5))
        report_health(engine, f"of-{tenant}", "cpu", "no disk")
        actions.cancel(engine, batch.id)
        emit_now(
            engine, EventType.BATCH_ENDED, tenant, {"batch": batch.id, "name": tenant}, datetime.now(UTC)
        )
    report_health(engine, "idle", "cpu", None)
    change(engine, "UPDATE webhook_deliveries SET error = 'no answer', attempts = 1")
    found = told(engine, tenant="ada")
    assert [(worker["worker"], worker["unhealthy_spells"]) for worker in found["workers"]] == [("of-ada", 1)]
    assert [message["url"] for message in found["untold"]] == ["https://receiver.example/"]
    assert [len(told(engine)[name]) for name in ("workers", "untold")] == [3, 2]


def test_every_kind_of_error_has_advice() -> None:
    assert set(ADVICE) == set(ErrorKind)


def test_workers_that_died_or_were_unhealthy_come_first(engine: Engine) -> None:
    make_batch(engine, 9)
    for name, images in (("slow", 1), ("quick", 8)):
        picked = pick_lane(engine, slice_s=60)
        assert picked is not None
        end_time_slice(engine, picked, name, "cpu", SliceUse(4, device_s=3, images=images))
    for reason in ("no disk", "no disk", None, "no network", None):
        report_health(engine, "ill", "cpu", reason)
    report_health(engine, "dead", "cpu", None)
    change(engine, "UPDATE workers SET seen_at = now() - interval '61 minutes' WHERE name = 'dead'")
    lost = LostWorkers(engine)
    assert (lost.forget(), lost.forget()) == (0, 1)
    change(engine, "UPDATE worker_events SET at = now() WHERE kind = 'lost'")
    report_health(engine, "lost", "cpu", None)
    change(engine, "UPDATE workers SET seen_at = now() - interval '2 minutes' WHERE name = 'lost'")
    found = told(engine)["workers"]
    assert [worker["worker"] for worker in found] == ["dead", "lost", "ill", "quick", "slow"]
    assert (found[2]["unhealthy_spells"], found[2]["reason"], found[2]["state"]) == (
        2,
        "no network",
        "healthy",
    )
    assert (found[0]["state"], found[1]["state"]) == ("gone", "lost")
    assert (found[3]["images"], found[3]["images_per_s"]) == (8, 2.0)
    assert look(engine, "SELECT kind FROM worker_events WHERE worker = 'ill' ORDER BY id") == [
        {"kind": kind} for kind in ("unhealthy", "healthy", "unhealthy", "healthy")
    ]


def test_a_worker_with_two_devices_is_counted_whole(engine: Engine) -> None:
    for name, device, seconds in (("a", "cpu:0", 1), ("b", "Xeon", 3)):
        make_batch(engine, 9, name=name)
        picked = pick_lane(engine, slice_s=60)
        assert picked is not None
        end_time_slice(engine, picked, "w1", device, SliceUse(seconds, images=4))
    (worker,) = told(engine)["workers"]
    assert (worker["device"], worker["images"], worker["images_per_s"]) == ("Xeon", 8, 2.0)


def test_messages_that_nobody_took_are_told_without_the_keys_in_their_urls(engine: Engine) -> None:
    number, _ = registry.add(engine, "https://example.com/hook?key=secret", None, allows_private=False)
    emit_now(engine, EventType.BATCH_ENDED, "1", {"batch": 1}, datetime.now(UTC) + timedelta(seconds=1))
    lost = deliveries.claim(engine, number)
    assert lost is not None
    deliveries.fail(engine, lost, "answered 500", 500)
    (untold,) = told(engine)["untold"]
    assert (untold["url"], untold["error"], untold["state"]) == (
        "https://example.com/hook?…",
        "answered 500",
        "pending",
    )


def test_usage_has_a_price_by_device_and_is_of_one_tenant_if_asked_for(engine: Engine) -> None:
    make_batch(engine, [{"prompt": "fox", "tenant": name} for name in ("ada", "bob")])
    for device in ("NVIDIA H200", "Xeon"):
        picked = pick_lane(engine, slice_s=60)
        assert picked is not None
        end_time_slice(engine, picked, "w1", device, SliceUse(1800))
    found = {use["device"]: use for use in told(engine, prices=DevicePrices.parse("h200=4, 0.5"))["usage"]}
    assert {device: use["cost"] for device, use in found.items()} == {"NVIDIA H200": 2.0, "Xeon": 0.25}
    assert {use["cost"] for use in told(engine)["usage"]} == {None}
    of_ada = told(engine, tenant="ada")
    assert ([use["tenant"] for use in of_ada["usage"]], len(of_ada["batches"])) == (["ada"], 1)
    assert told(engine, tenant="eve")["batches"] == []


@pytest.mark.parametrize("text", ["-1", "x", "H200=", "=3", "1,2", "nan", "H200=inf"])
def test_prices_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"H200=3\.5"):
        DevicePrices.parse(text)


def test_the_first_part_of_a_device_name_that_fits_has_the_price() -> None:
    prices = DevicePrices.parse("H200 NVL=5,H200=4")
    assert [prices.cost(name, 3600) for name in ("H200 NVL 141GB", "NVIDIA H200", "A100")] == [5, 4, None]
    assert DevicePrices.parse("").cost("A100", 1) is None
