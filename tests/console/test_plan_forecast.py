"""`nightmill plan`: the options of `submit`, and whether the batch fits the night."""

import json
import time
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from console.manifests.matrix_speed_of_this_machine import image_time
from jobs.forecast.work_kinds_and_ranges import Range
from jobs.job_dataclasses import LaneId
from jobs.settings import Settings
from tests.console.conftest import Typed, write_lines
from tests.factories import change, look
from tests.jobs.forecast.made_up_measurements import add_quarters, start_workers

LATER = "2099-01-01 07:00 UTC"


@pytest.fixture
def _measured(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    """A worker, and a batch that has measured two seconds for an image."""
    write_lines(tmp_path / "before.jsonl", [{"prompt": "owl"}])
    write_lines(tmp_path / "m.jsonl", [{"prompt": f"fox {number}", "num_images": 36} for number in range(50)])
    assert typed("submit", "before.jsonl").code == 0
    change(engine, "UPDATE lanes SET chosen_at = now()")
    add_quarters(engine, LaneId(1), [2.0] * 4)
    change(engine, "UPDATE batches SET paused_at = now()")
    start_workers(engine, 1)


@pytest.mark.usefixtures("_measured")
def test_a_plan_says_when_the_batch_ends(typed: Typed, engine: Engine) -> None:
    given = [
        "m.jsonl",
        "--deadline",
        LATER,
        "--priority",
        "3",
        "--canary",
        "5",
        "--not-before",
        "2098-12-31 22:00 UTC",
    ]
    done = typed("plan", *given)
    assert (done.code, "warning" in done.err) == (0, False)
    for text in ("priority    3", "the first 5 rows", "8h00m to spare", "1 now", "about 1h00m of one worker"):
        assert text in done.out, text
    assert "H200, 400 images" in done.out
    found = typed("plan", *given, "--json").json
    assert found["estimated_seconds"] == 3600
    assert found["forecast"]["ends_at_latest"] == "2098-12-31T23:00:00+00:00"
    assert found["forecast"]["spare_s"] == 8 * 3600
    assert len(look(engine, "SELECT 1 FROM batches")) == 1


@pytest.mark.usefixtures("_measured")
def test_a_deadline_that_is_missed_is_a_warning_and_no_error(typed: Typed) -> None:
    given = ["m.jsonl", "--not-before", "2098-12-31 22:00 UTC", "--deadline", "2098-12-31 22:30 UTC"]
    done = typed("plan", *given)
    assert done.code == 0
    assert (
        "warning: the batch misses its deadline by 30m00s; 1 worker more would do, started now\n" in done.err
    )
    assert "misses its deadline by 30m00s; 1 worker more" in done.out
    assert typed("plan", *given, "--json").json["forecast"]["more_workers_needed"] == 1


@pytest.mark.usefixtures("_measured")
def test_what_does_not_fit_into_a_window_takes_two(typed: Typed) -> None:
    given = ["m.jsonl", "--not-before", "2098-12-31 22:00 UTC", "--window", "22:00-22:45 UTC"]
    assert "doesn't fit into one window: 2 of them" in typed("plan", *given).out


@pytest.mark.usefixtures("_measured")
def test_a_submitted_batch_is_not_ahead_of_itself(typed: Typed, engine: Engine) -> None:
    typed("submit", "m.jsonl")
    again = typed("plan", "m.jsonl", "--json")
    assert again.json["forecast"]["batches_ahead"] == []
    assert "this is batch m already" in again.err
    ahead = typed("plan", "m.jsonl", "--name", "again")
    assert "1,800 images of m" in ahead.out
    change(engine, "DELETE FROM workers")
    assert "none now: counted with one" in typed("plan", "m.jsonl").out


@pytest.mark.usefixtures("_measured")
def test_unmeasured_lanes_say_what_to_do(typed: Typed, tmp_path: Path) -> None:
    write_lines(tmp_path / "wide.jsonl", [{"prompt": "fox", "width": 128}])
    done = typed("plan", "wide.jsonl", "--deadline", LATER)
    assert "not estimated, as no worker has measured the lanes of 1 image" in done.out
    assert "--canary 20" in done.out
    assert "warning: whether the deadline is met can't be told\n" in done.err


def test_options_are_checked_as_submit_checks_them(typed: Typed, tmp_path: Path) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox"}])
    for given in (
        ["--window", "sometimes"],
        ["--deadline", "soon"],
        ["--priority", "2000"],
        ["--format", "odd"],
    ):
        planned, submitted = typed("plan", "m.jsonl", *given), typed("submit", "m.jsonl", *given)
        assert (planned.code, planned.err) == (submitted.code, submitted.err)
        assert planned.code == 2
    refused = typed("plan", "m.jsonl", "--onto", "foxes", "--priority", "1")
    assert (refused.code, "--priority: with --onto" in refused.err) == (2, True)


def test_this_machine_is_measured_once_and_kept(typed: Typed, tmp_path: Path) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox"}])
    (tmp_path / "data").mkdir()
    first, second = (typed("plan", "m.jsonl", "--json").json["forecast"]["lanes"] for _ in range(2))
    assert first == second
    assert [lane["source"] for lane in first] == ["this machine"]
    assert first[0]["image_s_high"] > first[0]["image_s_low"]
    assert datetime.fromtimestamp((tmp_path / "data" / "measured_speed.json").stat().st_mtime)


def test_a_speed_that_was_kept_is_used_for_days(settings: Settings) -> None:
    """Also one that another host's clock, or a rounded one, puts into the future."""
    settings.data_dir.mkdir()
    for age_s in (-2, 0, 6 * 86_400):
        kept = {"device": settings.device, "gflops": 8.0, "at": time.time() - age_s}
        (settings.data_dir / "measured_speed.json").write_text(json.dumps(kept))
        assert image_time(settings, 4.0) == Range(0.25, 1.0)


def test_a_database_that_is_away_leaves_the_rest_of_the_plan(typed: Typed, tmp_path: Path) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox"}])
    away = typed.settings.model_copy(update={"database_url": "postgresql://localhost:1/none"})
    done = Typed(away, tmp_path)("plan", "m.jsonl")
    assert done.code == 0, done.err
    assert "planned without what workers have measured" in done.err
    assert "not estimated" in done.out


@pytest.mark.usefixtures("_measured")
def test_a_plan_sees_the_limit_that_refuses_its_submit(typed: Typed) -> None:
    typed("tenants", "set", "ada", "--max-queued", "1799")
    planned = typed("plan", "m.jsonl", "--set", "tenant=ada")
    said = "a submit would be refused: tenant ada may have 1,799 open jobs and has 0, and this adds 1,800"
    assert (planned.code, said in planned.err) == (1, True), planned.err
    assert typed("submit", "m.jsonl", "--set", "tenant=ada").code == 1
    (exceeded,) = typed("plan", "m.jsonl", "--set", "tenant=ada", "--json").json["exceeded_limits"]
    assert exceeded == {"tenant": "ada", "max_queued": 1799, "open": 0, "jobs": 1800}
    typed("tenants", "set", "ada", "--max-queued", "1800")
    assert typed("plan", "m.jsonl", "--set", "tenant=ada").code == 0
    assert typed("submit", "m.jsonl", "--set", "tenant=ada").code == 0
    assert typed("plan", "m.jsonl", "--set", "tenant=ada").code == 0, "it is there, and adds nothing"
