"""Commands say which workers can't work, and which batches wait for that."""

from pathlib import Path

from sqlalchemy import Engine

from jobs.queue.worker_health_reports import report_health
from tests.console.conftest import Typed, write_lines
from tests.factories import look

WHY = "can't load the model 'x': there is no folder /models/x"


def test_status_and_doctor_name_unhealthy_workers(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    assert typed("submit", str(write_lines(tmp_path / "m.jsonl", [{"prompt": "a fox"}]))).code == 0
    (lane,) = look(engine, "SELECT id FROM lanes")
    report_health(engine, "host:1", "cpu", WHY, next_try_s=4, lane_faults={lane["id"]: WHY})
    for arguments in (("status",), ("status", "m")):
        told = typed(*arguments)
        assert "no worker can go on" in told.out + told.err
        assert "worker host:1 is unhealthy since" in told.err
        assert WHY in told.err
    for report in (typed("status", "--json").json[0], typed("status", "m", "--json").json):
        assert report["waiting"] == WHY
        (worker,) = report["unhealthy_workers"]
        assert (worker["worker"], worker["reason"]) == ("host:1", WHY)
        assert worker["since"] < worker["next_try_at"]
    looked = typed("doctor", "--json")
    assert looked.code == 1
    assert {c["check"]: c["finding"] for c in looked.json}["workers"] == f"host:1 is unhealthy: {WHY}"
    report_health(engine, "host:2", "cpu", None)
    assert typed("status", "m", "--json").json["waiting"] is None, "the other one can"
    report_health(engine, "host:1", "cpu", None)
    assert typed("status", "m", "--json").json["unhealthy_workers"] == []
