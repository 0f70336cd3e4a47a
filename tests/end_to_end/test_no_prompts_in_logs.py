"""No log has a prompt, whatever becomes of the job; as JSON, every line of worker and scheduler is an object."""

import json
import re
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from jobs.settings import Settings
from tests.chaos.stub import stubbed
from tests.command_line import Nightmill
from tests.end_to_end.processes import foxes, manifest, running, until
from tests.factories import look
from tests.worker.contexts import submit

MARK = "zanzibar"
ROWS = [
    {"prompt": f"{MARK} fox"},
    {"prompt": f"{MARK} explicit nudity"},
    {"prompt": f"a {MARK}-fox fault:quote"},
    {"prompt": f"fault:exception {MARK}"},
    {"prompt": f"fault:quote:once {MARK} fox", "negative_prompt": MARK},
    {"prompt": f"fault:segfault:once {MARK}"},
    {"prompt": f"fault:nan {MARK}"},
]


def ended(engine: Engine) -> bool:
    return not look(engine, "SELECT 1 FROM jobs WHERE finished_at IS NULL")


def logged_by(settings: Settings) -> str:
    return (settings.data_dir / "processes.log").read_text()


def test_every_line_is_an_object_and_none_has_a_prompt(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    given = settings.model_copy(update={"log_format": "json"})
    submit(given, engine, tmp_path, ROWS, clip_score="off", watermark="off")
    with stubbed(tmp_path), running(given, "scheduler", "worker"):
        until(lambda: ended(engine), 90)
    log = logged_by(given)
    lines: list[dict[str, Any]] = [json.loads(line) for line in log.splitlines() if line]
    assert MARK not in log
    failures = look(engine, "SELECT error_text FROM attempts")
    assert any(MARK in (row["error_text"] or "") for row in failures), "there it is, for those who may see it"
    assert {"scheduler", "celery.worker.strategy", "celery.worker.request", "worker.tasks"} <= {
        line["logger"] for line in lines
    }
    (failed, *_) = [line for line in lines if "RuntimeError: can't tokenise" in line["message"]]
    (job,) = look(engine, "SELECT * FROM jobs WHERE id = :id", id=failed["job"])
    (batch,) = look(engine, "SELECT name FROM batches")
    assert (failed["batch"], failed["lane"]) == (batch["name"], job["lane_id"])
    assert re.fullmatch(r"[0-9a-f-]{36}", failed["lease"])
    assert failed["worker"].endswith(f":{failed['process']}")
    assert all(re.fullmatch(r"[0-9-]{10}T[0-9:.]{12}\+00:00", line["time"]) for line in lines)


def test_text_logs_have_no_prompt_either_except_at_debug(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    submit(settings, engine, tmp_path, ROWS, clip_score="off", watermark="off")
    with stubbed(tmp_path), running(settings, "scheduler", "worker"):
        until(lambda: ended(engine), 90)
    assert MARK not in logged_by(settings)
    assert "RuntimeError: can't tokenise" in logged_by(settings)


def test_real_models_and_run_log_no_prompt(
    settings: Settings, engine: Engine, tmp_path: Path, nightmill: Nightmill
) -> None:
    long = " ".join([MARK] * 120)
    rows = [*foxes(2), {"prompt": long}, {"prompt": f"{MARK} explicit nudity"}, {"prompt": MARK, "steps": 0}]
    nightmill.settings = settings.model_copy(update={"log_format": "json"})
    done = nightmill("run", manifest(tmp_path, rows), "--json", timeout=150)
    assert done.code in (0, 1), done.err
    assert len(look(engine, "SELECT 1 FROM images")) == 3
    assert len(look(engine, "SELECT 1 FROM rejects")) == 1
    logs = {path.name: path.read_text() for path in settings.logs_path.iterdir()}
    assert logs.keys() == {"scheduler.log", "worker-1.log"}
    for log in logs.values():
        assert MARK not in log
        assert all(json.loads(line)["message"] for line in log.splitlines())


def test_wrong_use_is_an_object_too(settings: Settings, tmp_path: Path) -> None:
    given = settings.model_copy(update={"log_format": "json", "metrics_address": "192.0.2.1:9464"})
    with running(given, "scheduler") as (process,):
        assert process.wait(150) == 2
    (line,) = [json.loads(line) for line in logged_by(given).splitlines()]
    assert line["level"] == "CRITICAL"
    assert line["message"].startswith("NIGHTMILL_METRICS_ADDRESS: can't listen on 192.0.2.1:9464")
