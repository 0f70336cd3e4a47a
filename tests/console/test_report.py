"""`nightmill report`, and `nightmill failures` of all batches: as text, Markdown and JSON."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.job_dataclasses import Failure
from jobs.queue import transitions
from jobs.queue.fair_share import SliceUse, end_time_slice, pick_lane
from jobs.settings import Settings
from jobs.states import ErrorKind
from tests.console.conftest import Typed
from tests.factories import lanes_of, make_batch, take


@pytest.fixture
def _night(engine: Engine) -> None:
    batch = make_batch(engine, [{"prompt": "fox", "tenant": "ada"}] * 3, name="foxes")
    picked = pick_lane(engine, slice_s=60)
    assert picked is not None
    jobs = [job for lane in lanes_of(engine, batch) for job in take(engine, lane)]
    transitions.fail(
        engine, [Failure(jobs[0].id, jobs[0].lease, ErrorKind.BAD_INPUT, "a|b <i>\n c")], delay_s=0
    )
    end_time_slice(engine, picked, "w1", "Xeon", SliceUse(3600, device_s=1800, joules=3.6e6, images=2))


@pytest.mark.usefixtures("_night")
def test_a_report_is_one_screen_of_tables(typed: Typed) -> None:
    done = typed("report")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].endswith(": 1 batch (1 running)")
    assert len(lines) < 20
    for cells in (
        ("running", "foxes", "ada"),
        ("bad-input", "failed", "foxes"),
        ("w1", "Xeon"),
        ("1h00m", "30m00s"),
    ):
        assert any(all(cell in line for cell in cells) for line in lines), cells


@pytest.mark.usefixtures("_night")
def test_markdown_keeps_its_columns_whatever_the_texts_are(typed: Typed) -> None:
    done = typed("report", "--format", "md", "--since", "1h")
    rows = [line for line in done.out.splitlines() if line.startswith("|")]
    (row,) = [line for line in rows if line.startswith("| bad-input")]
    assert "a\\|b &lt;i> c" in row
    assert [line for line in done.out.splitlines() if line.startswith("##")] == [
        "## Batches",
        "## Failures",
        "## Workers",
        "## Usage",
    ]


@pytest.mark.usefixtures("_night")
def test_a_tenant_that_is_not_known_is_told_and_one_format_is_chosen(typed: Typed, engine: Engine) -> None:
    for command in (("report",), ("failures",), ("status",), ("pause", "--dry-run")):
        done = typed(*command, "--tenant", "adda")
        assert (done.code, "no tenant is called 'adda': did you mean 'ada'?" in done.err) == (0, True), (
            command
        )
        assert "no tenant" not in typed(*command, "--tenant", "ada").err
    assert "say one of them" in typed("report", "--json", "--format", "md").err
    assert typed("report", "--json", "--format", "json").json["tenant"] is None
    make_batch(engine, [{"prompt": "owl", "tenant": "bob"}], name="owls")
    kinds = {name: typed("failures", "--tenant", name, "--json").json["kinds"] for name in ("ada", "bob")}
    assert ([kind["jobs"] for kind in kinds["ada"]], kinds["bob"]) == ([1], [])


@pytest.mark.usefixtures("_night")
def test_json_has_prices_and_one_tenant(settings: Settings, tmp_path: Path) -> None:
    typed = Typed(settings.model_copy(update={"hour_price": "Xeon=0.25"}), tmp_path)
    found = typed("report", "--json", "--tenant", "ada").json
    assert [(use["tenant"], use["cost"], use["joules"]) for use in found["usage"]] == [("ada", 0.25, 3.6e6)]
    assert typed("report", "--format", "json", "--tenant", "bob").json["usage"] == []


@pytest.mark.usefixtures("_night")
def test_failures_of_all_batches_since_a_moment(typed: Typed) -> None:
    done = typed("failures", "--since", "2h")
    assert "bad-input" in done.out
    assert "foxes, job 1, row 0, failed on w1: bad-input" in done.err
    found = typed("failures", "--json").json
    assert ([kind["jobs"] for kind in found["kinds"]], len(found["failures"])) == ([1], 1)
    assert typed("failures", "--error", "oom", "--json").json["kinds"] == []


@pytest.mark.parametrize(
    ("since", "reason"),
    [("yesterday", "is no moment"), ("2099-01-01 00:00 UTC", "lies in the future"), ("99999999d", "at most")],
)
def test_what_is_no_moment_of_the_past_is_refused(typed: Typed, since: str, reason: str) -> None:
    done = typed("report", "--since", since)
    assert (done.code, reason in done.err, "--since" in done.err) == (2, True, True), done.err


def test_an_installation_without_batches_has_a_report(typed: Typed) -> None:
    done = typed("report", "--since", "22:00 UTC")
    assert (done.code, ": 0 batches" in done.out) == (0, True)
